"""Which images a learner sees, in which order and how changed, as a function of the step alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from poise.core import seeds
from poise.core.batches import Batch, Now
from poise.core.errors import InputError, SettingsError
from poise.core.seeds import Draw, key_of
from poise.core.settings import PositiveCount, Settings, settings, tag_of
from poise.core.transfers import sent
from poise.data.augment import Augmentation
from poise.data.dataset import Data, Split
from poise.data.extra import Extra, OpenedPool, Pool


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
    extra: Extra | None = None
    """Images of a pool in every batch, in random places; an epoch then shows only part of the labelled images, in a new order each time."""

    def __post_init__(self) -> None:
        if self.extra is not None and self.labelled == self.batch_size:
            wanted = f"at least one of batch_size = {self.batch_size} images"
            raise SettingsError(f"Extra.share = {self.extra.share}: must leave room for {wanted} from the pool")

    @property
    def labelled(self) -> int:
        """Labelled images per step."""
        return self.batch_size - (round(self.extra.share * self.batch_size) if self.extra is not None else 0)


class Feed:
    """The batches of one stream over one split. It has no position: `batch(now)` depends on its arguments only.

    An epoch of the stream is one pass over its own split, so that streams of different length or batch size can run side by side;
    where `now` was made from `steps_per_epoch` of this feed, the two mean the same epochs. With extra images an epoch has as many
    steps as without, and the pool fills every batch.
    The images lie on `device` as uint8 and leave it in [0, 1] as `dtype`; a pool too large for the device stays where it is.
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
        pool: Split | None = None,
    ) -> None:
        if not 0 <= rank < world:
            raise InputError(f"rank = {rank} must be from 0 to world - 1 = {world - 1}")
        size = stream.batch_size
        if not len(split) or (stream.drop_last and len(split) < size):
            raise InputError(f"batch_size = {size} with drop_last={stream.drop_last} leaves no batch of {len(split)} images")
        self.stream, self.seed, self.dtype, self.rank, self.world = stream, seed, dtype, rank, world
        self.split = split.to(device)
        self.device = self.split.images.device
        own = stream.extra is not None and stream.extra.pool is None
        self.pool = self.split if own else None if pool is None else _near(pool, self.device)
        self.steps_per_epoch = len(split) // size if stream.drop_last else math.ceil(len(split) / size)
        self._epoch, self._order = 0, torch.arange(len(split), device=self.device)

    @property
    def smallest(self) -> int:
        """Images of the smallest batch, over all ranks."""
        left = len(self.split) % self.stream.batch_size
        return left if left and not self.stream.drop_last and self.stream.extra is None else self.stream.batch_size

    def batch(self, now: Now) -> Batch:
        """This rank's part of the step's batch: a contiguous piece, empty where there are fewer images than ranks.

        Raises: InputError where the stream has extra images but the feed was given no pool.
        """
        epoch, at = divmod(now.step, self.steps_per_epoch)
        start = at * self.stream.labelled
        count = min(self.stream.labelled, len(self.split) - start)
        total = count if self.stream.extra is None else self.stream.batch_size
        low, high = self.rank * total // self.world, (self.rank + 1) * total // self.world
        places = torch.arange(low, high, device=self.device)
        if self.stream.extra is None:
            rows = self._rows(epoch + 1)[start + low : start + high]
            x, y, ids = self.split.pixels(rows, self.dtype), self.split.labels[rows], self.split.ids[rows]
            extra = torch.zeros(high - low, dtype=torch.bool, device=self.device)
        else:
            x, y, ids, extra = self._mixed(self._rows(epoch + 1)[start : start + count], now.step, slice(low, high))
        augmentation = self.stream.augmentation
        if augmentation is not None:
            key = key_of(self.seed, "augment", self.stream.order, tag_of(augmentation), now.step)
            x = augmentation(x, Draw(key, places))
        return Batch(x=x, y=y, ids=ids, places=places, total=total, extra=extra)

    def _mixed(self, labelled: Tensor, step: int, part: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(x, y, ids, extra) of a part of the batch that holds the rows `labelled` and images of the pool, in random order.

        Which places are whose is decided on the CPU, so that no device is waited for; one copy takes them there.
        """
        if self.pool is None:
            raise InputError("the stream has extra images, but its feed was given no pool; open it with open_pools")
        order = seeds.permutation(self.stream.batch_size, self.seed, "mix", self.stream.order, step)[part]
        own, others = (order < len(labelled)).nonzero()[:, 0], (order >= len(labelled)).nonzero()[:, 0]
        drawn = Draw(key_of(self.seed, "extra", self.stream.order, step), order[others]).integers(len(self.pool))
        sizes = [len(own), len(own), len(others), len(others)]
        rows, own, chosen, others = sent(torch.cat([order[own], own, drawn, others]), self.device).split(sizes)
        shown = [self.split.subset(labelled[rows]), self._of_pool(self.pool, drawn, chosen)]
        places = torch.cat([own, others])
        x = torch.empty(len(order), *self.split.images.shape[1:], dtype=self.dtype, device=self.device)
        y, ids = (torch.empty(len(order), dtype=torch.int64, device=self.device) for _ in range(2))
        x[places] = torch.cat([source.pixels(dtype=self.dtype) for source in shown])
        y[places], ids[places] = torch.cat([source.labels for source in shown]), torch.cat([source.ids for source in shown])
        extra = torch.zeros(len(order), dtype=torch.bool, device=self.device).index_fill_(0, others, True)
        return x, y, ids, extra

    def _of_pool(self, pool: Split, drawn: Tensor, chosen: Tensor) -> Split:
        """The rows of the pool, known on the host as `drawn` and on the device as `chosen`, on the device."""
        if pool.images.device == self.device:
            return pool.subset(chosen)
        far = pool.subset(drawn)
        return Split(*(sent(column, self.device) for column in (far.images, far.labels, far.ids)))

    def _rows(self, epoch: int) -> torch.Tensor:
        """The epoch's order; only the last one asked for is kept."""
        if self.stream.shuffle and epoch != self._epoch:
            order = seeds.permutation(len(self.split), self.seed, "order", self.stream.order, epoch, device=self.device)
            self._epoch, self._order = epoch, order
        return self._order


def open_pools(streams: Mapping[str, Stream], data: Data, data_dir: Path | str | None = None) -> dict[str, OpenedPool]:
    """The pool of each stream that has one, opened once each. Raises: DataError, StorageError (see `Pool.open`)."""
    asked = {name: stream.extra.pool for name, stream in streams.items() if stream.extra is not None}
    wanted = {name: pool for name, pool in asked.items() if pool is not None}
    opened: dict[Pool, OpenedPool] = {}
    for pool in wanted.values():
        if pool not in opened:
            opened[pool] = pool.open(data, data_dir)
    return {name: opened[pool] for name, pool in wanted.items()}


def _near(pool: Split, device: torch.device) -> Split:
    """The pool on the device where it takes at most a quarter of the memory free there, else where it is."""
    if device.type != "cuda" or pool.images.nbytes > torch.cuda.mem_get_info(device)[0] // 4:
        return pool
    return pool.to(device)
