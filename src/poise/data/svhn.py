"""Street View House Numbers, cropped digits, in their authors' MATLAB files."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from poise.core import papers
from poise.core.bounds import in_words, unpacked_at_most
from poise.core.errors import DataError
from poise.core.papers import Paper
from poise.core.settings import settings
from poise.data.dataset import Data, Split, images_from, labels_from
from poise.data.downloads import Files, PublishedSource, Remote

_BASE = "http://ufldl.stanford.edu/housenumbers/"
_DIGESTS = {"train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373", "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3"}
_COMPRESSED = 15
"""The kind of an element of a MATLAB file that holds another one, compressed."""
_NUMBERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "single", "double")


@settings
class SVHN(PublishedSource):
    """99,289 digits of house numbers, 32x32 colour: 73,257 to train, 26,032 to test (without the extra images)."""

    paper: ClassVar[Paper | None] = papers.SVHN
    classes: ClassVar[int | None] = 10
    shape: ClassVar[tuple[int, int, int] | None] = (3, 32, 32)
    folders: ClassVar[tuple[str, ...]] = ("SVHN", "svhn")
    required: ClassVar[tuple[str, ...]] = tuple(_DIGESTS)
    digests: ClassVar[Mapping[str, str]] = _DIGESTS
    remotes: ClassVar[tuple[Remote, ...]] = tuple(Remote(_BASE + name, md5) for name, md5 in _DIGESTS.items())

    def read(self, data_dir: Path) -> Data:
        files = self.files(data_dir)
        train, test = (self._split(files, f"{part}_32x32.mat") for part in ("train", "test"))
        return Data("SVHN", train, test, tuple("0123456789"), tuple(files.notes))

    def _split(self, files: Files, name: str) -> Split:
        from scipy.io import loadmat

        path, notes_before = files.path(name), len(files.notes)
        content = files.read(name)
        try:
            if len(files.notes) > notes_before or path.name not in self.digests:  # not the published file
                _check_variables(content)
            variables = loadmat(io.BytesIO(content), variable_names=["X", "y"])
        except Exception as error:  # on a damaged file the MATLAB reader raises whatever its parts do
            raise DataError(f"{path} is not a readable MATLAB file: {error}") from None
        if "X" not in variables or "y" not in variables:
            raise DataError(f"{path} lacks the variables X and y")
        images, digits = np.asarray(variables["X"]), np.asarray(variables["y"]).reshape(-1)
        if images.ndim != 4:
            raise DataError(f"{path}: X must be [H, W, C, N], not {list(images.shape)}")
        if digits.dtype.kind == "f":  # MATLAB's own number type
            if not np.equal(np.mod(digits, 1), 0).all():
                raise DataError(f"{path}: y holds values that are not whole numbers")
            digits = digits.astype(np.int64)
        labels = labels_from(np.where(digits == 10, 0, digits), 10, path)  # the digit 0 is stored as class 10
        return images_from(images.transpose(3, 2, 0, 1), labels, self.shape, path)


def _check_variables(content: bytes) -> None:
    """Raises: ValueError for a MATLAB file of which X or y is no array of numbers, or that unpacks to implausibly
    much.
    """
    from scipy.io import whosmat

    most, start, total = unpacked_at_most(len(content)), 128, 0
    order: Literal["little", "big"] = "little" if content[126:128] == b"IM" else "big"
    while start + 8 <= len(content):
        kind, size = (int.from_bytes(content[at : at + 4], order) for at in (start, start + 4))
        element = io.BytesIO(content[start + 8 : start + 8 + size])
        inflate = zlib.decompressobj()
        while kind == _COMPRESSED and not inflate.eof and (piece := inflate.unconsumed_tail or element.read(2**16)):
            total += len(inflate.decompress(piece, 2**22))
            if total > most:
                raise ValueError(f"it unpacks to more than {in_words(most)}")
        start += 8 + size
    for name, shape, kind in whosmat(io.BytesIO(content)):
        if name in ("X", "y") and (kind not in _NUMBERS or math.prod(shape) > most):
            raise ValueError(f"{name} is {kind} {list(shape)}, must be an array of whole numbers")
