"""Files on disk: written whole or not at all, read within bounds, and swept where a killed process left its part.

A file is written beside its place under a name of its own, which its writer holds locked, so that another process can
tell what is still written from what was left.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from poise.core.errors import PoiseError, StorageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LARGEST = 2**28
_PART = re.compile(r"\..*\.([0-9]+-)?[0-9a-f]{8}\.part", re.DOTALL)
_STALE = 24 * 3600.0
"""Seconds after which what cannot be locked to be judged, on file systems without locks, counts as left."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises: StorageError naming `path` for whatever keeps the body from writing it; Poise's own errors pass."""
    try:
        yield
    except PoiseError:
        raise
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno in _FULL:
            why = f"no space is left or a size limit is reached ({why}); what was there is unharmed"
        raise StorageError(f"{path} cannot be written: {why}") from None


@contextlib.contextmanager
def refusing(kind: type[PoiseError], path: str | Path) -> Iterator[None]:
    """Raises: `kind` naming `path` for whatever keeps the body from looking there: a folder of others, a name that no
    system takes.
    """
    try:
        yield
    except PoiseError:
        raise
    except (OSError, ValueError) as error:  # ValueError: of a name with a NUL in it
        did = "written" if kind is StorageError else "read"
        raise kind(f"{path!s} cannot be {did}: {getattr(error, 'strerror', None) or error}") from None


def check_writable(path: str | Path) -> None:
    """Refuses, before long work, a place where its result could not be written. Raises: StorageError."""
    path = Path(path)
    with refusing(StorageError, path):
        nearest = next(parent for parent in path.absolute().parents if parent.exists())
        _regular(path)
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise StorageError(f"{path} cannot be written: {nearest} is not a folder that one may write to")


def reading(path: str | Path, largest: int | None = None) -> io.BufferedReader:
    """A file opened for reading, of at most `largest` bytes. Raises: OSError, also for a pipe or a device, on which one
    could wait for ever.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    try:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        if largest is not None and status.st_size > largest:
            raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes, may have at most {largest:,}")
    except BaseException:
        file.close()
        raise
    return file


def read_bytes(path: str | Path, largest: int = _LARGEST) -> bytes:
    """The content of a file of at most `largest` bytes. Raises: OSError, as `reading`."""
    with reading(path, largest) as file:
        return file.read()


def digest_of_file(path: str | Path) -> str:
    """SHA-256 of a file of any size. Raises: OSError, as `reading`."""
    with reading(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: str | Path) -> str:
    """A text in UTF-8. Raises: OSError as `read_bytes`; UnicodeDecodeError, which is a ValueError."""
    return read_bytes(path).decode()


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write a file so that it either has all of `data` or is as it was: temporary file, fsync, rename. Raises:
    StorageError.
    """
    write_files({Path(path): data})
    return Path(path)


def write_text(path: str | Path, text: str) -> Path:
    """`write_bytes` of a text in UTF-8."""
    return write_bytes(path, text.encode())


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write files that belong together as `write_bytes` does: none is renamed before all lie on the disk. Raises:
    StorageError.
    """
    with contextlib.ExitStack() as parts:
        written: list[tuple[Path, _Part]] = []
        for path, data in files.items():
            with writing(path):
                part = parts.enter_context(_Part.of(_regular(path)))
                part.file.write(data)
                part.sync()
            written.append((path, part))
        for path, part in written:
            with writing(path):
                part.rename()


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[IO[bytes]]:
    """A file to be written that stands at `path` once the block has ended, or not at all, as by `write_bytes`. Raises:
    StorageError.
    """
    path = _regular(Path(path))
    with writing(path), _Part.of(path) as part:
        yield part.file
        part.sync()
        part.rename()


class _Part:
    """The temporary file beside `place` in which it is written, locked as long as it is; removed on leaving unless it
    was renamed.
    """

    def __init__(self, place: Path, path: Path, file: IO[bytes]) -> None:
        self.place, self.path, self.file = place, path, file

    @classmethod
    def of(cls, place: Path) -> _Part:
        """Its mode is what the umask makes it. Removes what killed processes left of the same file."""
        with refusing(StorageError, place):
            name = os.fsdecode(os.fsencode(place.name)[:200])  # a name has at most 255 bytes
        place.parent.mkdir(parents=True, exist_ok=True)
        sweep(place.parent.glob(f".{_literal(name)}.*.part"))
        while True:
            path = place.with_name(f".{name}.{os.getpid()}-{secrets.token_hex(4)}.part")
            file = path.open("xb")
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists():  # no other process swept it before it was locked
                return cls(place, path, file)
            file.close()

    def sync(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())

    def rename(self) -> None:
        os.replace(self.path, self.place)
        _sync_folder(self.place.parent)

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # what keeps that from working is not what went wrong
            self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a full disk once more
            self.file.close()


def _literal(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _lock(file: IO[bytes] | int) -> bool:
    """Whether no other process holds the file or folder; on file systems without locks whether it is old enough that
    none can.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - os.fstat(file if isinstance(file, int) else file.fileno()).st_mtime > _STALE
    return True


def _sync_folder(folder: Path) -> None:
    """Have a rename in the folder on the disk too, where the file system can."""
    with contextlib.suppress(OSError), _open_folder(folder) as number:
        os.fsync(number)


def _regular(path: Path) -> Path:
    """Where a link leads, which is to stay one. Raises: StorageError for what is there and cannot be replaced, such as
    a device.
    """
    with refusing(StorageError, path):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(path)
        place = path.resolve() if path.is_symlink() else path
    if place.exists() and not place.is_file():
        kind = "a folder" if place.is_dir() else "a device or a pipe"
        raise StorageError(f"{path} cannot be written: it is {kind}, must be a file")
    return place


def sweep(paths: Iterable[Path]) -> None:
    """Remove, of these, the temporary files that no process writes any more."""
    for path in paths:
        if not _PART.fullmatch(path.name):
            continue
        with contextlib.suppress(OSError), path.open("rb") as file:
            if _lock(file):
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A folder that is gone when the block ends, however it does; those of this prefix that killed processes left go
    first.

    Raises: OSError where none can be made.
    """
    for leftover in parent.glob(f"{_literal(prefix)}*"):
        with contextlib.suppress(OSError), _open_folder(leftover) as number:
            if _lock(number):
                shutil.rmtree(leftover, ignore_errors=True)
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        try:
            with _open_folder(folder) as number:
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(number, fcntl.LOCK_EX)
                if folder.exists():  # no other process swept it before it was locked
                    yield folder
                    return
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _open_folder(folder: Path) -> Iterator[int]:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield number
    finally:
        os.close(number)


def append_line(path: str | Path, line: str) -> None:
    """Append a line to a file, or leave the file as it was. Raises: StorageError."""
    path = Path(path)
    with writing(path), path.open("ab", buffering=0) as file:
        size = file.tell()
        data = f"{line}\n".encode()
        try:
            if file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise
