"""Tiny-ImageNet, in its authors' folders."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from poise.core import papers
from poise.core.errors import DataError
from poise.core.papers import Paper
from poise.core.settings import settings
from poise.data.dataset import Data, cache_directory, images_from, labels_from
from poise.data.downloads import PublishedSource, Remote
from poise.data.images import image_files, in_turn, read_images_cached

_SHAPE = (3, 64, 64)
_CLASSES = 200


@settings
class TinyImageNet(PublishedSource):
    """110,000 photographs of 200 classes, 64x64 colour: 100,000 to train, the 10,000 validation images to test.

    Classes are WordNet ids, in the order of wnids.txt; those without a training folder are left out, and the record
    says so. Training images are taken from every class in turn. The decoded pixels are kept beside the files (else in
    the user's cache).
    """

    paper: ClassVar[Paper | None] = papers.TINY_IMAGENET
    classes: ClassVar[int | None] = _CLASSES
    shape: ClassVar[tuple[int, int, int] | None] = _SHAPE
    folders: ClassVar[tuple[str, ...]] = ("tiny-imagenet-200",)
    required: ClassVar[tuple[str, ...]] = ("wnids.txt", "train", "val/val_annotations.txt")
    remotes: ClassVar[tuple[Remote, ...]] = (
        Remote("http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"),
    )

    def read(self, data_dir: Path) -> Data:
        files = self.files(data_dir)
        root = files.folder
        synsets = files.read("wnids.txt").decode("utf-8", "replace").split()
        wnids = tuple(wnid for wnid in synsets if (root / "train" / wnid).is_dir())
        if not wnids:
            raise DataError(f"{root / 'train'} holds no folder of a class in wnids.txt")
        train_paths, train_labels = in_turn([_train_files(root, wnid) for wnid in wnids])
        test_paths, test_labels = _validation(root, files.read("val/val_annotations.txt"), wnids)
        places = [root, cache_directory()]
        pixels = read_images_cached([*train_paths, *test_paths], _SHAPE, root, places)
        cut = len(train_paths)
        train = images_from(pixels[:cut], labels_from(train_labels, len(wnids), root), _SHAPE, root)
        test = images_from(pixels[cut:], labels_from(test_labels, len(wnids), root), _SHAPE, root)
        if (len(wnids), len(train), len(test)) != (_CLASSES, 100_000, 10_000):
            files.notes.append(
                f"a part of Tiny-ImageNet: {len(wnids)} classes, {len(train)} training and {len(test)} test images"
            )
        return Data("TinyImageNet", train, test, wnids, tuple(files.notes))


def _train_files(root: Path, wnid: str) -> list[Path]:
    folder = root / "train" / wnid / "images"
    files = image_files(folder)
    if not files:
        raise DataError(f"{folder} holds no images")
    return files


def _validation(root: Path, annotations: bytes, wnids: tuple[str, ...]) -> tuple[list[Path], np.ndarray]:
    """Files and labels of the validation images whose class is in `wnids`, in the order of val_annotations.txt."""
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    paths, labels = [], []
    for number, line in enumerate(annotations.decode("utf-8", "replace").splitlines(), 1):
        parts = line.split("\t")
        if len(parts) < 2 or Path(parts[0]).name != parts[0]:
            raise DataError(
                f"{root / 'val' / 'val_annotations.txt'}, line {number}: {line!r} is not a file name, a tab and a class"
            )
        if parts[1] in label_of:
            paths.append(root / "val" / "images" / parts[0])
            labels.append(label_of[parts[1]])
    if not paths:
        raise DataError(f"{root / 'val' / 'val_annotations.txt'} names no image of the classes in train")
    return paths, np.array(labels, dtype=np.int64)
