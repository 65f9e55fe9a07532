"""Random changes of training images, batched on the device; None stands for no augmentation."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from poise.core.seeds import Draw
from poise.core.settings import Count, PositiveCount, Settings, settings


class Augmentation(Settings, family="augmentation"):
    """A random change of images, drawn per example."""

    @abstractmethod
    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        """Changed images, [B, C, H, W] in [0, 1] like `x`, which stays as it was; each depends on its own image and draw only."""


@settings
class CropFlip(Augmentation):
    """Pad with zeros, crop at a random place, then mirror left to right with probability 1/2: the usual choice on CIFAR."""

    padding: Count = 4
    """Pixels added on every side."""
    flip: bool = True

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        mirrored = draw.within("flip").integers(2, 1) == 1 if self.flip else None
        return _windows(x, self.padding, draw.within("crop"), mirrored)


@settings
class Shift(Augmentation):
    """Move by up to `pixels` in each direction and fill with zeros; no mirroring, as digits have a left and a right."""

    pixels: PositiveCount = 1

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        return _windows(x, self.pixels, draw.within("shift"))


def _windows(x: Tensor, padding: int, draw: Draw, mirrored: Tensor | None = None) -> Tensor:
    """One window of each zero-padded image, its corner uniform on 0 .. 2 padding, reversed left to right where `mirrored` [B, 1]."""
    height, width = x.shape[2:]
    corners = draw.integers(2 * padding + 1, 2)
    places = torch.arange(max(height, width), device=x.device)
    rows, columns = corners[:, :1] + places[:height], places[:width].expand(len(x), -1)
    if mirrored is not None:
        columns = torch.where(mirrored, width - 1 - columns, columns)
    columns = columns + corners[:, 1:]
    # one gather on the flattened padded images moves and mirrors at once
    flat = (rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]).view(len(x), 1, height * width)
    padded = F.pad(x, [padding] * 4).flatten(2)
    return padded.gather(2, flat.expand(-1, x.shape[1], -1)).view_as(x)
