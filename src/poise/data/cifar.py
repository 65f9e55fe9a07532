"""CIFAR-10 and CIFAR-100, in their author's Python files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from poise.core import papers
from poise.core.errors import DataError
from poise.core.papers import Paper
from poise.core.settings import settings
from poise.data.dataset import Data, Split, images_from, labels_from
from poise.data.downloads import Files, PublishedSource, Remote
from poise.data.pickles import read_pickle

_BASE = "https://www.cs.toronto.edu/~kriz/"
_SHAPE = (3, 32, 32)
_BATCHES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
_HUNDRED = {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}
_NAMES_10 = "airplane automobile bird cat deer dog frog horse ship truck"
_NAMES_100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree
wolf woman worm
"""
CLASSES_10, CLASSES_100 = tuple(_NAMES_10.split()), tuple(_NAMES_100.split())


@settings
class CIFAR10(PublishedSource):
    """60,000 small photographs of 10 classes, 32x32 colour: 50,000 to train, 10,000 to test."""

    paper: ClassVar[Paper | None] = papers.CIFAR
    classes: ClassVar[int | None] = 10
    shape: ClassVar[tuple[int, int, int] | None] = _SHAPE
    folders: ClassVar[tuple[str, ...]] = ("cifar-10-batches-py",)
    required: ClassVar[tuple[str, ...]] = tuple(_BATCHES)
    digests: ClassVar[Mapping[str, str]] = _BATCHES
    remotes: ClassVar[tuple[Remote, ...]] = (
        Remote(_BASE + "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
    )

    def read(self, data_dir: Path) -> Data:
        files = self.files(data_dir)
        train = _joined([_batch(files, f"data_batch_{number}", "labels", 10) for number in range(1, 6)])
        test = _batch(files, "test_batch", "labels", 10)
        return Data("CIFAR10", train, test, CLASSES_10, tuple(files.notes))


@settings
class CIFAR100(PublishedSource):
    """60,000 small photographs of 100 classes (the fine labels), 32x32 colour: 50,000 to train, 10,000 to test."""

    paper: ClassVar[Paper | None] = papers.CIFAR
    classes: ClassVar[int | None] = 100
    shape: ClassVar[tuple[int, int, int] | None] = _SHAPE
    folders: ClassVar[tuple[str, ...]] = ("cifar-100-python",)
    required: ClassVar[tuple[str, ...]] = tuple(_HUNDRED)
    digests: ClassVar[Mapping[str, str]] = _HUNDRED
    remotes: ClassVar[tuple[Remote, ...]] = (
        Remote(_BASE + "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
    )

    def read(self, data_dir: Path) -> Data:
        files = self.files(data_dir)
        train, test = (_batch(files, name, "fine_labels", 100) for name in ("train", "test"))
        return Data("CIFAR100", train, test, CLASSES_100, tuple(files.notes))


def _batch(files: Files, name: str, key: str, classes: int) -> Split:
    """One batch file: a dict with `data`, uint8 [N, 3072] (red, green, blue planes), and a list of labels."""
    path = files.path(name)
    batch = read_pickle(files.read(name), path)
    if not isinstance(batch, dict) or "data" not in batch or key not in batch:
        raise DataError(f"{path} is not a CIFAR batch: it lacks 'data' or {key!r}")
    rows = np.asarray(batch["data"])
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3072:
        raise DataError(f"{path}: 'data' must be uint8 [N, 3072], not {rows.dtype} {list(rows.shape)}")
    return images_from(rows.reshape(-1, *_SHAPE), labels_from(batch[key], classes, path), _SHAPE, path)


def _joined(splits: Sequence[Split]) -> Split:
    return Split.of(torch.cat([split.images for split in splits]), torch.cat([split.labels for split in splits]))
