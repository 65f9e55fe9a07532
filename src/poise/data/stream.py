"""Which images a learner sees, in which order and how changed, as a function of the step alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from poise.core import seeds
from poise.core.batches import Batch, Now
from poise.core.errors import InputError, SettingsError
from poise.core.seeds import Draw, key_of
from poise.core.settings import PositiveCount, Settings, newer, settings, tag_of
from poise.core.transfers import sent
from poise.data.ahead import Ahead, Job
from poise.data.augment import Augmentation
from poise.data.dataset import Data
from poise.data.extra import Extra, OpenedPool, Pool
from poise.data.mixing import Mixing, soft
from poise.data.split import Split, in_unit_interval


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
    """Images of a pool in every batch, in random places; an epoch then shows only part of the labelled images, in a new
    order each time.
    """

    mixing: Mixing | None = newer(default=None)
    """Mix the images of a batch with each other, after their augmentation."""
    located: bool = newer(default=False)
    """Say where in its image each pixel shown lies (`Batch.origin`)."""

    def __post_init__(self) -> None:
        if self.extra is not None and self.mixing is not None:
            raise SettingsError(
                "Stream.mixing: images of a pool are not mixed with others; set mixing or extra to none"
            )
        if self.extra is not None and self.labelled == self.batch_size:
            need = f"at least one of batch_size = {self.batch_size} images"
            raise SettingsError(f"Extra.share = {self.extra.share}: must leave room for {need} from the pool")
        if self.extra is not None and self.augmentation is not None and self.augmentation.crops:
            raise SettingsError(
                "Stream.augmentation: a random crop is made of whole images, which a pool does not have; set extra to"
                " none"
            )

    @property
    def labelled(self) -> int:
        """Labelled images per step."""
        return self.batch_size - (round(self.extra.share * self.batch_size) if self.extra is not None else 0)


class Feed:
    """The batches of one stream over one split. It has no position: `batch(now)` depends on its arguments only.

    An epoch of the stream is one pass over its own split, so that streams of different length or batch size can run
    side by side; where `now` was made from `steps_per_epoch` of this feed, the two mean the same epochs. With extra
    images an epoch has as many steps as without, and the pool fills every batch.
    The images lie on `device` as uint8 and leave it in [0, 1] as `dtype`; a pool too large for the device stays where
    it is.
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
        classes: int | None = None,
    ) -> None:
        if not 0 <= rank < world:
            raise InputError(f"rank = {rank} must be from 0 to world - 1 = {world - 1}")
        size = stream.batch_size
        if not len(split) or (stream.drop_last and len(split) < size):
            raise InputError(
                f"batch_size = {size} with drop_last={stream.drop_last} leaves no batch of {len(split)} images"
            )
        if stream.mixing is not None and classes is None:
            raise InputError(
                "a stream that mixes images makes labels of several classes, so its feed must know how many classes"
                " there are"
            )
        self.stream, self.seed, self.dtype, self.rank, self.world = stream, seed, dtype, rank, world
        self.classes = classes or 0
        crops = stream.augmentation is not None and stream.augmentation.crops
        self.split = (split.undecoded() if crops else split).to(device)
        self.device = self.split.labels.device
        extra_from_split = stream.extra is not None and stream.extra.pool is None
        self.pool = self.split if extra_from_split else None if pool is None else _near(pool, self.device)
        self.steps_per_epoch = len(split) // size if stream.drop_last else math.ceil(len(split) / size)
        ahead = stream.extra is None and (crops or self.split.resident is None)
        self._ahead = Ahead(self.split, self._job, pin=self.device.type == "cuda") if ahead else None
        self._epoch, self._order = 0, torch.arange(len(split), device="cpu" if ahead else self.device)

    @property
    def smallest(self) -> int:
        """Images of the smallest batch, over all ranks."""
        rest = len(self.split) % self.stream.batch_size
        return rest if rest and not self.stream.drop_last and self.stream.extra is None else self.stream.batch_size

    def batch(self, now: Now) -> Batch:
        """This rank's part of the step's batch: a contiguous piece, empty where there are fewer images than ranks.

        Raises: InputError where the stream has extra images but the feed was given no pool.
        """
        first, low, high, total = self._part(now.step)
        if self.stream.extra is not None:
            places = torch.arange(low, high, device=self.device)
            labelled_rows = self._rows(now.step // self.steps_per_epoch + 1)[first : first + self.stream.labelled]
            x, y, ids, extra = self._mixed(labelled_rows, now.step, slice(low, high))
        else:
            places = sent(self._places(now.step), self.device)
            rows, images = (self._job(now.step)[0], None) if self._ahead is None else self._ahead.batch(now.step)
            x = (
                self.split.pixels(rows, self.dtype)
                if images is None
                else in_unit_interval(sent(images, self.device), self.dtype)
            )
            rows = sent(rows, self.device)
            y, ids = self.split.labels[rows], self.split.ids[rows]
            extra = torch.zeros(len(y), dtype=torch.bool, device=self.device)
        if self.stream.augmentation is not None:
            x = self.stream.augmentation(x, self._draw(now.step, places))
        origin = self._origin(now.step, places) if self.stream.located else None
        batch = Batch(x=x, y=y, ids=ids, places=places, total=total, extra=extra, origin=origin)
        return batch if self.stream.mixing is None else self._with_partners(self.stream.mixing, batch, now.step)

    def _with_partners(self, mixing: Mixing, batch: Batch, step: int) -> Batch:
        """This rank's part of the batch, mixed with its partners, which are the rest of `batch` where they are not in
        it.
        """
        _, low, high, total = self._part(step)
        at = torch.empty(total, dtype=torch.int64, device=self.device)
        at[batch.places] = torch.arange(len(batch), device=self.device)
        own_rows, partners = slice(0, high - low), at[sent(self._partners(step)[low:high], self.device)]
        draw = Draw(key_of(self.seed, "mixing", self.stream.order, step), batch.places[own_rows])
        x, share = mixing.mixed(batch.x[own_rows], batch.x[partners], draw)
        columns = {name: column[own_rows] for name, column in batch.columns().items()}
        labels = soft(batch.y[own_rows], batch.y[partners], share, self.classes)
        return replace(batch, **{**columns, "x": x, "soft": labels})

    def _part(self, step: int) -> tuple[int, int, int, int]:
        """(first, low, high, total): the step's batch begins at place `first` of its epoch's order and has `total`
        images, this rank's part those from `low` to `high`."""
        first = step % self.steps_per_epoch * self.stream.labelled
        total = (
            min(self.stream.labelled, len(self.split) - first) if self.stream.extra is None else self.stream.batch_size
        )
        return first, self.rank * total // self.world, (self.rank + 1) * total // self.world, total

    def _partners(self, step: int) -> Tensor:
        """For each place of the step's batch the place that it is mixed with."""
        assert self.stream.mixing is not None
        return self.stream.mixing.partners(self._part(step)[3], self.seed, "mixing", self.stream.order, step)

    def _places(self, step: int) -> Tensor:
        """The places in the global batch of what this rank shows, and after them those of partners that other ranks
        show.
        """
        _, low, high, _ = self._part(step)
        places = torch.arange(low, high)
        if self.stream.mixing is None or self.world == 1:
            return places
        partners = self._partners(step)[low:high]
        return torch.cat([places, partners[(partners < low) | (partners >= high)]])

    def _job(self, step: int) -> Job:
        """The rows that a step without extra images asks of this rank, and the boxes of a random crop."""
        first, low, high, _ = self._part(step)
        order = self._rows(step // self.steps_per_epoch + 1)
        alone = self.stream.mixing is None or self.world == 1
        rows = order[first + low : first + high] if alone else order[sent(first + self._places(step), order.device)]
        augmentation = self.stream.augmentation
        if augmentation is None or not augmentation.crops:
            return rows, None
        return rows, augmentation.boxes(self._draw(step, self._places(step)), self.split.sizes(rows))

    def _draw(self, step: int, places: Tensor) -> Draw:
        """The draws of the augmentation at a step, by place in the global batch."""
        assert self.stream.augmentation is not None
        return Draw(key_of(self.seed, "augment", self.stream.order, tag_of(self.stream.augmentation), step), places)

    def _origin(self, step: int, places: Tensor) -> Tensor | None:
        """Each pixel's own place: what becomes of an image of numbers, which float32 holds exactly."""
        if self.stream.augmentation is None:
            return None
        height, width = self.split.shape[1:]
        numbers = torch.arange(1, height * width + 1, dtype=torch.float32, device=self.device)
        image = numbers.view(1, 1, height, width).expand(len(places), -1, -1, -1)
        return self.stream.augmentation(image, self._draw(step, places))[:, 0].long()

    def _mixed(self, labelled: Tensor, step: int, part: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(x, y, ids, extra) of a part of the batch that holds the rows `labelled` and images of the pool, in random
        order.

        Which places are whose is decided on the CPU, so that no device is waited for; one copy takes them there.
        """
        if self.pool is None:
            raise InputError("the stream has extra images, but its feed was given no pool; open it with open_pools")
        order = seeds.permutation(self.stream.batch_size, self.seed, "mix", self.stream.order, step)[part]
        own_places, extra_places = (order < len(labelled)).nonzero()[:, 0], (order >= len(labelled)).nonzero()[:, 0]
        pool_numbers = Draw(key_of(self.seed, "extra", self.stream.order, step), order[extra_places]).integers(
            len(self.pool)
        )
        sizes = [len(own_places), len(own_places), len(extra_places), len(extra_places)]
        rows, own_places, extra_chosen, extra_places = sent(
            torch.cat([order[own_places], own_places, pool_numbers, extra_places]), self.device
        ).split(sizes)
        batches = [self.split.subset(labelled[rows]), self._of_pool(self.pool, pool_numbers, extra_chosen)]
        places = torch.cat([own_places, extra_places])
        x = torch.empty(len(order), *self.split.shape, dtype=self.dtype, device=self.device)
        y, ids = (torch.empty(len(order), dtype=torch.int64, device=self.device) for _ in range(2))
        x[places] = torch.cat([source.pixels(dtype=self.dtype).to(self.device) for source in batches])
        y[places], ids[places] = (
            torch.cat([source.labels for source in batches]),
            torch.cat([source.ids for source in batches]),
        )
        extra = torch.zeros(len(order), dtype=torch.bool, device=self.device).index_fill_(0, extra_places, True)
        return x, y, ids, extra

    def _of_pool(self, pool: Split, drawn: Tensor, chosen: Tensor) -> Split:
        """The rows of the pool, known on the host as `drawn` and on the device as `chosen`, on the device."""
        if pool.device == self.device:
            return pool.subset(chosen)
        far = pool.subset(drawn)
        return Split(*(sent(column, self.device) for column in (far.images, far.labels, far.ids)))

    def _rows(self, epoch: int) -> torch.Tensor:
        """The epoch's order; only the last one asked for is kept."""
        if self.stream.shuffle and epoch != self._epoch:
            order = seeds.permutation(
                len(self.split), self.seed, "order", self.stream.order, epoch, device=self._order.device
            )
            self._epoch, self._order = epoch, order
        return self._order


def open_pools(streams: Mapping[str, Stream], data: Data, data_dir: Path | str | None = None) -> dict[str, OpenedPool]:
    """The pool of each stream that has one, opened once each. Raises: DataError, StorageError (see `Pool.open`)."""
    pools_named = {name: stream.extra.pool for name, stream in streams.items() if stream.extra is not None}
    pools_needed = {name: pool for name, pool in pools_named.items() if pool is not None}
    pools_open: dict[Pool, OpenedPool] = {}
    for pool in pools_needed.values():
        if pool not in pools_open:
            pools_open[pool] = pool.open(data, data_dir)
    return {name: pools_open[pool] for name, pool in pools_needed.items()}


def _near(pool: Split, device: torch.device) -> Split:
    """The pool on the device where it takes at most a quarter of the memory free there, else where it is."""
    if device.type != "cuda" or pool.nbytes > torch.cuda.mem_get_info(device)[0] // 4:
        return pool
    return pool.to(device)
