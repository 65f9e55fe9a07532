"""Image files to uint8 arrays, with a cache of decoded pixels for data sets of many small files."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from poise.core.bounds import array_header
from poise.core.errors import DataError, StorageError
from poise.core.files import reading, whole_file
from poise.data.geometry import Geometry

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF")
_CACHE = "poise-decoded-"
_PIECE = 32
"""Images that a thread decodes before it takes more."""


def image_files(folder: Path, nested: bool = False, seen: set[Path] | None = None) -> list[Path]:
    """Image files in `folder`, by name, hidden ones left out; those of its subfolders, where `nested`, after its own.

    seen: folders that were listed already. Raises: DataError when it cannot be listed, or where links lead to a folder
    twice, as those into one that it lies in do without end.
    """
    seen = set() if seen is None else seen
    if nested:
        real = folder.resolve()
        if real in seen:
            raise DataError(f"{folder} is a link to a folder whose images were taken already, {real}; remove it")
        seen.add(real)
    try:
        entries = [
            entry.name
            for entry in os.scandir(folder)
            if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")
        ]
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}") from None
    inside = [file for below in subfolders(folder) for file in image_files(below, nested, seen)] if nested else []
    return [folder / name for name in sorted(entries)] + inside


def subfolders(folder: Path) -> list[Path]:
    """Folders directly in `folder`, hidden ones left out: by name, or where all names are numbers in the order of the
    numbers.

    Raises: DataError when it cannot be listed, or where two names are one number.
    """
    try:
        folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}") from None
    if not all(path.name.isdecimal() for path in folders):
        return folders
    folders.sort(key=lambda path: int(path.name))
    for first, second in itertools.pairwise(folders):
        if int(first.name) == int(second.name):
            raise DataError(
                f"{folder} has folders {first.name} and {second.name}: two of one number, so that their order says"
                " nothing"
            )
    return folders


def passed_over(folder: Path, names: Sequence[str], nested: bool = False) -> list[str]:
    """Sentences on what lies in a folder of classes and is no image that is read: files of other kinds, hidden ones,
    folders in classes unless these are `nested`."""
    counts = Counter[str]()
    for place in (folder, *(folder / name for name in names)):
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
            suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122  a Path of each file takes as long as all the rest
            if entry.is_dir():
                counts["folders in folders of classes"] += place != folder and not nested
            elif entry.name.startswith("."):
                counts["hidden images"] += suffix in SUFFIXES
            elif suffix in SUFFIXES:
                counts["images beside the folders of classes"] += place == folder
            else:
                counts[f"files {suffix or 'without suffix'}"] += 1
    return [f"{folder}: {count} {kind} passed over" for kind, count in counts.items() if count]


def in_turn(per_class: Sequence[Sequence[Path]]) -> tuple[list[Path], np.ndarray]:
    """(paths, labels): the first file of every class, then the second of every class, and so on, so that any first n
    mix the classes.
    """
    places = sorted((turn, label) for label, files in enumerate(per_class) for turn in range(len(files)))
    return [per_class[label][turn] for turn, label in places], np.array([label for _, label in places], dtype=np.int64)


@contextmanager
def opened(file: Path | IO[bytes], name: object) -> Iterator[Any]:
    """An image file opened by Pillow, its head read. Raises: DataError for whatever goes wrong inside, with the image's
    `name`.
    """
    from PIL import Image

    try:
        with contextlib.ExitStack() as stack:
            if isinstance(file, Path):
                file = stack.enter_context(reading(file))
            image = stack.enter_context(Image.open(file, formats=_FORMATS))
            if image.mode.startswith(("I", "F")):  # a conversion would clip every value above 255
                raise DataError(f"{name} has pixels of mode {image.mode}; only images of 8 bits per channel are read")
            yield image
    except DataError:
        raise
    except Exception as error:  # image decoders raise errors of many kinds on damaged files
        raise DataError(f"{name} is not a readable image: {error}") from None


def decoded(file: Path | IO[bytes], name: object, geometry: Geometry, box: Sequence[int] | None = None) -> np.ndarray:
    """One image, uint8 [C, H, W], as `geometry` makes it; with a `box` (top, left, height, width) only what is in it.

    Raises: DataError for a file that is missing, truncated or no image.
    """
    with opened(file, name) as image:
        return geometry.apply(image, box)


def read_image(path: Path, channels: int = 3, size: int | None = None) -> np.ndarray:
    """One image, uint8 [C, H, W]; `size` resizes it to size x size (bilinear). Raises: DataError, as `decoded`."""
    return decoded(path, path, Geometry(channels, size))


def read_images(
    paths: Sequence[Path],
    channels: int = 3,
    size: int | None = None,
    shape: tuple[int, int, int] | None = None,
    hint: str = "",
) -> np.ndarray:
    """All images, uint8 [N, C, H, W]; they must have `shape`, or that of the first.

    Raises: DataError naming the first file that cannot be read or has another shape (`hint` ends that sentence).
    """
    if not paths:
        raise DataError("there are no images to read")
    with bombs_refused():
        expected_shape = shape or read_image(paths[0], channels, size).shape
    values = np.empty((len(paths), *expected_shape), dtype=np.uint8)

    def place(numbers: range) -> None:
        for number in numbers:
            image = read_image(paths[number], channels, size)
            if image.shape != expected_shape:
                raise DataError(
                    f"{paths[number]} has shape {list(image.shape)}, not {list(expected_shape)} as required{hint}"
                )
            values[number] = image

    in_pieces(place, len(paths))
    return values


def in_pieces(work: Callable[[range], None], count: int) -> None:
    """Do the work on pieces of 0 .. count - 1, in threads, as decoding releases the interpreter lock. The first
    DataError ends it.
    """
    pieces = [range(start, min(start + _PIECE, count)) for start in range(0, count, _PIECE)]
    with bombs_refused():
        if len(pieces) < 2:
            for piece in pieces:
                work(piece)
            return
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            try:
                for _ in pool.map(work, pieces):
                    pass
            except DataError:
                pool.shutdown(cancel_futures=True)
                raise


@contextmanager
def bombs_refused() -> Iterator[None]:
    """Images of suspicious size raise; set once around all threads, as warning filters belong to the whole process."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on metadata that is not used
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def read_images_cached(
    paths: Sequence[Path], shape: tuple[int, int, int], root: Path, folders: Iterable[Path]
) -> np.ndarray:
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
        with reading(place) as file:
            if array_header(file) != (shape, False, np.uint8):
                return None
            file.seek(0)
            return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None


def _keep(values: np.ndarray, place: Path) -> bool:
    """Write the pixels, whole or not at all; false where that cannot be done (read-only folder, full disk)."""
    try:
        with whole_file(place) as file:
            np.save(file, values)
    except StorageError:
        return False
    return True
