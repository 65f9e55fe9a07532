"""Street View House Numbers, cropped digits, in their authors' MATLAB files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from poise.core import papers
from poise.core.errors import DataError
from poise.core.papers import Paper
from poise.core.settings import settings
from poise.data.dataset import Data, Split, images_from, labels_from
from poise.data.downloads import Files, PublishedSource, Remote

_BASE = "http://ufldl.stanford.edu/housenumbers/"
_DIGESTS = {"train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373", "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3"}


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

        path = files.path(name)
        content = files.read(name)
        try:
            found = loadmat(io.BytesIO(content), variable_names=["X", "y"])
        except Exception as error:  # on a damaged file the MATLAB reader raises whatever its parts do
            raise DataError(f"{path} is not a readable MATLAB file: {error}") from None
        if "X" not in found or "y" not in found:
            raise DataError(f"{path} lacks the variables X and y")
        images, digits = np.asarray(found["X"]), np.asarray(found["y"]).reshape(-1)
        if images.ndim != 4:
            raise DataError(f"{path}: X must be [H, W, C, N], not {list(images.shape)}")
        if digits.dtype.kind == "f":  # MATLAB's own number type
            if not np.equal(np.mod(digits, 1), 0).all():
                raise DataError(f"{path}: y holds values that are not whole numbers")
            digits = digits.astype(np.int64)
        labels = labels_from(np.where(digits == 10, 0, digits), 10, path)  # the digit 0 is stored as class 10
        return images_from(images.transpose(3, 2, 0, 1), labels, self.shape, path)
