"""Streams, events and graphs of the pretended GPU."""

from __future__ import annotations

import itertools
import weakref
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

_NUMBERS = itertools.count(1)


class Stream:
    """clock: of each stream, how many of its operations this one knows to be done."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.number, self.clock, self.device = next(_NUMBERS), Counter[int](), torch.device("cuda", 0)

    def wait_stream(self, other: Stream) -> None:
        self.clock |= other.clock

    def wait_event(self, event: Event) -> None:
        self.clock |= event.clock

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        _gpu().wait("stream.synchronize")


class Event:
    def __init__(self, *_: Any, **__: Any) -> None:
        self.clock, self.copies = Counter[int](), 0

    def record(self, stream: Stream | None = None) -> None:
        self.clock, self.copies = Counter((stream or _gpu().stream).clock), _gpu().copies

    def synchronize(self) -> None:
        _gpu().wait("event.synchronize", self.copies)

    def wait(self, stream: Stream | None = None) -> None:
        (stream or _gpu().stream).wait_event(self)

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Event) -> float:
        return 1.0


class Graph:
    """The operations of a capture, repeated on the same memory."""

    def __init__(self, *_: Any, **__: Any) -> None:
        from benchmarks.pretended.gpu import Tally

        self.operations: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []
        self.inside: set[int] = set()
        self.tally = Tally()
        self.external: dict[int, tuple[weakref.ref[object], str]] = {}
        """Memory of others' that it reads: what lives as long as they hold it, and where it was read first."""

    def replay(self) -> None:
        from benchmarks.pretended.gpu import Tally

        gpu = _gpu()
        gpu.replays += 1
        gpu.tally += self.tally + Tally(launches=1)
        for token, where in self.external.values():
            if token() is None:
                gpu.faults[f"a graph reads memory that nobody holds any more, as it did first at {where}"] += 1
        with torch.no_grad(), _disable_current_modes():
            for function, args, kwargs, outs in self.operations:
                self._repeat(function, args, kwargs, outs)
        self._order(gpu)

    def _repeat(self, function: Any, args: Any, kwargs: Any, outs: list[torch.Tensor]) -> None:
        given = {tensor.untyped_storage()._cdata for tensor in tensors_in((args, kwargs))}
        fresh = tensors_in(function(*args, **kwargs))
        for old, new in zip(outs, fresh, strict=True):
            if new is not old and old.untyped_storage()._cdata not in given:
                old.copy_(new)

    def _order(self, gpu: Any) -> None:
        now = gpu.stream
        now.clock[now.number] += 1
        for key in self.external:
            number, time = gpu.wrote.get(key, (now.number, 0))
            if number != now.number and now.clock[number] < time:
                gpu.faults[f"a graph on stream {now.number} reads what stream {number} wrote without waiting"] += 1
            gpu.read.setdefault(key, {})[now.number] = now.clock[now.number]
        for key in self.inside:
            gpu.wrote[key] = (now.number, now.clock[now.number])

    def reset(self) -> None:
        self.operations = []

    def pool(self) -> tuple[int, int]:
        return (0, 0)


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Among the arguments or the results of an operation."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def _gpu() -> Any:
    from benchmarks.pretended.gpu import Gpu

    return Gpu.now()
