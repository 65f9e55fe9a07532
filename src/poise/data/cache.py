"""How encoded images are kept: decoded in memory, as bytes in one mapped file of the user's cache, or where they
are.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock

from poise.core.bounds import free_memory, in_words, read_arrays
from poise.core.documents import parse
from poise.core.errors import DataError, StorageError
from poise.core.files import reading, whole_file, writing
from poise.data.dataset import cache_directory, labels_from
from poise.data.encoded import Encoded, Origin, Packed, head_sizes
from poise.data.geometry import Geometry
from poise.data.images import bombs_refused, opened
from poise.data.split import Split

Decode = Literal["auto", "resident", "cache", "workers"]
_FORMAT = 1
_SHARE = 4
"""Images are decoded into memory where they take at most one part in so many of what is free."""


def manifest_of(origin: Origin) -> str:
    """A digest of the names, sizes and times of the files, and of where in them the images lie. Raises: DataError for a
    missing file.
    """
    digest = hashlib.blake2b(json.dumps([_FORMAT, origin.facts()]).encode(), digest_size=16)
    digest.update(origin.layout())
    return digest.hexdigest()


def kept(origin: Origin, geometry: Geometry, decode: Decode) -> tuple[Encoded, str]:
    """The images as `decode` says, and a sentence that says how, and for "auto" why.

    Raises: DataError naming an image that cannot be read or has another size than the first, where `geometry` does not
    make them one size, or a cache of other files; StorageError where decode="cache" and the cache cannot be written.
    """
    if not len(origin):
        raise DataError(f"{origin.folder} holds no images")
    first = Encoded(origin, geometry, _shape(origin, geometry))
    size = len(first) * int(np.prod(first.shape))
    mode, why = (decode, "") if decode != "auto" else _chosen(size)
    whole = f"{len(first):,} images ({in_words(size)} decoded)"
    if mode == "resident":
        return replace(first, pixels=first.read(slice(None))), f"{whole} are kept in memory{why}"
    key = manifest_of(origin)
    if mode == "cache":
        try:
            contents, sizes = _packed(origin, key)
        except StorageError as error:
            if decode == "cache":
                raise
            why = f"{why}, and {error}"
        else:
            images = replace(first, contents=contents, sizes_known=_of_one_size(origin, sizes, geometry))
            return images, f"{whole} are decoded as they are needed, from {contents.path}{why}"
    images = replace(
        first,
        sizes_known=_of_one_size(
            origin,
            indexed(origin, "sizes", lambda: {"sizes": head_sizes(origin, range(len(origin)))})["sizes"],
            geometry,
        ),
    )
    return images, f"{whole} are decoded as they are needed, from their files{why}"


def views(
    origin: Origin, labels: Sequence[np.ndarray], classes: int, geometry: Geometry, decode: Decode
) -> tuple[list[Split], dict[str, Any]]:
    """A split for each column of labels [n], of the images in order, and the manifest and the remark of Data. Raises:
    as `kept`.
    """
    images, remark = kept(origin, geometry, decode)
    splits, start = [], 0
    for column in labels:
        part = images.part(start, start + len(column))
        splits.append(Split.of(part, labels_from(column, classes, origin.folder)))
        start += len(column)
    identity = hashlib.blake2b(f"{manifest_of(origin)}{geometry}".encode(), digest_size=16)
    for split in splits:
        identity.update(split.labels.numpy().tobytes())
    return splits, {"manifest": identity.hexdigest(), "remark": remark}


def _shape(origin: Origin, geometry: Geometry) -> tuple[int, int, int]:
    if geometry.size is not None:
        return geometry.channels, geometry.size, geometry.size
    height, width = head_sizes(origin, [0])[0].tolist()
    return geometry.channels, height, width


def _of_one_size(origin: Origin, sizes: np.ndarray, geometry: Geometry) -> np.ndarray:
    other_rows = (sizes != sizes[0]).any(1).nonzero()[0]
    if geometry.size is None and len(other_rows):
        shape, other_shape = ([geometry.channels, *sizes[at].tolist()] for at in (other_rows[0], 0))
        raise DataError(
            f"{origin.name(other_rows[0])} has shape {shape}, not {other_shape} as required;"
            " set image_size, as by data.image_size=64, to resize them all"
        )
    return sizes


def _chosen(size: int) -> tuple[Decode, str]:
    """Decoded images of all ranks of the machine are to fit into a part of its free memory."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    free = free_memory()
    fits = size * ranks * _SHARE <= free
    by = f" by {ranks} ranks" if ranks > 1 else ""
    why = (
        f", as they take{by} {'at most' if fits else 'more than'} a quarter of the {in_words(free)} that are free"
        " (decode=auto)"
    )
    return ("resident" if fits else "cache"), why


