"""Published data files: found, fetched when missing, and compared with their known digests before anything reads
them.
"""

from __future__ import annotations

import errno
import functools
import gzip
import hashlib
import io
import os
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar, cast

from poise.core.bounds import MEMBERS, Bounded, check_archive, in_words, unpacked_at_most
from poise.core.errors import DataError
from poise.core.files import read_bytes, reading, temporary_folder
from poise.data.dataset import DataSource


@dataclass(frozen=True)
class Remote:
    """A file as its authors publish it: where, and the MD5 that everyone quotes for it."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]

    @property
    def source(self) -> str:
        """The official address, or the same file name below POISE_MIRROR where that is set."""
        mirror = os.environ.get("POISE_MIRROR")
        return f"{mirror.rstrip('/')}/{self.name}" if mirror else self.url

    @property
    def is_archive(self) -> bool:
        return self.name.endswith((".tar.gz", ".zip"))


@dataclass
class Files:
    """The files of one load: reads them whole, checks their digests and collects what a record must say about them."""

    folder: Path
    digests: Mapping[str, str]
    verify: bool
    notes: list[str] = field(default_factory=list)

    def path(self, name: str) -> Path:
        """The file `name`, or `name.gz` where only that is there. Raises DataError when neither is."""
        path = _present(self.folder, name)
        if path is None:
            raise DataError(f"{self.folder / name} is missing")
        return path

    def read(self, name: str) -> bytes:
        """The content of `name`, unpacked where it is gzipped. Raises DataError for another digest or a damaged
        file.
        """
        path = self.path(name)
        content = _whole(path)
        note = compare(content, self.digests.get(path.name), path, self.verify)
        if note is not None:
            self.notes.append(note)
        if path.suffix != ".gz":
            return content
        try:
            with gzip.open(io.BytesIO(content)) as file:
                return Bounded(cast(IO[bytes], file), unpacked_at_most(len(content))).read()
        except (OSError, ValueError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is not a whole gzip file: {error}") from None


def _whole(path: Path) -> bytes:
    try:
        return read_bytes(path, _LARGEST)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


_LARGEST = 2**30
"""Bytes of any published file: four times those of the largest."""
NOTE = "poise-note.txt"
"""In a folder unpacked from an archive that is not the published one: what every record of it is to say."""


def compare(content: bytes, md5: str | None, path: Path, verify: bool) -> str | None:
    """None where the digest agrees or none is known, else a note for the record. With `verify` raises DataError
    instead.
    """
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 is None or digest == md5:
        return None
    if verify:
        hint = "fetch it again, or set verify=False to read it all the same"
        raise DataError(f"{path} has MD5 digest {digest}, not {md5} as published: {hint}")
    return f"{path.name} differs from the published file: MD5 {digest}, not {md5}"


@dataclass(frozen=True, kw_only=True)
class PublishedSource(DataSource):
    """A data set in the files its authors publish."""

    folders: ClassVar[tuple[str, ...]] = ()
    """Where its files may lie below the data folder; the first is where downloads go."""
    required: ClassVar[tuple[str, ...]] = ()
    """Files (or folders) without which it cannot be read; each may be gzipped."""
    digests: ClassVar[Mapping[str, str]] = {}
    """MD5 by file name."""
    remotes: ClassVar[tuple[Remote, ...]] = ()

    download: bool = True
    """Fetch missing files from their official address."""
    verify: bool = True
    """Refuse files whose digest is not the published one; otherwise read them and say so in the record. An unpacked
    Tiny-ImageNet, for which no digests are published, is taken as it is."""

    def files(self, data_dir: Path) -> Files:
        """The data set's files, fetched if need be. Raises DataError when they are not to be had."""
        folder = self.found_in(data_dir)
        if folder is None:
            target = data_dir / self.folders[0]
            archives = any(remote.is_archive for remote in self.remotes)
            at_hand = archives and all((data_dir / remote.name).is_file() for remote in self.remotes)
            if not self.download and not at_hand:
                raise DataError(self._missing(data_dir))
            for remote in self.remotes:
                obtain(remote, data_dir, target, self.verify)
            folder = self.found_in(data_dir)
        if folder is None:
            raise DataError(self._missing(data_dir))
        note = folder / NOTE
        notes = [_whole(note).decode("utf-8", "replace")] if note.is_file() else []
        return Files(folder, self.digests, self.verify, notes)

    def _candidates(self, data_dir: Path) -> list[Path]:
        return [*(data_dir / name for name in self.folders), data_dir]

    def found_in(self, data_dir: Path) -> Path | None:
        """The folder in which its files lie, if they are there."""
        for folder in self._candidates(data_dir):
            if all(_present(folder, name) is not None for name in self.required):
                return folder
        return None

    def _missing(self, data_dir: Path) -> str:
        places = ", ".join(str(folder) for folder in self._candidates(data_dir))
        first = next(name for name in self.required if _present(data_dir / self.folders[0], name) is None)
        urls = " ".join(remote.url for remote in self.remotes)
        place = data_dir if any(remote.is_archive for remote in self.remotes) else data_dir / self.folders[0]
        return (
            f"{type(self).__name__}: {first} is missing (looked in {places}); set download=True, or fetch {urls} and"
            f" put it into {place}"
        )


