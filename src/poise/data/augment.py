"""Random changes of training images, batched on the device; None stands for no augmentation."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from poise.core import papers
from poise.core.errors import InputError, SettingsError
from poise.core.seeds import Draw
from poise.core.settings import Count, Positive, PositiveCount, Settings, UnitInterval, settings
from poise.data.geometry import random_boxes

_TRIES = 10
"""Boxes drawn of which the first that fits into the image is taken."""


class Augmentation(Settings, family="augmentation"):
    """A random change of images, drawn per example."""

    @property
    def crops(self) -> bool:
        """Whether what is shown of an image is cut out of it before it is resized (see `boxes`)."""
        return False

    @property
    def moves(self) -> bool:
        """Whether it does no more than put pixels elsewhere, or zeros in their places."""
        return False

    def boxes(self, draw: Draw, sizes: Tensor) -> Tensor:
        """Where `crops`: the part of each image that is shown, (top, left, height, width), int64 [B, 4]; sizes:
        (height, width) [B, 2].
        """
        raise SettingsError(
            f"{type(self).__name__}.boxes: an augmentation that crops must say what it shows; define it"
        )

    @abstractmethod
    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        """Changed images, [B, C, H, W] in [0, 1] like `x`, which stays as it was; each depends on its own image and
        draw only.
        """


@settings
class CropFlip(Augmentation):
    """Pad with zeros, crop at a random place, then mirror left to right with probability 1/2: the usual choice on
    CIFAR.
    """

    padding: Count = 4
    """Pixels added on every side."""
    flip: bool = True

    @property
    def moves(self) -> bool:
        return True

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        flips = draw.within("flip").integers(2, 1) == 1 if self.flip else None
        return _windows(x, self.padding, draw.within("crop"), flips)


@settings
class Shift(Augmentation):
    """Move by up to `pixels` in each direction and fill with zeros; no mirroring, as digits have a left and a right."""

    pixels: PositiveCount = 1

    @property
    def moves(self) -> bool:
        return True

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        return _windows(x, self.pixels, draw.within("shift"))


@settings
class CropShift(Augmentation):
    """Cut out a part, as large as the image but for s columns and rows together, and put it back elsewhere on zeros (Li
    & Spratling 2023).

    s is uniform on 0 .. `most`, of which cx ~ U{0 .. s} are columns and the rest rows; where the part is cut and where
    it is put are uniform and independent.
    """

    paper = papers.IDBH
    most: Count = 10

    @property
    def moves(self) -> bool:
        return True

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        height, width = x.shape[2:]
        if self.most >= min(height, width):
            raise InputError(
                f"CropShift.most = {self.most}: must be below {min(height, width)}, the side of the images"
            )
        uniform = draw.within("crop shift").uniform(6, dtype=torch.float64).unbind(1)

        def upto(number: int, most: Tensor) -> Tensor:
            return (uniform[number] * (most + 1)).long()

        offset = upto(0, torch.full_like(draw.index, self.most))
        columns = upto(1, offset)
        rows, columns = (
            _shifted(size, fewer, upto(first, fewer), upto(first + 1, fewer), x.device)
            for size, fewer, first in ((height, offset - columns, 2), (width, columns, 4))
        )
        flat = (rows.clamp(min=0)[:, :, None] * width + columns.clamp(min=0)[:, None, :]).flatten(1)
        inside = ((rows >= 0)[:, :, None] & (columns >= 0)[:, None, :])[:, None]
        shifted = x.flatten(2).gather(2, flat[:, None].expand(-1, x.shape[1], -1)).view_as(x)
        return torch.where(inside, shifted, 0)


def _shifted(size: int, fewer: Tensor, cut: Tensor, put: Tensor, device: torch.device) -> Tensor:
    """From which place of `size` each comes [B, size], where a piece `fewer` shorter, cut out from `cut` on, is put at
    `put`; -1 where none does.
    """
    places = torch.arange(size, device=device) - put[:, None]
    return torch.where((places >= 0) & (places < size - fewer[:, None]), places + cut[:, None], -1)


@settings
class RandomResizedCrop(Augmentation):
    """A part of random area and aspect ratio, stretched to the network's size (Szegedy et al. 2015), as in training on
    ImageNet.

    Where images come from files it is cut out before they are resized; so they are decoded anew for every batch.
    """

    scale: tuple[UnitInterval, UnitInterval] = (0.08, 1.0)
    """Bounds of the share of the image's area."""
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Bounds of width / height, drawn uniformly in its logarithm."""

    def __post_init__(self) -> None:
        _check_bounds(self, scale=self.scale, ratio=self.ratio)

    @property
    def crops(self) -> bool:
        return True

    def boxes(self, draw: Draw, sizes: Tensor) -> Tensor:
        return random_boxes(draw.within("box").uniform(_TRIES, 4, dtype=torch.float64), sizes, self.scale, self.ratio)

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        return x


@settings
class Flip(Augmentation):
    """Mirror left to right."""

    probability: UnitInterval = 0.5

    @property
    def moves(self) -> bool:
        return True

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        flips = draw.within("flip").uniform(1)[:, 0] < self.probability
        return torch.where(flips[:, None, None, None], x.flip(3), x)


@settings
class RandomErasing(Augmentation):
    """Fill a random box with random pixels, uniform in [0, 1] (Zhong et al. 2020)."""

    probability: UnitInterval = 0.25
    scale: tuple[UnitInterval, UnitInterval] = (0.02, 1 / 3)
    """Bounds of the share of the image's area."""
    ratio: tuple[Positive, Positive] = (0.3, 3.3)
    """Bounds of width / height, drawn uniformly in its logarithm."""

    def __post_init__(self) -> None:
        _check_bounds(self, scale=self.scale, ratio=self.ratio)

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        height, width = x.shape[2:]
        sizes = torch.tensor([[height, width]], device=x.device).expand(len(x), 2)
        top, left_edge, tall, wide = random_boxes(
            draw.within("box").uniform(_TRIES, 4, dtype=torch.float64), sizes, self.scale, self.ratio
        ).T[..., None]
        rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
        inside = ((rows >= top) & (rows < top + tall))[:, :, None] & (
            (columns >= left_edge) & (columns < left_edge + wide)
        )[:, None, :]
        inside &= (draw.within("whether").uniform(1) < self.probability)[..., None]
        return torch.where(inside[:, None], draw.within("fill").uniform(*x.shape[1:]).to(x.dtype), x)


