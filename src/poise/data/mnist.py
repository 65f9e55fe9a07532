"""MNIST, in its authors' IDX files."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch.nn.functional as F

from poise.core import papers
from poise.core.errors import DataError
from poise.core.papers import Paper
from poise.core.settings import Count, settings
from poise.data.dataset import Data, Split, images_from, labels_from
from poise.data.downloads import Files, PublishedSource, Remote

_BASE = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_PACKED = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
_PLAIN = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


@settings
class MNIST(PublishedSource):
    """70,000 handwritten digits, 28x28, one channel: 60,000 to train, 10,000 to test."""

    paper: ClassVar[Paper | None] = papers.MNIST
    classes: ClassVar[int | None] = 10
    shape: ClassVar[tuple[int, int, int] | None] = (1, 28, 28)
    folders: ClassVar[tuple[str, ...]] = ("MNIST/raw", "MNIST", "mnist")
    required: ClassVar[tuple[str, ...]] = tuple(_PLAIN)
    digests: ClassVar[Mapping[str, str]] = _PACKED | _PLAIN
    remotes: ClassVar[tuple[Remote, ...]] = tuple(Remote(_BASE + name, md5) for name, md5 in _PACKED.items())

    padding: Count = 0
    """Rows and columns of zeros added on every side; 2 gives the 32x32 pixels that networks for CIFAR were made for."""

    def read(self, data_dir: Path) -> Data:
        files = self.files(data_dir)
        train, test = (self._split(files, part) for part in ("train", "t10k"))
        return Data("MNIST", train, test, tuple("0123456789"), tuple(files.notes))

    def _split(self, files: Files, part: str) -> Split:
        image_file, label_file = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
        images = read_idx(files.read(image_file), 3, files.path(image_file))
        labels = labels_from(read_idx(files.read(label_file), 1, files.path(label_file)), 10, files.path(label_file))
        split = images_from(images[:, None], labels, self.shape, files.path(image_file))
        return Split.of(F.pad(split.images, [self.padding] * 4), split.labels) if self.padding else split


def read_idx(content: bytes, axes: int, origin: object) -> np.ndarray:
    """An IDX file of bytes: zero, zero, 8 (uint8), number of axes, then the big-endian sizes, then the values.

    Raises: DataError for another magic number or a length that does not fit the sizes.
    """
    start = 4 + 4 * axes
    if len(content) < start:
        raise DataError(f"{origin} is truncated: {len(content)} bytes do not hold an IDX header")
    magic, *sizes = struct.unpack(f">{1 + axes}I", content[:start])
    if magic != 0x800 + axes:
        raise DataError(f"{origin} has magic number {magic}, not {0x800 + axes} as an IDX file of {axes} axes")
    if len(content) - start != math.prod(sizes):
        word = "truncated" if len(content) - start < math.prod(sizes) else "too long"
        raise DataError(f"{origin} is {word}: {len(content) - start} values for the sizes {sizes}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)
