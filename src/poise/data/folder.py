"""A user's own images: a folder with one subfolder per class, or a NumPy archive."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from poise.core.bounds import DAMAGE, read_arrays
from poise.core.errors import DataError, UntrustedFileError
from poise.core.files import reading
from poise.core.settings import newer, settings
from poise.data.dataset import Data, DataSource, images_from, labels_from
from poise.data.encoded import Places
from poise.data.images import image_files, in_turn, passed_over, subfolders
from poise.data.own import OwnImages, located

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
Layout = Literal["auto", "NHWC", "NCHW"]


@settings
class Folder(OwnImages):
    """Your own images: one subfolder per class, below train/ and test/ (or val/), or split here.

    Classes are the subfolders' names in order, of numbers in theirs; images are taken from every class in turn. The
    notes say what is passed over.
    """

    path: Annotated[str, Field(min_length=1)]
    """The folder; a relative one is looked up here, then in the data folder."""
    nested: bool = newer(default=False)
    """Take the images in folders inside a class's folder too."""

    def read(self, data_dir: Path) -> Data:
        root = located(self.path, data_dir)
        if not root.is_dir():
            raise DataError(f"{root} is not a folder")
        if not (root / "train").is_dir():
            classes = self._classes(root)
            return self._noted(self.assembled(root.name, *self._images(root, classes, [root])), classes, [root])
        test_folder = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
        if test_folder is None:
            raise DataError(f"{root} has a folder train but neither test nor val beside it")
        classes = self._classes(root / "train")
        strange = [folder.name for folder in subfolders(test_folder) if folder.name not in classes]
        if strange:
            raise DataError(f"{test_folder / strange[0]} is a class that {root / 'train'} does not have")
        folders = [root / "train", test_folder]
        return self._noted(self.assembled(root.name, *self._images(root, classes, folders)), classes, folders)

    def whole(self) -> Data:
        """All images of the folder of classes as both splits, for networks that were trained elsewhere."""
        root = Path(self.path).expanduser()
        names = self._classes(root)
        (every,), classes, about = self.classed(*self._images(root, names, [root]))
        return self._noted(Data(root.name, every, every, classes, **about), names, [root])

    def _noted(self, data: Data, classes: Sequence[str], folders: Sequence[Path]) -> Data:
        """The data with notes, which are said too, of what is passed over and of an order of classes that is not that
        of their names.
        """
        notes = [note for folder in folders for note in passed_over(folder, classes, self.nested)]
        if list(classes) != sorted(classes):
            notes.append(f"folders of classes are taken in the order of their numbers ({', '.join(classes[:3])}, ...)")
        return replace(data, notes=(*data.notes, *notes), remark="; ".join(filter(None, [data.remark, *notes])))

    def _classes(self, folder: Path) -> tuple[str, ...]:
        classes = tuple(path.name for path in subfolders(folder))
        if len(classes) < 2:
            raise DataError(f"{folder} holds {len(classes)} subfolders, but needs one for each of at least 2 classes")
        return classes

    def _images(
        self, root: Path, classes: tuple[str, ...], folders: Sequence[Path]
    ) -> tuple[Places, list[np.ndarray], tuple[str, ...]]:
        """(where the images of all folders lie, the labels of each folder's, every class in turn, what the labels
        number).
        """
        listings = [self._in_turn(folder, classes) for folder in folders]
        below = len(f"{root}{os.sep}") if str(root) != "." else 0
        places = Places.whole(root, [str(path)[below:] for paths, _ in listings for path in paths])
        return places, [labels for _, labels in listings], classes

    def _in_turn(self, folder: Path, classes: tuple[str, ...]) -> tuple[list[Path], np.ndarray]:
        """(paths, labels) of the images of every class in turn."""
        per_class = [image_files(folder / name, self.nested) if (folder / name).is_dir() else [] for name in classes]
        empty = [name for name, files in zip(classes, per_class, strict=True) if not files]
        if empty:
            raise DataError(f"{folder / empty[0]} holds no images")
        return in_turn(per_class)


