"""Encoded images that are decoded when they are asked for: files, members of tar shards, or the bytes of one mapped
file.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import torch
from torch import Tensor

from poise.core.errors import DataError
from poise.core.files import reading
from poise.data.geometry import Geometry
from poise.data.images import decoded, in_pieces, opened


class Contents(Protocol):
    """Encoded images in an order."""

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """What image `number` is called in an error."""
        ...

    def open(self, number: int) -> IO[bytes]:
        """The encoded image as a file. Raises: DataError naming it where it cannot be read."""
        ...


class Origin(Contents, Protocol):
    """Encoded images where their owner keeps them."""

    @property
    def folder(self) -> object:
        """What an error about all of them calls them."""
        ...

    @property
    def nbytes(self) -> int:
        """What the encoded images take."""
        ...

    def facts(self) -> list[tuple[str, int, int]]:
        """(name, bytes, time of the last change in ns) of every file. Raises: DataError naming one that is missing."""
        ...

    def layout(self) -> bytes:
        """Where in the files the images lie."""
        ...


@dataclass(frozen=True, eq=False)
class Places:
    """Where the encoded images lie: image i is `lengths[i]` bytes of `files[owners[i]]`
    from `starts[i]` on (the whole file where that is -1).

    names: what an error calls each image; where they are empty, its file. folder: what relative paths are relative to.
    """

    folder: Path
    files: tuple[str, ...]
    owners: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    names: tuple[str, ...] = ()

    @classmethod
    def whole(cls, folder: Path, files: Sequence[str]) -> Places:
        """One image per file."""
        count = len(files)
        return cls(folder, tuple(files), np.arange(count), np.full(count, -1), np.zeros(count, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.owners)

    def name(self, number: int) -> str:
        file = str(self.folder / self.files[self.owners[number]])
        return f"{file}, {self.names[number]}" if self.names else file

    def open(self, number: int) -> IO[bytes]:
        try:
            file = reading(self.folder / self.files[self.owners[number]])
            if self.starts[number] < 0:
                return file
            with file:
                file.seek(int(self.starts[number]))
                return io.BytesIO(file.read(int(self.lengths[number])))
        except OSError as error:
            raise DataError(f"{self.name(number)} cannot be read: {error.strerror or error}") from None

    def facts(self) -> list[tuple[str, int, int]]:
        return self._facts

    @cached_property
    def _facts(self) -> list[tuple[str, int, int]]:
        fact_list, folder = [], str(self.folder)
        for file in self.files:
            try:
                status = os.stat(os.path.join(folder, file))  # noqa: PTH116, PTH118  making a Path of each takes as long as all the rest
            except OSError as error:
                raise DataError(f"{self.folder / file} cannot be read: {error.strerror or error}") from None
            fact_list.append((file, status.st_size, status.st_mtime_ns))
        return fact_list

    @property
    def nbytes(self) -> int:
        shards = int(self.lengths.sum())
        return shards if shards else sum(size for _, size, _ in self.facts())

    def layout(self) -> bytes:
        columns = (self.owners, self.starts, self.lengths)
        return b"".join(column.astype(np.int64).tobytes() for column in columns) + "\0".join(self.names).encode()


@dataclass(frozen=True, eq=False)
class Packed:
    """The bytes of all images in one mapped file, image i from `starts[i]` to `starts[i + 1]`; processes share its
    pages.
    """

    path: Path
    starts: np.ndarray
    origin: Origin
    """Where they were read from, which errors name."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def _bytes(self) -> np.ndarray:
        return np.memmap(self.path, dtype=np.uint8, mode="r")

    def name(self, number: int) -> str:
        return self.origin.name(number)

    def open(self, number: int) -> IO[bytes]:
        return io.BytesIO(self._bytes[self.starts[number] : self.starts[number + 1]].tobytes())


@dataclass(frozen=True, eq=False)
class Encoded:
    """A run of encoded images, `first` to `first + count`, and how each becomes uint8 [C, H, W] of one `shape`.

    pixels: the decoded images, uint8 [count, C, H, W], where they were kept.
    sizes_known: (height, width) of all images, [N, 2], where they are known.
    """

    contents: Contents
    geometry: Geometry
    shape: tuple[int, int, int]
    first: int = 0
    count: int = -1
    pixels: Tensor | None = None
    sizes_known: np.ndarray | None = None

    def __len__(self) -> int:
        return self.count if self.count >= 0 else len(self.contents)

    def part(self, start: int, stop: int) -> Encoded:
        """The images from `start` to `stop`, none copied."""
        pixels = None if self.pixels is None else self.pixels[start:stop]
        return replace(self, first=self.first + start, count=stop - start, pixels=pixels)

    @cached_property
    def sizes(self) -> Tensor:
        """(height, width) of every image before it is cropped or resized, int64 [count, 2]; read from their heads where
        not yet known.
        """
        sizes_here = self.sizes_known[self.first : self.first + len(self)] if self.sizes_known is not None else None
        values = (
            sizes_here
            if sizes_here is not None
            else head_sizes(self.contents, range(self.first, self.first + len(self)))
        )
        return torch.from_numpy(values.astype(np.int64))

    def read(self, rows: Tensor | slice, boxes: Tensor | None = None) -> Tensor:
        """The images of `rows` decoded, uint8 [B, C, H, W]; of each only what is in its box (top, left, height, width),
        if given.

        Raises: DataError naming an image that is damaged or has another shape.
        """
        numbers = range(len(self))[rows] if isinstance(rows, slice) else rows.tolist()
        values = np.empty((len(numbers), *self.shape), dtype=np.uint8)

        def place(piece: range) -> None:
            for at in piece:
                values[at] = self.decode(numbers[at], None if boxes is None else boxes[at].tolist())

        in_pieces(place, len(numbers))
        return torch.from_numpy(values)

    def decode(self, number: int, box: Sequence[int] | None = None) -> np.ndarray:
        """One image, uint8 [C, H, W]. Raises: DataError naming it."""
        at = self.first + number
        name = self.contents.name(at)
        with self.contents.open(at) as file:
            image = decoded(file, name, self.geometry, box)
        if image.shape != self.shape:
            raise DataError(
                f"{name} has shape {list(image.shape)}, not {list(self.shape)} as required; set image_size,"
                " as by data.image_size=64, to resize them all"
            )
        return image


def head_sizes(contents: Contents, numbers: Sequence[int]) -> np.ndarray:
    """(height, width) of images, int32 [n, 2], by their heads; no pixel is decoded. Raises: DataError naming one that
    is no image.
    """
    sizes = np.empty((len(numbers), 2), dtype=np.int32)

    def look(piece: range) -> None:
        for at in piece:
            with contents.open(numbers[at]) as file, opened(file, contents.name(numbers[at])) as image:
                sizes[at] = image.height, image.width

    in_pieces(look, len(numbers))
    return sizes
