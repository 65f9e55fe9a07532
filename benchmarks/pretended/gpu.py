"""The GPU itself: its tensors, what it refuses, what it counts."""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from torch.utils.flop_counter import flop_registry

from benchmarks.pretended.streams import Graph, Stream, tensors_in

_setup_privateuseone_for_python_backend("pretended")
CUDA, BENEATH = torch.device("cuda", 0), torch.device("pretended", 0)
"""What its tensors say, and what torch's C++ sees."""
_ROOT = Path(__file__).parents[2]
_OURS = tuple(str(_ROOT / part) for part in ("src", "benchmarks", "tests", "examples"))
_NOT_OURS = str(Path(__file__).parent)
aten = torch.ops.aten


class Illegal(RuntimeError):
    """What a GPU would refuse."""


def place(depth: int = 3) -> str:
    """The innermost lines of Poise that led here."""
    found: list[str] = []
    frame = sys._getframe(1)
    while frame is not None and len(found) < depth:
        name = frame.f_code.co_filename
        if name.startswith(_OURS) and not name.startswith(_NOT_OURS):
            found.append(f"{Path(name).relative_to(_ROOT).as_posix().removeprefix('src/poise/')}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(found) or "torch"


class OnGpu(Tensor):
    """A tensor on the pretended GPU; `raw` holds its numbers."""

    raw: Tensor
    token: object
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @staticmethod
    def __new__(cls, raw: Tensor, requires_grad: bool = False) -> OnGpu:
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            raw.size(),
            raw.stride(),
            raw.storage_offset(),
            dtype=raw.dtype,
            device=BENEATH,
            requires_grad=requires_grad,
        )

    def __init__(self, raw: Tensor, requires_grad: bool = False) -> None:
        self.raw, self.token = raw, Gpu.now().held(raw)

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Gpu.now().run(function, args, kwargs or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            with torch.no_grad():
                made = OnGpu(self.raw.clone(memory_format=torch.preserve_format), self.requires_grad)
            if isinstance(self, torch.nn.Parameter):
                made._is_param = True  # type: ignore[attr-defined]
            if self.grad is not None:
                made.grad = self.grad.__deepcopy__(memo)
            memo[id(self)] = made
        return memo[id(self)]

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]

    def get_device(self) -> int:
        return 0

    def untyped_storage(self) -> Any:
        return self.raw.untyped_storage()

    def data_ptr(self) -> int:
        return self.raw.data_ptr()

    def tolist(self) -> Any:
        Gpu.now().wait("tolist")
        return self.raw.detach().tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory"
            " first."
        )

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def new_tensor(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
    ) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or self.device, requires_grad=requires_grad)

    def __repr__(self, **_: Any) -> str:
        return f"OnGpu({self.raw!r})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else object.__format__(self, spec)


@dataclass
class Tally:
    """What was asked of the GPU: kernels (views are none), their FLOP and the bytes that they read and write; launches
    by the host.
    """

    kernels: int = 0
    flop: int = 0
    bytes: int = 0
    launches: int = 0

    def __sub__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) - getattr(other, name) for name in vars(self)))

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) + getattr(other, name) for name in vars(self)))


_WAITING = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default,
    aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default, aten.repeat_interleave.Tensor,
    aten.is_nonzero.default, aten.bincount.default,
}  # fmt: skip
_INDEXING = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_", "_unsafe_index_put"}
_MIXING = {  # operations in which a number of the host without axes may stand beside the GPU's tensors
    "add", "sub", "mul", "div", "pow", "maximum", "minimum", "eq", "ne", "lt", "le", "gt", "ge", "where", "clamp",
    "clamp_min", "clamp_max", "fill", "masked_fill", "copy", "lerp", "addcmul", "addcdiv", "bitwise_and",
    "bitwise_or", "remainder", "fmod", "atan2", "logical_and", "logical_or", "logaddexp", "rsub", "floor_divide",
    "xlogy", "true_divide", "hypot", "_foreach_mul", "_foreach_add", "_foreach_div",
}  # fmt: skip
_VIEWS = {
    "detach", "alias", "view", "_unsafe_view", "_reshape_alias", "expand", "permute", "transpose", "t", "slice",
    "select", "unsqueeze", "squeeze", "as_strided", "unbind", "split", "split_with_sizes", "unfold", "diagonal",
    "narrow", "chunk",
}  # fmt: skip


