"""How much a file of unknown origin may ask for: what unpacks to more than it plausibly holds is refused before it
takes memory, disk or time.

Everything here raises a ValueError with a clause; whoever knows the file puts its name before it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import math
import os
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Literal

import numpy as np

from poise.core.files import reading

_FREELY = 2**28
"""Bytes that anything may unpack to."""
_RATIO = 100
"""Beyond that, so many times its packed size: images compress less, and deflate reaches 1032."""
DAMAGE = (OSError, ValueError, EOFError, KeyError, TypeError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What a damaged or implausible archive raises; NotImplementedError for a way of packing that zipfile does not know."""
_PIECE = 2**22
MEMBERS = 10**6
_HEADER = 10_000
"""Bytes of the head of an array, as NumPy's own limit."""


class ImplausibleError(ValueError):
    """What a file asks for is beyond what it can hold."""


def unpacked_at_most(packed: int) -> int:
    """Bytes to which `packed` bytes may unpack."""
    return max(_FREELY, _RATIO * packed)


def check_plausible(size: int, packed: int) -> None:
    """Raises: ValueError where `packed` bytes say that they unpack to implausibly many."""
    if size < 0:
        raise ImplausibleError(f"it says that it holds {size} bytes")
    if size > (most := unpacked_at_most(packed)):
        raise ImplausibleError(
            f"its {in_words(packed)} say that they unpack to {in_words(size)}, may to {in_words(most)} at most"
        )


def check_unpacked(size: int, packed: int) -> None:
    """Raises: ValueError as `check_plausible`, and for more than memory has free."""
    check_plausible(size, packed)
    check_fits(size)


def check_fits(size: int) -> None:
    """Raises: ValueError for more bytes than memory has free."""
    if size > _FREELY and size > (free := free_memory()):
        raise ImplausibleError(f"it takes {in_words(size)} of memory, of which {in_words(free)} are free")


def read_fitting(path: str | Path) -> bytes:
    """The content of a file of any size that memory holds. Raises: OSError, as `reading`, and for a larger one."""
    with reading(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _FREELY and size > (free := free_memory()):
            raise OSError(errno.EFBIG, f"it has {in_words(size)}, of memory {in_words(free)} are free")
        return file.read()


def free_memory() -> int:
    """Bytes of memory that processes can still take, within the limit of the control group where there is one."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    with contextlib.suppress(OSError, ValueError):  # "max" where there is none
        group = Path("/sys/fs/cgroup")
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return free


def in_words(count: int) -> str:
    """Bytes as a person reads them."""
    size, unit = (count / 1e9, "GB") if count >= 1e9 else (count / 1e6, "MB")
    return f"{size:,.1f} {unit}"


class Bounded(io.RawIOBase):
    """A stream of bytes that ends with a ValueError once more than `largest` were read from it, or asked for at
    once.
    """

    def __init__(self, file: IO[bytes], largest: int) -> None:
        self.file, self.largest, self.left = file, largest, largest

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        content = self.file.read(min(size, self.left + 1) if size >= 0 else self.left + 1)
        self.left -= len(content)
        if self.left < 0:
            raise ImplausibleError(f"it unpacks to more than {in_words(self.largest)}")
        return content


def check_nested(value: object, deepest: int = 100, most: int = 10**6) -> None:
    """Raises: ValueError for containers that lie too deep in one another, or that by sharing their parts unfold to more
    than `most`.
    """
    sizes_known: dict[int, tuple[int, int]] = {}  # of each container: how many parts it unfolds to, how deep they lie

    def measured(part: object, depth: int) -> tuple[int, int]:
        if not isinstance(part, Mapping | list | tuple | set | frozenset):
            return 1, 0
        if id(part) not in sizes_known:
            if depth > deepest:
                raise ImplausibleError("it is nested too deeply")
            inside = [*part.keys(), *part.values()] if isinstance(part, Mapping) else part
            sizes = [measured(inner_part, depth + 1) for inner_part in inside]
            sizes_known[id(part)] = (
                1 + sum(size for size, _ in sizes),
                1 + max((height for _, height in sizes), default=0),
            )
        size, height = sizes_known[id(part)]
        if size > most or depth + height > deepest + 1:
            raise ImplausibleError(
                f"it unfolds to more than {most:,} parts" if size > most else "it is nested too deeply"
            )
        return size, height

    measured(value, 0)


def array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether it lies column by column, dtype) at the head of an .npy file, which is read up to the content.

    Raises: ValueError for another file, or a head beyond what a head needs.
    """
    head = file.read(8)
    version, wide = tuple(head[6:8]), 2 if head[6:8] == b"\x01\x00" else 4
    if head[:6] != b"\x93NUMPY" or version not in ((1, 0), (2, 0)):
        raise ValueError("it is no array of NumPy's format 1 or 2")
    length = file.read(wide)
    if len(length) < wide or (size := int.from_bytes(length, "little")) > _HEADER:
        raise ValueError("the head of an array is damaged or too long")
    text = io.BytesIO(length + file.read(size))
    try:
        header_reader = np.lib.format.read_array_header_1_0 if wide == 2 else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header_reader(text)
    except Exception as error:  # a literal that is nested too deeply raises MemoryError, a damaged one many kinds
        raise ValueError(f"the head of an array is damaged: {str(error)[:80]}") from None
    if any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"an array says that it has the shape {list(shape)}")
    return shape, fortran, dtype


