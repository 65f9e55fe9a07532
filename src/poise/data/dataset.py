"""What a data set is: labelled uint8 images in two splits, and the settings that say where they come from."""

from __future__ import annotations

import os
from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from poise.core import seeds
from poise.core.callers import computed_plainly
from poise.core.errors import DataError, InputError, SettingsError
from poise.core.papers import Paper
from poise.core.settings import PositiveCount, Settings
from poise.data.split import Split

_MANIFEST = "files-"


@dataclass(frozen=True, eq=False)
class Data:
    """A data set with its two splits and the names of its classes; `notes` says what a reader of results must know of
    its origin.

    Raises: DataError for images of unequal shape or labels outside the classes.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    manifest: str = ""
    """Of the names, sizes and times of the files that the data come from; empty where pixels and labels alone tell what
    they are.
    """
    remark: str = ""
    """What is to be said before work: how images are kept, and why so."""

    def __post_init__(self) -> None:
        if self.train.shape != self.test.shape:
            shapes = f"{list(self.train.shape)} and {list(self.test.shape)}"
            raise DataError(f"{self.name}: training and test images differ in shape: {shapes}")
        for word, split in (("training", self.train), ("test", self.test)):
            if not len(split):
                raise DataError(f"{self.name}: the {word} split holds no images")
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= len(self.classes):
                raise DataError(
                    f"{self.name}: {word} labels run from {low} to {high}, outside 0 to {len(self.classes) - 1}"
                )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.train.shape

    @property
    def digest(self) -> str:
        """What tells that a run's data were changed: of all pixels and labels where they are in memory, else of the
        files' manifest.
        """
        resident = self.train.resident is not None and self.test.resident is not None
        return self.full_digest if resident or not self.manifest else f"{_MANIFEST}{self.manifest}"

    @property
    def versions(self) -> dict[str, str]:
        """Of the library that decoded the images, on which their pixels depend: Pillow's, where the data come from
        image files.
        """
        return {"pillow": version("pillow")} if self.manifest else {}

    @cached_property
    def full_digest(self) -> str:
        """Of all pixels and labels of both splits, decoded for it where they are not in memory."""
        digest = blake2b(digest_size=16)
        for split in (self.train, self.test):
            for part in split.parts():
                digest.update(part.cpu().contiguous().numpy().data)
            digest.update(split.labels.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def has(self, digest: str | None) -> bool:
        """Whether `digest`, which these data or others gave, however they kept their images, is of these."""
        if digest is not None and digest.startswith(_MANIFEST):
            return digest == f"{_MANIFEST}{self.manifest}"
        return digest == self.full_digest


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

    @computed_plainly
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
    folder = os.environ.get("POISE_DATA")
    return Path(folder).expanduser() if folder else cache_directory()


def cache_directory() -> Path:
    """The user's cache folder for Poise (`~/.cache/poise` on Linux)."""
    import pooch

    return Path(pooch.os_cache("poise"))


def held_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """(kept, held): `fraction` of every class, at least one image, is held out for model selection; both in their old
    order.

    Which images are held depends on the seed and the split's length and labels only.
    Raises: InputError for a fraction outside (0, 1) or a class of a single image.
    """
    if not 0 < fraction < 1:
        raise InputError(f"fraction = {fraction} must lie strictly between 0 and 1")
    order = seeds.permutation(len(split), seed, "held-out")
    labels = split.labels.cpu()
    held_rows = torch.zeros(len(split), dtype=torch.bool)
    for label in labels.unique().tolist():
        members = order[labels[order] == label]
        if len(members) < 2:
            raise InputError(f"class {label} has a single image; holding images out needs at least 2 of every class")
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held_rows[members[:count]] = True
    rows = torch.arange(len(split))
    return split.subset(rows[~held_rows].to(split.labels.device)), split.subset(rows[held_rows].to(split.labels.device))


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
    """Labels int64 [N] from whole numbers. Raises DataError naming `origin` for other types or labels outside 0 ..
    classes - 1.
    """
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
        shape_text = "[N, C, H, W]" if shape is None else f"[N, {', '.join(map(str, shape))}]"
        raise DataError(f"{origin}: images must be uint8 {shape_text}, not {values.dtype} {list(values.shape)}")
    if len(values) != len(labels):
        raise DataError(f"{origin}: {len(values)} images but {len(labels)} labels")
    if not values.flags.writeable or not values.flags.c_contiguous:
        values = values.copy(order="C")
    return Split.of(torch.from_numpy(values), labels)