@settings
class Several(Augmentation):
    """Augmentations one after another; a random crop, which is made of the whole image, comes first."""

    parts: Annotated[tuple[Augmentation, ...], Field(min_length=1)]

    def __post_init__(self) -> None:
        if any(part.crops for part in self.parts[1:]):
            raise SettingsError("Several.parts: a random crop is made of the whole image, so it must be the first part")

    @property
    def crops(self) -> bool:
        return self.parts[0].crops

    @property
    def moves(self) -> bool:
        return all(part.moves for part in self.parts)

    def boxes(self, draw: Draw, sizes: Tensor) -> Tensor:
        return self.parts[0].boxes(draw.within(0), sizes)

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        for number, part in enumerate(self.parts):
            x = part(x, draw.within(number))
        return x


def _check_bounds(part: Augmentation, **bounds: tuple[float, float]) -> None:
    for name, (low, high) in bounds.items():
        if not 0 < low <= high:
            raise SettingsError(
                f"{type(part).__name__}.{name} = {(low, high)}: must be two numbers above 0, the smaller one first"
            )


def _windows(x: Tensor, padding: int, draw: Draw, mirrored: Tensor | None = None) -> Tensor:
    """One window of each zero-padded image, its corner uniform on 0 .. 2 padding, reversed left to right where
    `mirrored` [B, 1].
    """
    height, width = x.shape[2:]
    corners = draw.integers(2 * padding + 1, 2)
    places = torch.arange(max(height, width), device=x.device)
    rows, columns = corners[:, :1] + places[:height], places[:width].expand(len(x), -1)
    if mirrored is not None:
        columns = torch.where(mirrored, width - 1 - columns, columns)
    columns = columns + corners[:, 1:]
    # one gather on the flattened padded images moves and mirrors at once
    flat = (rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]).view(len(x), 1, height * width)
    canvas = F.pad(x, [padding] * 4).flatten(2)
    return canvas.gather(2, flat.expand(-1, x.shape[1], -1)).view_as(x)