@settings
class Npz(DataSource):
    """Your own arrays: an .npz file with x_train, y_train, x_test and y_test.

    Images are uint8, or floats in [0, 1] (rounded to 256 levels, and the record says so), [N, H, W, C], [N, C, H, W] or
    [N, H, W]; labels are whole numbers from 0. There are as many classes as the largest training label says.
    """

    path: Annotated[str, Field(min_length=1)]
    """The file; a relative one is looked up here, then in the data folder."""
    layout: Layout = "auto"
    """Order of the axes; "auto" goes by which axis has 1 or 3 entries."""

    def read(self, data_dir: Path) -> Data:
        path = located(self.path, data_dir)
        notes: list[str] = []
        arrays = _arrays(path, notes)
        splits = []
        for part in ("train", "test"):
            where = f"{path}, x_{part}"
            pixels, was_rounded = _eight_bits(channels_first(arrays[f"x_{part}"], self.layout, where), where)
            notes += [f"x_{part}: float images rounded to 256 levels"] if was_rounded else []
            splits.append(pixels)
        y_train = _column(arrays["y_train"])
        if not len(y_train):
            raise DataError(f"{path}, y_train: there are no images to train on")
        count = int(y_train.max()) + 1 if y_train.dtype.kind in "iu" else 1
        if count > len(y_train):
            raise DataError(
                f"{path}, y_train: the largest label is {count - 1}, too large for {len(y_train)} images; number"
                " classes from 0"
            )
        train = images_from(splits[0], labels_from(y_train, count, f"{path}, y_train"), None, f"{path}, x_train")
        test = images_from(
            splits[1], labels_from(_column(arrays["y_test"]), count, f"{path}, y_test"), None, f"{path}, x_test"
        )
        classes = tuple(str(label) for label in range(count))
        return Data(path.stem, train, test, classes, tuple(notes), remark="; ".join(notes))


def _arrays(path: Path, notes: list[str]) -> dict[str, np.ndarray]:
    """The four arrays; `notes` is told of others.

    Raises: DataError for a missing key or a damaged file, UntrustedFileError for pickled objects.
    """
    try:
        with reading(path) as file:
            if file.read(2) != b"PK":
                raise DataError(f"{path} is not an .npz archive")
            with zipfile.ZipFile(file) as archive:
                there = {name.removesuffix(".npy") for name in archive.namelist()}
            if lacking := [name for name in ARRAYS if name not in there]:
                raise DataError(f"{path} lacks the array {lacking[0]!r}; it needs {', '.join(ARRAYS)}")
            strangers = sorted(there - set(ARRAYS))
            notes += [f"{path}: the arrays {', '.join(strangers)} are passed over"] if strangers else []
            return read_arrays(file, ARRAYS)
    except DataError:
        raise
    except DAMAGE as error:
        if "allow_pickle" in str(error):
            raise UntrustedFileError(f"{path} holds pickled objects, which could run code, and was not read") from None
        raise DataError(f"{path} is not a whole .npz archive: {error}") from None


def _column(labels: np.ndarray) -> np.ndarray:
    """[N, 1] as some archives have it becomes [N]."""
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def channels_first(images: np.ndarray, layout: Layout, where: object) -> np.ndarray:
    """Images [N, C, H, W] from [N, H, W, C], [N, C, H, W] or [N, H, W]. Raises DataError naming `where` for other
    shapes.
    """
    if images.ndim == 3:
        return images[:, None]
    if images.ndim != 4:
        raise DataError(f"{where}: images must have 3 or 4 axes, not {list(images.shape)}")
    first, last = images.shape[1] in (1, 3), images.shape[3] in (1, 3)
    if layout == "auto" and first == last:
        word = "either order" if first else "neither order"
        raise DataError(f"{where}: the shape {list(images.shape)} fits {word} of axes; set layout to 'NHWC' or 'NCHW'")
    return images.transpose(0, 3, 1, 2) if layout == "NHWC" or (layout == "auto" and last) else images


def _eight_bits(images: np.ndarray, where: str) -> tuple[np.ndarray, bool]:
    """(uint8 images, whether floats were rounded)."""
    if images.dtype == np.uint8:
        return images, False
    if images.dtype.kind != "f":
        raise DataError(f"{where}: images must be uint8 or floats in [0, 1], not {images.dtype}")
    if not np.isfinite(images).all():
        raise DataError(f"{where}: images hold values that are not finite")
    if images.size and (images.min() < 0 or images.max() > 1):
        raise DataError(f"{where}: float images must lie in [0, 1], not from {images.min():g} to {images.max():g}")
    return np.rint(images.astype(np.float64) * 255).astype(np.uint8), True
