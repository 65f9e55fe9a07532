"""Which images a learner sees, in which order and how changed, as a function of the step alone."""

from __future__ import annotations

import math

import torch

from poise.core import seeds
from poise.core.batches import Batch, Now
from poise.core.errors import InputError
from poise.core.seeds import Draw, key_of
from poise.core.settings import PositiveCount, Settings, settings
from poise.data.augment import Augmentation
from poise.data.dataset import Split


@settings
class Stream(Settings):
    """How a learner goes through its training images."""

    batch_size: PositiveCount = 128
    """Images per step, over all ranks."""
    shuffle: bool = True
    """A new order every epoch; otherwise the split's own."""
    augmentation: Augmentation | None = None
    order: str = "shared"
    """Streams with the same word visit the same images; with another word they shuffle and augment independently."""
    drop_last: bool = False
    """Leave out an epoch's last batch where it is not full."""


class Feed:
    """The batches of one stream over one split. It has no position: `batch(now)` depends on its arguments only.

    An epoch of the stream is one pass over its own split, so that streams of different length or batch size can run side by side;
    where `now` was made from `steps_per_epoch` of this feed, the two mean the same epochs.
    The images lie on `device` as uint8 and leave it in [0, 1] as `dtype`.
    """

    def __init__(
        self,
        stream: Stream,
        split: Split,
        seed: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not 0 <= rank < world:
            raise InputError(f"rank = {rank} must be from 0 to world - 1 = {world - 1}")
        size = stream.batch_size
        if not len(split) or (stream.drop_last and len(split) < size):
            raise InputError(f"batch_size = {size} with drop_last={stream.drop_last} leaves no batch of {len(split)} images")
        self.stream, self.seed, self.dtype, self.rank, self.world = stream, seed, dtype, rank, world
        self.split = split.to(device)
        self.device = self.split.images.device
        self.steps_per_epoch = len(split) // size if stream.drop_last else math.ceil(len(split) / size)
        self._epoch, self._order = 0, torch.arange(len(split), device=self.device)

    def batch(self, now: Now) -> Batch:
        """This rank's part of the step's batch: a contiguous piece, empty where there are fewer images than ranks."""
        epoch, at = divmod(now.step, self.steps_per_epoch)
        start = at * self.stream.batch_size
        total = min(self.stream.batch_size, len(self.split) - start)
        low, high = self.rank * total // self.world, (self.rank + 1) * total // self.world
        rows = self._rows(epoch + 1)[start + low : start + high]
        places = torch.arange(low, high, device=self.device)
        x = self.split.pixels(rows, self.dtype)
        augmentation = self.stream.augmentation
        if augmentation is not None:
            key = key_of(self.seed, "augment", self.stream.order, type(augmentation).__name__, now.step)
            x = augmentation(x, Draw(key, places))
        extra = torch.zeros(high - low, dtype=torch.bool, device=self.device)
        return Batch(x=x, y=self.split.labels[rows], ids=self.split.ids[rows], places=places, total=total, extra=extra)

    def _rows(self, epoch: int) -> torch.Tensor:
        """The epoch's order; only the last one asked for is kept."""
        if self.stream.shuffle and epoch != self._epoch:
            order = seeds.permutation(len(self.split), self.seed, "order", self.stream.order, epoch, device=self.device)
            self._epoch, self._order = epoch, order
        return self._order
