"""What a data set is: labelled uint8 images in two splits, and the settings that say where they come from."""

from __future__ import annotations

import os
from abc import abstractmethod
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from poise.core import seeds
from poise.core.errors import DataError, InputError, SettingsError
from poise.core.papers import Paper
from poise.core.settings import PositiveCount, Settings


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images: `images` uint8 [N, C, H, W], `labels` int64 [N], `ids` int64 [N], the image's number in the original split.

    Raises: InputError where dtypes or lengths do not fit.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise InputError(f"images must be uint8 [N, C, H, W], not {self.images.dtype} {list(self.images.shape)}")
        for name in ("labels", "ids"):
            column = getattr(self, name)
            if column.dtype != torch.int64 or column.shape != self.images.shape[:1]:
                raise InputError(f"{name} must be int64 [{len(self.images)}], not {column.dtype} {list(column.shape)}")

    @classmethod
    def of(cls, images: Tensor, labels: Tensor) -> Split:
        """A whole split, numbered in order."""
        return cls(images, labels, torch.arange(len(images), device=images.device))

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> Split:
        """The split on another device."""
        return Split(self.images.to(device), self.labels.to(device), self.ids.to(device))

    def subset(self, indices: Tensor | slice) -> Split:
        """The rows `indices`, in their order; the images keep their ids."""
        return Split(self.images[indices], self.labels[indices], self.ids[indices])

    def first(self, count: int) -> Split:
        """The first `count` images. Raises InputError unless 1 <= count <= len."""
        if not 1 <= count <= len(self):
            raise InputError(f"first({count}): the split has {len(self)} images, so the count must be from 1 to {len(self)}")
        return self.subset(slice(count))

    def pixels(self, rows: Tensor | slice = slice(None), dtype: torch.dtype = torch.float32) -> Tensor:
        """Images of `rows` as numbers in [0, 1], value / 255, [B, C, H, W]."""
        x = self.images[rows].to(dtype)
        # a divisor on the device: accelerators turn division by a host number into a product, which rounds differently
        return x.div_(torch.full((), 255, dtype=dtype, device=x.device))


@dataclass(frozen=True, eq=False)
class Data:
    """A data set with its two splits and the names of its classes; `notes` says what a reader of results must know of its origin.

    Raises: DataError for images of unequal shape or labels outside the classes.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            shapes = f"{list(self.train.images.shape[1:])} and {list(self.test.images.shape[1:])}"
            raise DataError(f"{self.name}: training and test images differ in shape: {shapes}")
        for word, split in (("training", self.train), ("test", self.test)):
            if not len(split):
                raise DataError(f"{self.name}: the {word} split holds no images")
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= len(self.classes):
                raise DataError(f"{self.name}: {word} labels run from {low} to {high}, outside 0 to {len(self.classes) - 1}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def digest(self) -> str:
        """Of all pixels and labels of both splits, so that a run can tell that its data were changed."""
        digest = blake2b(digest_size=16)
        for split in (self.train, self.test):
            for column in (split.images, split.labels):
                digest.update(column.cpu().contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class DataSource(Settings, family="data"):
    """Where a data set comes from."""

    paper: ClassVar[Paper | None] = None
    classes: ClassVar[int | None] = None
    """Number of classes; None where only the files say it."""
    shape: ClassVar[tuple[int, int, int] | None] = None
    """(C, H, W); None where only the files say it."""

    train_images: PositiveCount | None = None
    """Keep only the first so many training images; None keeps all."""
    test_images: PositiveCount | None = None
    """Keep only the first so many test images; None keeps all."""

    def load(self, data_dir: Path | str | None = None) -> Data:
        """Read the data set from `data_dir`, else from the folder in POISE_DATA, else from the user's cache folder.

        Raises: DataError (missing, altered or malformed files), SettingsError (more images asked for than there are).
        """
        data = self.read(data_directory(data_dir))
        return replace(
            data,
            train=_kept(data.train, self.train_images, "train_images", data.name),
            test=_kept(data.test, self.test_images, "test_images", data.name),
        )

    @abstractmethod
    def read(self, data_dir: Path) -> Data:
        """The whole data set."""


def _kept(split: Split, count: int | None, setting: str, name: str) -> Split:
    if count is None:
        return split
    if count > len(split):
        raise SettingsError(f"{setting} = {count} is more than the {len(split)} images of {name}")
    return split.first(count)


def data_directory(argument: Path | str | None = None) -> Path:
    """The folder data sets are kept in: the argument, else POISE_DATA, else the user's cache folder for Poise."""
    if argument is not None:
        return Path(argument).expanduser()
    named = os.environ.get("POISE_DATA")
    return Path(named).expanduser() if named else cache_directory()