def _packed(origin: Origin, key: str) -> tuple[Packed, np.ndarray]:
    """The cache of the images and their sizes, written where it is not there yet; one process writes, others wait for
    it.
    """
    place = cache_directory() / "images" / key
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    if not _index(place).exists():
        with writing(place), FileLock(place.with_suffix(".lock")):
            if not _index(place).exists():
                _pack(place, origin, key)
    return _reopened(place, origin, key)


def _pack(place: Path, origin: Origin, key: str) -> None:
    """The bytes first, the index last, so that what is not whole is not found."""
    total = origin.nbytes
    free = shutil.disk_usage(place.parent).free
    if total > free:
        raise StorageError(
            f"{place} cannot be written: its images take {in_words(total)}, {in_words(free)} are free; set decode to"
            " 'workers'"
        )
    sizes, starts = np.empty((len(origin), 2), dtype=np.int32), np.zeros(len(origin) + 1, dtype=np.int64)
    digest = hashlib.sha256()
    with bombs_refused(), whole_file(_content(place)) as file:
        for number in range(len(origin)):
            with origin.open(number) as encoded:
                content = encoded.read()
            with opened(io.BytesIO(content), origin.name(number)) as image:
                sizes[number] = image.height, image.width
            digest.update(content)
            starts[number + 1] = starts[number] + file.write(content)
    _note(
        place,
        {"key": key, "sha256": digest.hexdigest(), "written": _written(_content(place))},
        starts=starts,
        sizes=sizes,
    )


def _reopened(place: Path, origin: Origin, key: str) -> tuple[Packed, np.ndarray]:
    """The cache at `place`; its bytes are read through only where its file is no longer the one written."""
    with _readable(_index(place)) as arrays:
        facts: dict[str, Any] = parse(str(arrays["facts"]))
        starts, sizes = arrays["starts"], arrays["sizes"]
        if facts["key"] != key or len(starts) != len(origin) + 1:
            raise DataError(f"{_index(place)} is of a cache of other files; delete it")
        written = _written(_content(place))
        if facts["written"] != written:
            with reading(_content(place)) as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != facts["sha256"]:
                raise DataError(
                    f"{_content(place)} is a cache of other files, or damaged: its SHA-256 is not {facts['sha256']};"
                    " delete it"
                )
            with contextlib.suppress(StorageError):  # a cache that others own is checked each time
                _note(place, {**facts, "written": written}, starts=starts, sizes=sizes)
    return Packed(_content(place), starts, origin), sizes


def indexed(origin: Origin, word: str, scan: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What `scan` finds in the files, from the user's cache where it was found before; kept there where that can be
    written.
    """
    key = manifest_of(origin)
    place = cache_directory() / "images" / f"{key}.{word}"
    if _index(place).exists():
        with _readable(_index(place)) as arrays:
            if parse(str(arrays["facts"]))["key"] == key:
                return {name: array for name, array in arrays.items() if name != "facts"}
        raise DataError(f"{_index(place)} is of a cache of other files; delete it")
    index = scan()
    with contextlib.suppress(StorageError):
        _note(place, {"key": key}, **index)
    return index


def _note(place: Path, facts: dict[str, Any], **arrays: np.ndarray) -> None:
    with whole_file(_index(place)) as file:
        np.savez(file, facts=np.array(json.dumps(facts)), **arrays)  # pyright: ignore[reportArgumentType]


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[dict[str, np.ndarray]]:
    try:
        yield read_arrays(path)
    except DataError:
        raise
    except Exception as error:  # zip and .npy readers raise errors of many kinds on damaged files
        raise DataError(f"{path} is a damaged cache: {error}; delete it") from None


def _content(place: Path) -> Path:
    return place.with_name(f"{place.name}.images")


def _index(place: Path) -> Path:
    return place.with_name(f"{place.name}.npz")


def _written(path: Path) -> list[int]:
    """[bytes, time of the last change in ns]: what tells a file that is as it was written."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