def _present(folder: Path, name: str) -> Path | None:
    plain = folder / name
    if plain.exists():
        return plain
    archive = plain.with_name(plain.name + ".gz")
    return archive if archive.exists() else None


def obtain(remote: Remote, data_dir: Path, target: Path, verify: bool = True) -> None:
    """Have the file in `target`; an archive is fetched into `data_dir`, unpacked to `target` and removed if it was
    fetched.

    An archive that already lies in `data_dir` is used; one that is not as published leaves a note. Whatever fails
    leaves nothing behind.
    Raises: DataError naming the address and where to put the file by hand.
    """
    if not remote.is_archive:
        if _present(target, remote.name.removesuffix(".gz")) is None:
            fetch(remote, target)
        return
    archive = data_dir / remote.name
    downloaded, note = not archive.is_file(), None
    if downloaded:
        fetch(remote, data_dir)
    else:
        note = compare(_whole(archive), remote.md5, archive, verify)
    try:
        unpack(archive, target)
        if note is not None:
            (target / NOTE).write_text(note)
    finally:
        if downloaded:
            archive.unlink(missing_ok=True)


def fetch(remote: Remote, folder: Path) -> Path:
    """Download one file into `folder`, with a progress bar on a terminal; its digest is always checked. Raises
    DataError.
    """
    import pooch

    parents_created = _missing_parents(folder)
    connections: list[Any] = []  # a failed download leaves its connection to us to close

    def bounded(response: Any, **_: Any) -> None:
        connections.append(response)
        response.iter_content = functools.partial(_at_most, response.iter_content)

    hooks = {"response": bounded}
    downloader: Any = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), hooks=hooks)
    try:
        got = pooch.retrieve(remote.source, f"md5:{remote.md5}", fname=remote.name, path=folder, downloader=downloader)
    except (OSError, ValueError) as error:
        _remove_empty(parents_created)
        place = folder / remote.name
        raise DataError(
            f"{remote.source} could not be downloaded ({_reason(error)}): fetch it by hand and put it at {place}"
        ) from error
    finally:
        for response in connections:
            response.close()
    return Path(got)


def _at_most(pieces: Callable[..., Iterator[bytes]], *arguments: Any, **more: Any) -> Iterator[bytes]:
    """The pieces of an answer. Raises: OSError where it goes on beyond what any published file has."""
    total = 0
    for piece in pieces(*arguments, **more):
        total += len(piece)
        if total > _LARGEST:
            raise OSError(errno.EFBIG, f"it is longer than {in_words(_LARGEST)}")
        yield piece


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP status {response.status_code}"
    if type(error) is ValueError:  # what the download library raises for another digest
        return "its MD5 digest is not the published one"
    return getattr(error, "strerror", None) or type(error).__name__


def _missing_parents(folder: Path) -> list[Path]:
    """The folders that creating `folder` would create, innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # was never made, or somebody else put something in
            return


def unpack(archive: Path, target: Path) -> None:
    """Unpack the archive's folder `target.name` to `target`; files that are already there stay. A damaged archive
    leaves nothing.

    Raises: DataError for an archive that is damaged or holds no such folder, or a place that cannot be written.
    """
    try:
        with temporary_folder(archive.parent, ".unpacking-") as temporary:
            _extract(archive, str(temporary))
            target_part = temporary / target.name
            if not target_part.is_dir():
                raise DataError(f"{archive} holds no folder {target.name!r}")
            _move_missing(target_part, target)
    except DataError:
        raise
    except (OSError, ValueError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
        raise DataError(f"{archive} cannot be unpacked: {error}") from None


def _extract(archive: Path, folder: str) -> None:
    with reading(archive, _LARGEST) as file:
        size = os.fstat(file.fileno()).st_size
        if archive.suffix == ".zip":
            with zipfile.ZipFile(file) as archive_file:
                check_archive(archive_file, size)
                archive_file.extractall(folder)
            return
        with (
            gzip.open(file) as whole,
            tarfile.open(fileobj=Bounded(cast(IO[bytes], whole), unpacked_at_most(size)), mode="r|") as archive_file,
        ):
            for number, member in enumerate(archive_file):
                if member.size < 0 or member.issparse() or number > MEMBERS:
                    raise ValueError(f"its member {number} is of {member.size} bytes, or sparse, or one of too many")
                archive_file.extract(member, folder, filter="data")


def _move_missing(made: Path, target: Path) -> None:
    if not target.exists():
        made.rename(target)
    elif target.is_dir():
        for path in made.iterdir():
            _move_missing(path, target / path.name)