def cache_directory() -> Path:
    """The user's cache folder for Poise (`~/.cache/poise` on Linux)."""
    import pooch

    return Path(pooch.os_cache("poise"))


def held_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """(kept, held): `fraction` of every class, at least one image, is held out for model selection; both in their old order.

    Which images are held depends on the seed and the split's length and labels only.
    Raises: InputError for a fraction outside (0, 1) or a class of a single image.
    """
    if not 0 < fraction < 1:
        raise InputError(f"fraction = {fraction} must lie strictly between 0 and 1")
    order = seeds.permutation(len(split), seed, "held-out")
    labels = split.labels.cpu()
    held = torch.zeros(len(split), dtype=torch.bool)
    for label in labels.unique().tolist():
        members = order[labels[order] == label]
        if len(members) < 2:
            raise InputError(f"class {label} has a single image; holding images out needs at least 2 of every class")
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held[members[:count]] = True
    rows = torch.arange(len(split))
    return split.subset(rows[~held].to(split.labels.device)), split.subset(rows[held].to(split.labels.device))


def folds_of(labels: np.ndarray, folds: int, purpose: str) -> np.ndarray:
    """Fold number of every example, int64 [N]: every class is dealt out to the folds in one fixed random order."""
    order = seeds.permutation(len(labels), purpose, "folds").numpy()
    fold = np.empty(len(labels), dtype=np.int64)
    dealt = 0
    for label in np.unique(labels):
        members = order[labels[order] == label]
        fold[members] = (np.arange(len(members)) + dealt) % folds  # go on where the last class ended: equal folds
        dealt += len(members)
    return fold


def labels_from(values: ArrayLike, classes: int, origin: object) -> Tensor:
    """Labels int64 [N] from whole numbers. Raises DataError naming `origin` for other types or labels outside 0 .. classes - 1."""
    try:
        values = np.asarray(values)
    except ValueError:  # a ragged list
        raise DataError(f"{origin}: labels must be one whole number per image") from None
    if values.dtype.kind not in "iu" or values.ndim != 1:
        raise DataError(f"{origin}: labels must be one whole number per image, not {values.dtype} {list(values.shape)}")
    if len(values) and (int(values.min()) < 0 or int(values.max()) >= classes):
        raise DataError(f"{origin}: labels run from {values.min()} to {values.max()}, outside 0 to {classes - 1}")
    return torch.from_numpy(values.astype(np.int64))


def images_from(values: np.ndarray, labels: Tensor, shape: tuple[int, int, int] | None, origin: object) -> Split:
    """A split of uint8 images [N, C, H, W]. Raises DataError naming `origin` for other types, shapes or counts."""
    if values.dtype != np.uint8 or values.ndim != 4 or (shape is not None and values.shape[1:] != shape):
        wanted = "[N, C, H, W]" if shape is None else f"[N, {', '.join(map(str, shape))}]"
        raise DataError(f"{origin}: images must be uint8 {wanted}, not {values.dtype} {list(values.shape)}")
    if len(values) != len(labels):
        raise DataError(f"{origin}: {len(values)} images but {len(labels)} labels")
    if not values.flags.writeable or not values.flags.c_contiguous:
        values = values.copy(order="C")
    return Split.of(torch.from_numpy(values), labels)
