"""WebDataset shards: tar files whose members are images, each with its label beside it (https://github.com/webdataset/webdataset)."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import numpy as np
from pydantic import Field

from poise.core.documents import parse
from poise.core.errors import DataError
from poise.core.files import reading
from poise.core.settings import settings
from poise.data.cache import indexed
from poise.data.dataset import Data
from poise.data.encoded import Places
from poise.data.images import SUFFIXES
from poise.data.own import OwnImages, numbered


@settings
class Shards(OwnImages):
    """Your own images in WebDataset shards, read where they lie in them; nothing is unpacked.

    Members of one key (`000001.jpg`, `000001.cls`) belong together. The label is the text of the member .cls or .txt,
    or what .json has under "label". Shards are read in the order of their names; where their members lie is found once
    and kept in the user's cache.
    """

    path: Annotated[str, Field(min_length=1)]
    """The shards to train on: `train-*.tar`, `train-{0000..0127}.tar`, or a folder; looked up here, then in the data
    folder.
    """
    test_path: str | None = None
    """The shards to test on; None makes the test split here."""

    def read(self, data_dir: Path) -> Data:
        shards = [matching(path, data_dir) for path in (self.path, self.test_path) if path is not None]
        folder = shards[0][0].parent
        parts = [_members(paths) for paths in shards]
        files = [str(path.absolute()) for paths in shards for path in paths]
        first = [0, len(shards[0])]
        places = Places(
            folder,
            tuple(files),
            np.concatenate([part["owners"] + start for part, start in zip(parts, first, strict=False)]),
            np.concatenate([part["starts"] for part in parts]),
            np.concatenate([part["lengths"] for part in parts]),
            tuple(name for part in parts for name in part["names"].tolist()),
        )
        column, names = numbered([label for part in parts for label in part["labels"].tolist()])
        labels = np.split(column, [len(parts[0]["labels"])])[: len(parts)]
        return self.assembled(folder.name, places, labels, names)


_SHARDS, _LABEL = 10**6, 2**20
"""The most shards of a path, and bytes of a label or a head."""


class _Heads:
    """A tar file of which heads and labels alone are read, so that none may ask for more."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self._read = file.seek, file.tell, file.read

    def read(self, size: int) -> bytes:
        if not 0 <= size <= 2 * _LABEL:
            raise ValueError(f"a head says that it has {size:,} bytes")
        return self._read(size)


def matching(pattern: str, data_dir: Path) -> list[Path]:
    """The files of a pattern with `*`, `?` or one {first..last}, or all .tar files of a folder, by name. Raises:
    DataError for none.
    """
    typed_path = Path(pattern).expanduser()
    for root in (Path(), data_dir):
        place = root / typed_path
        if place.is_dir():
            files = sorted(place.glob("*.tar"))
        elif numbers := re.search(r"\{(\d+)\.\.(\d+)\}", str(place)):
            first, last = numbers.groups()
            if int(last) - int(first) > _SHARDS:
                raise DataError(f"path = {pattern} names more than {_SHARDS:,} shards")
            wide = [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
            files = [Path(str(place).replace(numbers.group(), number)) for number in wide]
            if lacking := [path for path in files if not path.is_file()]:
                if len(lacking) == len(files):
                    continue
                raise DataError(f"the shard {lacking[0]} of {pattern} is missing")
        else:
            files = sorted(place.parent.glob(place.name))
        if files:
            return files
    raise DataError(f"there is no shard {pattern} (looked in {Path.cwd()} and {data_dir}); set path to your data")


def _members(shards: list[Path]) -> dict[str, np.ndarray]:
    """Of all images of the shards: owners, starts, lengths, names and labels."""
    return indexed(Places.whole(Path(), [str(path.absolute()) for path in shards]), "members", lambda: _scanned(shards))


def _scanned(shards: list[Path]) -> dict[str, np.ndarray]:
    rows = [(owner, *row) for owner, shard in enumerate(shards) for row in _images(shard)]
    if not rows:
        raise DataError(f"{shards[0]} holds no images ({', '.join(SUFFIXES)})")
    owners, names, starts, lengths, labels = zip(*rows, strict=True)
    numbers = {"owners": np.array(owners), "starts": np.array(starts), "lengths": np.array(lengths)}
    return {**numbers, "names": np.array(names), "labels": np.array(labels)}


def _images(shard: Path) -> Iterator[tuple[str, int, int, str]]:
    """(name, first byte, bytes, label) of every image of a shard, in its order."""
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, str] = {}
    try:
        size = shard.stat().st_size
        with reading(shard) as content:
            content.seek(max(0, size - 2 * tarfile.BLOCKSIZE))
            whole = not any(content.read())  # a tar file ends with two empty blocks
            content.seek(0)
            archive = tarfile.open(fileobj=_Heads(content), mode="r:")  # type: ignore[arg-type]  # noqa: SIM115
            for member in archive:
                if member.size < 0 or member.issparse():  # a size below 0 would lead back, and round and round
                    raise DataError(f"{shard}, {member.name} says that it has {member.size} bytes, or is sparse")
                folder, _, file = member.name.rpartition("/")
                stem, _, end = file.partition(".")
                key, end = f"{folder}/{stem}", f".{end.lower()}"
                if not member.isfile() or file.startswith("."):
                    continue
                if member.offset_data + member.size > size:
                    raise DataError(f"{shard} is cut off in {member.name}")
                if end in SUFFIXES:
                    images[key] = (member.name, member.offset_data, member.size)
                elif end in (".cls", ".txt", ".json"):
                    label = archive.extractfile(member)
                    assert label is not None
                    if member.size > _LABEL:
                        raise DataError(f"{shard}, {member.name} has {member.size:,} bytes, too many for a label")
                    labels.setdefault(key, _label(label.read(), end, f"{shard}, {member.name}"))
    except (OSError, ValueError, tarfile.TarError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{shard} is not a readable shard: {error}") from None
    if not whole:
        raise DataError(f"{shard} is cut off at its end")
    for key, (name, start, length) in images.items():
        if key not in labels:
            raise DataError(f"{shard}, {name} has no label beside it (.cls, .txt or .json)")
        yield name, start, length, labels[key]


def _label(content: bytes, end: str, name: str) -> str:
    try:
        text = content.decode()
        value = parse(text)["label"] if end == ".json" else text.strip()
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{name} holds no label") from None
    if not isinstance(value, str | int) or value == "":
        raise DataError(f"{name} holds no label, but {value!r}")
    return str(value)
