"""Images of any number, read a part at a time: from an .npz archive, an .npy file, a folder of image files or an array
at hand.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from poise.core.bounds import DAMAGE, SEAL, mapped, member_of, read_arrays
from poise.core.errors import DataError, UntrustedFileError
from poise.core.files import reading
from poise.data.folder import Layout, channels_first
from poise.data.images import SUFFIXES, read_image, read_images

PART = 1024
"""Images that are in memory at a time."""


@dataclass(frozen=True)
class Parts:
    """`count` images of one shape (C, H, W); `read()` gives them in order as arrays uint8 [n, C, H, W]."""

    count: int
    shape: tuple[int, int, int]
    read: Callable[[], Iterator[np.ndarray]]
    origin: str


def of_array(images: np.ndarray, origin: object, layout: Layout = "auto") -> Parts:
    """Parts of an array uint8 [N, H, W, C], [N, C, H, W] or [N, H, W], which may be memory-mapped. Raises DataError for
    another.
    """
    if images.dtype != np.uint8:
        raise DataError(f"{origin}: images must be uint8, not {images.dtype}")

    def read() -> Iterator[np.ndarray]:
        for start in range(0, len(images), PART):
            yield np.ascontiguousarray(channels_first(images[start : start + PART], layout, origin))

    return Parts(len(images), _shape(images.shape, layout, origin), read, str(origin))


def of_npy(path: Path, layout: Layout = "auto") -> Parts:
    """Parts of an .npy file, memory-mapped. Raises DataError when it is not a whole array of uint8 images."""
    try:
        return of_array(mapped(path), path, layout)
    except DataError:
        raise
    except DAMAGE as error:
        raise DataError(f"{path} is not a whole .npy file of images: {error}") from None


def of_npz(path: Path, name: str, layout: Layout = "auto") -> Parts:
    """Parts of the array `name` of an .npz archive, unpacked as a stream: never whole in memory.

    Raises: DataError when it is missing, damaged or not uint8 images; UntrustedFileError for pickled objects.
    """
    origin = f"{path}, {name}"
    try:
        with _archive(path) as archive, member_of(archive, name) as (_, sizes, fortran, dtype):
            pass
    except KeyError:
        raise DataError(f"{path} lacks the array {name!r}; it has {', '.join(names_in(path)) or 'none'}") from None
    except DAMAGE as error:
        raise _refused(path, origin, error) from None
    if dtype != np.uint8:
        raise DataError(f"{origin}: images must be uint8, not {dtype}")
    if fortran and len(sizes) > 1:
        raise DataError(f"{origin} is stored column by column; save np.ascontiguousarray of it")

    total, shape = sizes[0] if sizes else 0, sizes[1:]

    def read() -> Iterator[np.ndarray]:
        size = math.prod(shape)
        try:
            with _archive(path) as archive, member_of(archive, name) as (member, *_):
                for start in range(0, total, PART):
                    count = min(PART, total - start)
                    content = member.read(count * size)
                    if len(content) != count * size:
                        raise EOFError(f"it ends after {start + len(content) // size} of {total} images")
                    yield np.ascontiguousarray(
                        channels_first(np.frombuffer(content, np.uint8).reshape(count, *shape), layout, origin)
                    )
        except DataError:
            raise
        except DAMAGE as error:
            raise DataError(f"{path} is not a whole .npz archive: {error}") from None

    return Parts(total, _shape(sizes, layout, origin), read, origin)


def pool_digest(images: hashlib._Hash, labels: np.ndarray) -> str:
    """The digest of a pool whose images [N, H, W, C] went into `images`, with its labels [N]."""
    digest = images.copy()
    digest.update(labels.astype(np.int64).tobytes())
    return digest.hexdigest()


def sealed_by(parts: Parts, seal: str, labels: np.ndarray) -> Parts:
    """The parts, which once they are read have been compared with the digest that a pool was written with; `read`
    raises DataError where it is another.
    """

    def read() -> Iterator[np.ndarray]:
        digest = hashlib.sha256()
        for part in parts.read():
            digest.update(np.ascontiguousarray(part.transpose(0, 2, 3, 1)).tobytes())
            yield part
        if pool_digest(digest, labels) != seal:
            raise DataError(f"{parts.origin}: its {SEAL} is not the digest of its images and labels; make it anew")

    return replace(parts, read=read)


def of_files(paths: Sequence[Path], channels: int, origin: object, size: int | None = None) -> Parts:
    """Parts of image files in the order given; all must have the first one's shape, or are resized to `size` x `size`.

    Raises: DataError where there are none or one cannot be read.
    """
    if not paths:
        raise DataError(f"{origin} holds no images ({', '.join(SUFFIXES)})")
    first = read_image(paths[0], channels, size)
    shape = (first.shape[0], first.shape[1], first.shape[2])

    def read() -> Iterator[np.ndarray]:
        for start in range(0, len(paths), PART):
            yield read_images(paths[start : start + PART], channels, size, shape)

    return Parts(len(paths), shape, read, str(origin))


def names_in(path: Path) -> list[str]:
    """The arrays of an .npz archive. Raises DataError for a file that is none."""
    try:
        with _archive(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except DAMAGE as error:
        raise DataError(f"{path} is not a whole .npz archive: {error}") from None


def column(path: Path, name: str) -> np.ndarray:
    """A small array of an .npz archive, whole; [N, 1] becomes [N]. Raises as `of_npz`."""
    try:
        values = read_arrays(path, [name])[name]
    except KeyError:
        raise DataError(f"{path} lacks the array {name!r}; it has {', '.join(names_in(path)) or 'none'}") from None
    except DAMAGE as error:
        raise _refused(path, f"{path}, {name}", error) from None
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    with reading(path) as file, zipfile.ZipFile(file) as archive:
        yield archive


def _refused(path: Path, origin: str, error: Exception) -> DataError:
    if "allow_pickle" in str(error):
        return UntrustedFileError(f"{origin} holds pickled objects, which could run code, and was not read")
    return DataError(f"{path} is not a whole .npz archive: {error}")


def _shape(shape: tuple[int, ...], layout: Layout, origin: object) -> tuple[int, int, int]:
    """(C, H, W) of images stored as `shape`."""
    if not shape or shape[0] == 0:
        raise DataError(f"{origin} holds no images")
    shape_first = channels_first(np.empty((0, *shape[1:]), np.uint8), layout, origin).shape
    return shape_first[1], shape_first[2], shape_first[3]
