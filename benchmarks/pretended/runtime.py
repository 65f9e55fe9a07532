"""torch.cuda as it is where there is a GPU, over the pretended one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch

from benchmarks.pretended.gpu import BENEATH, Gpu, switched_on
from benchmarks.pretended.streams import Event, Graph, Stream

_TENSOR, _TO, _EMPTY = torch.tensor, torch.Tensor.to, torch.empty
_MEMORY = 100 << 30


@contextmanager
def pretended_gpu() -> Iterator[Gpu]:
    """The pretended GPU as torch's only one; outside of it there is none, as before."""
    with ExitStack() as stack:
        gpu = stack.enter_context(switched_on())
        for name, value in {**_facts(gpu), **_running(gpu)}.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value, create=True))
        for target, name, value in _made(gpu):
            stack.enter_context(mock.patch.object(target, name, value))
        overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
        # a parameter's data cannot become another class
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
        yield gpu


def _facts(gpu: Gpu) -> dict[str, Any]:
    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        # as on a T4: autocast, which is C++'s, is not pretended
        "is_bf16_supported": lambda including_emulation=True: including_emulation,
        "get_device_name": lambda *_: "Pretended GPU",
        "get_device_capability": lambda *_: (7, 5),
        "mem_get_info": lambda *_: (_MEMORY, _MEMORY),
        "memory_reserved": lambda *_: 0,
        "memory_allocated": lambda *_: 0,
        "max_memory_allocated": lambda *_: 1,
        "memory_snapshot": list,
        "reset_peak_memory_stats": lambda *_: None,
        "empty_cache": lambda: None,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda *_: None,
        "manual_seed": lambda *_: None,
        "manual_seed_all": lambda *_: None,
        "is_current_stream_capturing": lambda: gpu.capture is not None,
    }


def _running(gpu: Gpu) -> dict[str, Any]:
    usual = gpu.stream

    @contextmanager
    def on(stream: Stream) -> Iterator[Stream]:
        before, gpu.stream = gpu.stream, stream
        try:
            yield stream
        finally:
            gpu.stream = before

    @contextmanager
    def capturing(
        graph: Graph, pool: Any = None, stream: Stream | None = None, capture_error_mode: str = "global"
    ) -> Iterator[None]:
        gpu.wait("the beginning of a capture")
        before, aside = gpu.stream, stream or Stream()
        aside.wait_stream(before)
        gpu.capture = graph
        try:
            with on(aside):
                yield
        finally:
            gpu.capture = None
        before.wait_stream(aside)
        gpu.graphs.append(graph)

    @contextmanager
    def same(*_: Any) -> Iterator[None]:
        yield

    return {
        "synchronize": lambda *_: gpu.wait("torch.cuda.synchronize"),
        "current_stream": lambda *_: gpu.stream,
        "default_stream": lambda *_: usual,
        "Stream": Stream,
        "Event": Event,
        "CUDAGraph": Graph,
        "stream": on,
        "graph": capturing,
        "device": same,
    }


def _made(gpu: Gpu) -> list[tuple[Any, str, Any]]:
    """What C++ would ask a driver for before anything of ours is asked."""

    def beneath(value: Any) -> Any:
        named = torch.device(value) if isinstance(value, str) else value
        return BENEATH if isinstance(named, torch.device) and named.type == "cuda" else value

    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return _TO(self, *map(beneath, args), **{name: beneath(value) for name, value in kwargs.items()})

    def tensor(
        data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, pin_memory: bool = False
    ) -> torch.Tensor:
        made = _TENSOR(data, dtype=dtype)
        return (made if device is None else made.to(device)).requires_grad_(requires_grad)

    def empty(*size: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        made = _EMPTY(*size, **kwargs)
        return gpu.pin(made) if pin_memory else made

    return [
        (torch.Tensor, "to", to),
        (torch.Tensor, "pin_memory", lambda self: gpu.pin(self.clone())),
        (torch, "tensor", tensor),
        (torch, "empty", empty),
        (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
    ]
