"""Learners that move side by side on one GPU, each on a stream of its own; elsewhere one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache

import torch

Lane = Callable[[], AbstractContextManager[object]]
"""Called once for each learner: what is queued inside runs beside what is queued in the other lanes."""


@lru_cache(maxsize=64)
def _stream(device: torch.device, number: int) -> torch.cuda.Stream:
    """The same stream at every step: the allocator keeps a store of memory for each."""
    return torch.cuda.Stream(device)


@contextmanager
def side_by_side(device: torch.device, wanted: bool) -> Iterator[Lane]:
    """Every lane waits for all that was queued before, and what is queued afterwards waits for every lane.

    Lanes may read the same tensors but must write only their own; then the results are those of one lane after the
    other. Without a GPU, or if not `wanted`, they are just that.
    """
    if not wanted or device.type != "cuda":
        yield nullcontext
        return
    usual, lanes = torch.cuda.current_stream(device), []

    def lane() -> AbstractContextManager[object]:
        stream = _stream(device, len(lanes))
        stream.wait_stream(usual)
        lanes.append(stream)
        return torch.cuda.stream(stream)

    try:
        yield lane
    finally:
        for lane_stream in lanes:
            usual.wait_stream(lane_stream)