def mapped(path: str | Path, mode: Literal["r", "c"] = "r") -> np.ndarray:
    """The array in an .npy file, of which only what is used is read; "c" may be written in memory.

    Raises: OSError, as `reading`; ValueError for a file that is not all of an array of numbers.
    """
    with reading(path) as file:
        shape, fortran, dtype = array_header(file)
        bytes_there = os.fstat(file.fileno()).st_size - (start := file.tell())
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != bytes_there:
            content_text = "pickled objects" if dtype.hasobject else f"{bytes_there:,} bytes"
            raise ValueError(f"it says that it has the shape {list(shape)} of {dtype}, and holds {content_text}")
        if not bytes_there:
            return np.empty(shape, dtype)
        return np.memmap(file, dtype, mode, start, shape, "F" if fortran else "C")


@contextlib.contextmanager
def member_of(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], bool, np.dtype]]:
    """(the content, shape, whether column by column, dtype) of the array `name` of an open .npz archive.

    Raises: KeyError where it has none; ValueError where its head says another size than the archive, or objects.
    """
    with archive.open(f"{name}.npy") as file:
        shape, fortran, dtype = array_header(file)
        bytes_there = archive.getinfo(f"{name}.npy").file_size - file.tell()
        if dtype.hasobject:
            raise ValueError("allow_pickle: it holds pickled objects")
        if math.prod(shape) * dtype.itemsize != bytes_there:
            raise ValueError(
                f"{name} says that it has the shape {list(shape)} of {dtype}, and holds {bytes_there:,} bytes"
            )
        yield file, shape, fortran, dtype


def read_arrays(path: str | Path | IO[bytes], names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz archive, or those of these names, whole in memory.

    Raises: KeyError for one that is missing; one of `DAMAGE` for a damaged or implausible archive.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(reading(path)) if isinstance(path, str | Path) else path
        archive = stack.enter_context(zipfile.ZipFile(file))
        infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        members_needed = {name: infos[name] for name in (infos if names is None else names)}
        check_unpacked(*(sum(getattr(i, k) for i in members_needed.values()) for k in ("file_size", "compress_size")))
        return {name: _array(archive, name) for name in members_needed}


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with member_of(archive, name) as (content, shape, fortran, dtype):
        values = np.empty(math.prod(shape), dtype)
        memory, start = memoryview(values.view(np.uint8).data) if values.nbytes else memoryview(b""), 0
        while start < len(memory):
            piece = content.read(min(_PIECE, len(memory) - start))
            if not piece:
                raise EOFError(f"{name} ends after {start:,} of {len(memory):,} bytes")
            memory[start : start + len(piece)] = piece
            start += len(piece)
        return values.reshape(shape[::-1]).T if fortran else values.reshape(shape)


SEAL = "sha256"
"""The array of an archive that is the digest of all others."""


def sealed_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays and, as one more, the SHA-256 of their names, shapes, types and values."""
    return {**arrays, SEAL: np.array(_digest_of(arrays))}


def opened_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays without their digest; those of before there were any have none. Raises: ValueError for another."""
    content = {name: values for name, values in arrays.items() if name != SEAL}
    if SEAL in arrays and str(arrays[SEAL]) != _digest_of(content):
        raise ValueError("its sha256 is not the digest of what it holds")
    return content


def _digest_of(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def check_archive(archive: zipfile.ZipFile, packed: int) -> None:
    """Raises: ValueError for a zip archive of `packed` bytes whose members say that they are implausibly large or
    many.
    """
    sizes = [info.file_size for info in archive.infolist()]
    if len(sizes) > MEMBERS:
        raise ImplausibleError(f"it has {len(sizes):,} members, may have at most {MEMBERS:,}")
    check_plausible(sum(sizes), packed)
