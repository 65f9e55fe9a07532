"""Labelled images as a view: rows of pixels at hand, of a mapped file, or of image files that are decoded when they are
asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from poise.core.errors import InputError
from poise.data.encoded import Encoded
from poise.data.geometry import resampled

_PART = 1024
"""Images that are in memory at a time where a split is read through."""


class Split:
    """Labelled images: uint8 [C, H, W] each, `labels` int64 [N], `ids` int64 [N], the image's number in the original
    split.

    images: uint8 [N, C, H, W], in memory or mapped, or `Encoded`. A part of a split shares the images of the whole.
    Raises: InputError where dtypes or lengths do not fit.
    """

    def __init__(self, images: Tensor | Encoded, labels: Tensor, ids: Tensor, rows: Tensor | None = None) -> None:
        self.encoded = images if isinstance(images, Encoded) else None
        """The image files; None where there are only pixels."""
        self.resident = images.pixels if isinstance(images, Encoded) else images
        """Decoded pixels, uint8 [M, C, H, W]; None where every image is decoded when it is asked for."""
        self.rows, self.labels, self.ids = rows, labels, ids
        pixels = self.resident
        if pixels is not None and (pixels.dtype != torch.uint8 or pixels.dim() != 4):
            raise InputError(f"images must be uint8 [N, C, H, W], not {pixels.dtype} {list(pixels.shape)}")
        for name, column in (("labels", labels), ("ids", ids)):
            if column.dtype != torch.int64 or column.shape != (len(self),):
                raise InputError(f"{name} must be int64 [{len(self)}], not {column.dtype} {list(column.shape)}")

    @classmethod
    def of(cls, images: Tensor | Encoded, labels: Tensor) -> Split:
        """A whole split, numbered in order."""
        return cls(images, labels, torch.arange(len(images), device=labels.device))

    def __len__(self) -> int:
        return len(self._source if self.rows is None else self.rows)

    @property
    def _source(self) -> Tensor | Encoded:
        source = self.encoded if self.encoded is not None else self.resident
        assert source is not None
        return source

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = (
            self.encoded.shape if self.resident is None and self.encoded else self.images_at(slice(0)).shape[1:]
        )
        return channels, height, width

    @property
    def device(self) -> torch.device:
        """Where the pixels are, or are decoded."""
        return torch.device("cpu") if self.resident is None else self.resident.device

    @property
    def nbytes(self) -> int:
        """What all images take as uint8."""
        channels, height, width = self.shape
        return len(self) * channels * height * width

    @property
    def images(self) -> Tensor:
        """All images, uint8 [N, C, H, W]: decoded, or gathered where the split is a part of another."""
        return self.images_at(slice(None))

    def images_at(self, rows: Tensor | slice, boxes: Tensor | None = None) -> Tensor:
        """The images of `rows`, uint8 [B, C, H, W]; of each only what is in its box (top, left, height, width), int64
        [B, 4], if given.

        Raises: DataError naming an image that cannot be decoded.
        """
        if self.rows is not None:
            rows = self.rows[rows if isinstance(rows, slice) else rows.to(self.rows.device)]
        if self.encoded is not None and (self.resident is None or boxes is not None):
            return self.encoded.read(rows, boxes)
        assert self.resident is not None
        pixels = self.resident[rows if isinstance(rows, slice) else rows.to(self.resident.device)]
        return pixels if boxes is None else resampled(pixels, boxes)

    def sizes(self, rows: Tensor) -> Tensor:
        """(height, width) of the images of `rows` before they are cropped or resized, int64 [B, 2]."""
        if self.encoded is None:
            return torch.tensor(self.shape[1:]).expand(len(rows), 2)
        rows = rows.cpu() if self.rows is None else self.rows[rows.to(self.rows.device)].cpu()
        return self.encoded.sizes[rows]

    def parts(self, size: int = _PART) -> Iterator[Tensor]:
        """All images in order, uint8 [n, C, H, W], no more than `size` at a time."""
        for start in range(0, len(self), size):
            yield self.images_at(slice(start, start + size))

    def to(self, device: torch.device | str) -> Split:
        """The split on another device: its own pixels only. Where images are decoded when asked for, the labels
        move.
        """
        labels, ids = self.labels.to(device), self.ids.to(device)
        if self.resident is None:
            return Split(self._source, labels, ids, self.rows)
        if torch.device(device).type == self.resident.device.type == "cpu":
            return self
        return Split(self.images.to(device), labels, ids)

    def undecoded(self) -> Split:
        """The split without its decoded pixels where there are files: for crops, which are taken of whole images; else
        the split itself.
        """
        if self.encoded is None:
            return self
        return Split(replace(self.encoded, pixels=None), self.labels, self.ids, self.rows)

    def subset(self, indices: Tensor | slice) -> Split:
        """The rows `indices`, in their order; the images keep their ids and are not copied."""
        labels, ids = self.labels[indices], self.ids[indices]
        if self.rows is not None:
            rows = self.rows[indices if isinstance(indices, slice) else indices.to(self.rows.device)]
        elif self.encoded is None and isinstance(indices, slice):
            return Split(self.images_at(indices), labels, ids)
        else:
            rows = (
                torch.arange(len(self))[indices]
                if isinstance(indices, slice) or indices.dtype == torch.bool
                else indices
            )
        return Split(self.encoded if self.encoded is not None else self._source, labels, ids, rows)

    def first(self, count: int) -> Split:
        """The first `count` images. Raises InputError unless 1 <= count <= len."""
        if not 1 <= count <= len(self):
            raise InputError(
                f"first({count}): the split has {len(self)} images, so the count must be from 1 to {len(self)}"
            )
        return self.subset(slice(count))

    def pixels(self, rows: Tensor | slice = slice(None), dtype: torch.dtype = torch.float32) -> Tensor:
        """Images of `rows` as numbers in [0, 1], value / 255, [B, C, H, W]."""
        return in_unit_interval(self.images_at(rows), dtype)


def in_unit_interval(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 images as value / 255."""
    x = images.to(dtype)
    # a divisor on the device: accelerators turn division by a host number into a product, which rounds differently
    return x.div_(torch.full((), 255, dtype=dtype, device=x.device))