@dataclass
class Gpu:
    """What happened on a pretended GPU. waits, faults and host: by what and where."""

    waits: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    host: Counter[str] = field(default_factory=Counter)
    """Tensors that were made on the host."""
    sent: int = 0
    """Bytes from the host."""
    tally: Tally = field(default_factory=Tally)
    graphs: list[Graph] = field(default_factory=list)
    replays: int = 0
    stream: Stream = field(default_factory=Stream)
    capture: Graph | None = None
    _tokens: dict[int, weakref.ref[object]] = field(default_factory=dict)
    _pinned: dict[int, object] = field(default_factory=dict)
    _under_way: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    _arrived: int = 0
    wrote: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By memory: the stream that wrote it last, and its time then."""
    read: dict[int, dict[int, int]] = field(default_factory=dict)

    @staticmethod
    def now() -> Gpu:
        return _GPUS[-1]

    # memory
    def held(self, raw: Tensor) -> object:
        """What lives as long as somebody holds this memory."""
        key = memory(raw)
        token = self._tokens[key]() if key in self._tokens else None
        if token is None:
            token = _Token()
            self._tokens[key] = weakref.ref(token)
            self.wrote.pop(key, None)
            self.read.pop(key, None)
            weakref.finalize(token, self._freed, key, self.stream)
        return token

    def _freed(self, key: int, born: Stream) -> None:
        for number, time in self.read.pop(key, {}).items():
            if number != born.number and born.clock[number] < time and self.stream.number == born.number:
                self.faults[f"memory of stream {born.number} freed while stream {number} may still read it"] += 1
        self.wrote.pop(key, None)

    def pin(self, raw: Tensor) -> Tensor:
        """The host's tensor as pinned memory."""
        self._pinned[memory(raw)] = raw.untyped_storage()
        return raw

    # waits
    def wait(self, what: str, until: int | None = None) -> None:
        """The host waits, for all or for the first `until` copies to it."""
        if self.capture is not None:
            raise Illegal(f"operation not permitted when stream is capturing: {what} at {place()}")
        self.waits[f"{what} @ {place()}"] += 1
        self.arrive(until)

    def arrive(self, until: int | None = None) -> None:
        count = len(self._under_way) if until is None else max(0, until - self._arrived)
        for to, numbers in self._under_way[:count]:
            to.copy_(numbers)
        del self._under_way[:count]
        self._arrived += count

    @property
    def copies(self) -> int:
        """To the host so far, arrived or not."""
        return self._arrived + len(self._under_way)

    def _to_host(self, to: Tensor, raw: Tensor) -> Tensor:
        """Nobody may look at what has not been waited for."""
        self._under_way.append((to, raw.clone()))
        with torch.no_grad():
            to.view(torch.uint8).fill_(0x5A) if to.is_contiguous() and to.dim() else to.zero_()
        return to

    # one operation
    def run(self, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        name = function._schema.name.partition("::")[2]
        tensors = tensors_in((args, kwargs))
        ours = [tensor for tensor in tensors if isinstance(tensor, OnGpu)]
        away = [tensor for tensor in tensors if not isinstance(tensor, OnGpu)]
        target = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        here = target is not None and target.type in ("cuda", BENEATH.type)
        if here:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        pinned = kwargs.pop("pin_memory", None)
        if not ours and not here:
            made = function(*args, **kwargs)
            if not tensors and isinstance(made, Tensor):
                self.host[f"{name} @ {place()}"] += 1
            return self.pin(made) if pinned else made
        self._check(function, name, args, kwargs, ours, away, target)
        raw_args, raw_kwargs = mapped((args, kwargs), lambda tensor: getattr(tensor, "raw", tensor))
        if name == "copy_" and not ours_first(args):
            return self._to_host(args[0], raw_args[1]) if _unblocked(args, kwargs) else args[0].copy_(raw_args[1])
        operation = _gradients_in_usual_order if function is aten.convolution_backward.default else function
        out = operation(*raw_args, **raw_kwargs)
        if name in ("_local_scalar_dense", "equal", "is_nonzero"):
            return out
        if name == "_to_copy" and target is not None and target.type == "cpu":
            return self._to_host(out, out) if kwargs.get("non_blocking") else out
        self._count(function, name, raw_args, raw_kwargs, out)
        if self.capture is not None and name not in ("detach", "alias"):
            self._record(operation, raw_args, raw_kwargs, out)
        known = {id(tensor.raw): tensor for tensor in ours}
        made = mapped(out, lambda raw: self._wrapped(raw, known, function))
        self._order(ours, out)
        return made

    def _wrapped(self, raw: Tensor, known: dict[int, OnGpu], function: Any) -> OnGpu:
        if id(raw) not in known:
            return OnGpu(raw)
        same = known[id(raw)]
        if same.shape != raw.shape or (same.stride() != raw.stride() and raw.numel()):
            raise NotImplementedError(f"{function} changed the shape of its argument in place")
        return same

    def _count(self, function: Any, name: str, args: Any, kwargs: Any, out: Any) -> None:
        if name.rstrip("_") in _VIEWS:
            return
        tally = Tally(1, 0, sum(tensor.nbytes for tensor in tensors_in((args, kwargs, out))))
        if function._overloadpacket in flop_registry:
            tally.flop = int(flop_registry[function._overloadpacket](*args, **kwargs, out_val=out))
        if self.capture is not None:
            self.capture.tally += tally
        else:
            self.tally += tally + Tally(launches=1)

    def _record(self, function: Any, args: Any, kwargs: Any, out: Any) -> None:
        assert self.capture is not None
        outs, given = tensors_in(out), tensors_in((args, kwargs))
        for tensor in given:
            key = memory(tensor)
            if (
                key in self._tokens
                and tensor.numel()
                and key not in self.capture.inside
                and key not in self.capture.external
            ):
                self.capture.external[key] = self._tokens[key], place()
        known = {memory(tensor) for tensor in given}
        self.capture.operations.append((function, args, kwargs, outs))
        self.capture.inside.update(memory(tensor) for tensor in outs if memory(tensor) not in known)

    def _order(self, ours: list[OnGpu], out: Any) -> None:
        """Whether this stream has waited for those that wrote what it reads, or read what it writes."""
        now, outs = self.stream, tensors_in(out)
        now.clock[now.number] += 1
        changed = {id(tensor.raw) for tensor in ours} & {id(tensor) for tensor in outs}
        known = {memory(tensor.raw) for tensor in ours}
        for key in known:
            number, time = self.wrote.get(key, (now.number, 0))
            if number != now.number and now.clock[number] < time:
                self.faults[f"stream {now.number} reads at {place()} what stream {number} wrote without waiting"] += 1
            self.read.setdefault(key, {})[now.number] = now.clock[now.number]
        for tensor in outs:
            key = memory(tensor)
            if id(tensor) in changed or key not in known:
                for number, time in self.read.get(key, {}).items():
                    if number != now.number and now.clock[number] < time:
                        self.faults[f"stream {now.number} writes at {place()} what stream {number} may still read"] += 1
                self.wrote[key] = (now.number, now.clock[now.number])

    # what a GPU refuses or waits for
    def _check(
        self, function: Any, name: str, args: Any, kwargs: Any, ours: list[OnGpu], away: list[Tensor], target: Any
    ) -> None:
        if name in ("_to_copy", "copy_"):
            self._check_copy(name, args, kwargs, ours, away, target)
        elif name in _INDEXING:
            self._check_index(name, args)
        else:
            if function in _WAITING:
                self.wait(name.lstrip("_"))
            if name == "where" and away and ours:
                self.wait("where with a number of the host")
            if name.rstrip("_") == "masked_fill" and isinstance(args[2], OnGpu):
                self.wait("masked_fill by a number of the GPU")
            if ours and any(tensor.dim() for tensor in away):
                raise Illegal(
                    f"all tensors must be on the same device, but {name} at {place()} was given some of cuda:0 and"
                    " of cpu"
                )
            if ours and away and name.rstrip("_") not in _MIXING:
                raise Illegal(f"{name} at {place()} was given a number of the host as a tensor")

    def _check_copy(
        self, name: str, args: Any, kwargs: Any, ours: list[OnGpu], away: list[Tensor], target: Any
    ) -> None:
        source = args[0] if name == "_to_copy" else args[1]
        onto_host = (
            (target is not None and target.type == "cpu") if name == "_to_copy" else not isinstance(args[0], OnGpu)
        )
        if isinstance(source, OnGpu) and onto_host:
            pinned = name == "_to_copy" or memory(args[0]) in self._pinned
            if not (_unblocked(args, kwargs) and pinned):
                self.wait("copy to the host")
        elif not isinstance(source, OnGpu) and (name == "_to_copy" or isinstance(args[0], OnGpu)):
            self.sent += source.nbytes
            if not (_unblocked(args, kwargs) and memory(source) in self._pinned):
                self.wait("copy to the GPU")

    def _check_index(self, name: str, args: Any) -> None:
        indices = [index for index in args[1] if index is not None]
        on = isinstance(args[0], OnGpu)
        for index in indices:
            if isinstance(index, OnGpu) and not on:
                raise Illegal(f"indices should be on the cpu, where the indexed tensor is, at {place()}")
            if index.dtype in (torch.bool, torch.uint8):
                self.wait("index by a mask")
            elif on and not isinstance(index, OnGpu):
                self.wait("index of the host")
        if on and name.startswith(("index_put", "_index_put")) and not isinstance(args[2], OnGpu):
            if args[2].dim():
                raise Illegal(f"{name} of the host's values at {place()}")
            self.wait("index_put of a number")


_GPUS: list[Gpu] = []


class _Token:
    __slots__ = ("__weakref__",)


class Mode(TorchDispatchMode):
    """Sends every operation to the GPU."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Gpu.now().run(function, args, kwargs or {})


@contextmanager
def switched_on() -> Iterator[Gpu]:
    """A new GPU, to which all operations go."""
    gpu = Gpu()
    _GPUS.append(gpu)
    try:
        with Mode():
            yield gpu
    finally:
        _GPUS.pop()


def mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """The arguments or the result of an operation with its tensors changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)(mapped(part, change) for part in value)
    return {name: mapped(part, change) for name, part in value.items()} if isinstance(value, dict) else value


def memory(raw: Tensor) -> int:
    """What tensors have in common that share memory."""
    return raw.untyped_storage()._cdata


def _gradients_in_usual_order(*args: Any) -> Any:
    """Of a convolution: on CPUs those of channels last are not always right (see `gradients_in_any_layout` in
    poise.models.folding).
    """
    return aten.convolution_backward.default(
        *mapped(args, lambda raw: raw.clone(memory_format=torch.contiguous_format))
    )


def ours_first(args: Any) -> bool:
    return isinstance(args[0], OnGpu)


def _unblocked(args: Any, kwargs: dict[str, Any]) -> bool:
    return bool(kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
