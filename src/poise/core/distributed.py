"""The processes that train together. Alone, every collective does nothing, so there is one code path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """`size` ranks, of which this process is number `rank`; `group` is a torch.distributed process group."""

    rank: int = 0
    size: int = 1
    group: Any = None

    @property
    def leads(self) -> bool:
        """Whether this rank writes files and speaks."""
        return self.rank == 0

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over the ranks, in place: one collective for all tensors of a dtype."""
        if self.size == 1 or not tensors:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            alike = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in alike])
            dist.all_reduce(flat, group=self.group)
            for tensor, part in zip(alike, flat.split([tensor.numel() for tensor in alike]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def share(self, count: int) -> slice:
        """The contiguous part of `count` examples that this rank holds; parts differ by at most one."""
        small, larger = divmod(count, self.size)
        start = self.rank * small + min(self.rank, larger)
        return slice(start, start + small + (self.rank < larger))


ALONE = World()
