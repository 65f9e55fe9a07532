"""Image files to uint8 arrays, with a cache of decoded pixels for data sets of many small files."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from poise.core.errors import DataError, StorageError
from poise.core.records import whole_file

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF")
_CACHE = "poise-decoded-"
_PART = 256


def image_files(folder: Path) -> list[Path]:
    """Image files directly in `folder`, by name, hidden ones left out. Raises DataError when it cannot be listed."""
    try:
        entries = [entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}") from None
    return [folder / name for name in sorted(entries)]


def subfolders(folder: Path) -> list[Path]:
    """Folders directly in `folder`, by name, hidden ones left out."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def in_turn(per_class: Sequence[Sequence[Path]]) -> tuple[list[Path], np.ndarray]:
    """(paths, labels): the first file of every class, then the second of every class, and so on, so that any first n mix the classes."""
    places = sorted((turn, label) for label, files in enumerate(per_class) for turn in range(len(files)))
    return [per_class[label][turn] for turn, label in places], np.array([label for _, label in places], dtype=np.int64)


def read_image(path: Path, channels: int = 3, size: int | None = None) -> np.ndarray:
    """One image, uint8 [C, H, W]; `size` resizes it to size x size (bilinear).

    Raises: DataError for a file that is missing, truncated or no image.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=_FORMATS) as opened:
            if opened.mode.startswith(("I", "F")):  # a conversion would clip every value above 255
                raise DataError(f"{path} has pixels of mode {opened.mode}; only images of 8 bits per channel are read")
            image = opened.convert("RGB" if channels == 3 else "L")
        if size is not None and image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BILINEAR)
    except DataError:
        raise
    except Exception as error:  # image decoders raise errors of many kinds on damaged files
        raise DataError(f"{path} is not a readable image: {error}") from None
    values = np.asarray(image)
    return values[None] if channels == 1 else values.transpose(2, 0, 1)


def read_images(
    paths: Sequence[Path], channels: int = 3, size: int | None = None, shape: tuple[int, int, int] | None = None, hint: str = ""
) -> np.ndarray:
    """All images, uint8 [N, C, H, W]; they must have `shape`, or that of the first.

    Raises: DataError naming the first file that cannot be read or has another shape (`hint` ends that sentence).
    """
    if not paths:
        raise DataError("there are no images to read")
    with _bombs_refused():
        wanted = shape or read_image(paths[0], channels, size).shape
    values = np.empty((len(paths), *wanted), dtype=np.uint8)

    def place(numbers: range) -> None:
        for number in numbers:
            image = read_image(paths[number], channels, size)
            if image.shape != wanted:
                raise DataError(f"{paths[number]} has shape {list(image.shape)}, not {list(wanted)} as required{hint}")
            values[number] = image

    parts = [range(start, min(start + _PART, len(paths))) for start in range(0, len(paths), _PART)]
    with _bombs_refused(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding releases the interpreter lock
        try:
            for _ in pool.map(place, parts):
                pass
        except DataError:
            pool.shutdown(cancel_futures=True)
            raise
    return values


@contextmanager
def _bombs_refused() -> Iterator[None]:
    """Images of suspicious size raise; set once around all threads, as warning filters belong to the whole process."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on metadata that is not used
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def read_images_cached(paths: Sequence[Path], shape: tuple[int, int, int], root: Path, folders: Iterable[Path]) -> np.ndarray:
    """`read_images` with `shape`, decoded once: the pixels are kept in the first of `folders` that can be written.

    The cache is named by the files' names (below `root`), sizes and times, so a changed file is decoded anew.
    """
    key = _listing_key(paths, root)
    places = [folder / f"{_CACHE}{key}.npy" for folder in folders]
    for place in places:
        values = _cached(place, (len(paths), *shape))
        if values is not None:
            return values
    values = read_images(paths, channels=shape[0], shape=shape)
    for place in places:
        if _keep(values, place):
            break
    return values


def _listing_key(paths: Sequence[Path], root: Path) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for path in paths:
        try:
            facts = path.stat()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
        digest.update(f"{path.relative_to(root).as_posix()}\x1f{facts.st_size}\x1f{facts.st_mtime_ns}\x1e".encode())
    return digest.hexdigest()


def _cached(place: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The cached pixels, or None where they are missing or damaged."""
    try:
        values = np.load(place, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return values if isinstance(values, np.ndarray) and values.dtype == np.uint8 and values.shape == shape else None


def _keep(values: np.ndarray, place: Path) -> bool:
    """Write the pixels, whole or not at all; false where that cannot be done (read-only folder, full disk)."""
    try:
        with whole_file(place) as file:
            np.save(file, values)
    except StorageError:
        return False
    return True
