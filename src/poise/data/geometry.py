"""From a decoded image to the network's size: the crop box of an example, and the one place where images are
resized.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class Geometry:
    """How a decoded image becomes an array of the network's size.

    size: height and width of what comes out, None leaves images as they are. shorter: resize the shorter side to this
    and take the centre (the evaluation of ImageNet's networks); None stretches the whole image to size x size.
    """

    channels: int = 3
    size: int | None = None
    shorter: int | None = None
    interpolation: Interpolation = "bilinear"

    def apply(self, image: Any, box: Sequence[int] | None = None) -> np.ndarray:
        """A Pillow image as uint8 [C, H, W]; with a `box` (top, left, height, width) only what is in it, stretched to
        size x size.
        """
        image = image.convert("RGB" if self.channels == 3 else "L")
        if box is not None:
            top, left_edge, height, width = box
            image = image.crop((left_edge, top, left_edge + width, top + height))
            image = self._resized(image, (self.size or height, self.size or width))
        elif self.size is not None and self.shorter is not None:
            width, height = image.size
            short = min(width, height)
            # rounded down, as in the evaluation that published numbers come from
            image = self._resized(image, (self.shorter * height // short, self.shorter * width // short))
            left_edge, top = (round((length - self.size) / 2) for length in image.size)
            image = image.crop((left_edge, top, left_edge + self.size, top + self.size))
        elif self.size is not None:
            image = self._resized(image, (self.size, self.size))
        values = np.asarray(image)
        return values[None] if self.channels == 1 else values.transpose(2, 0, 1)

    def _resized(self, image: Any, size: tuple[int, int]) -> Any:
        from PIL import Image

        height, width = size
        filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
        return image if image.size == (width, height) else image.resize((width, height), filters[self.interpolation])


def resampled(images: Tensor, boxes: Tensor) -> Tensor:
    """The contents of boxes (top, left, height, width), int64 [B, 4], of images of one size, uint8 [B, C, H, W],
    stretched to that size.

    Bilinear, half pixels at the centres: for pixels that lie on a device, of which there are no files.
    """
    if not len(images):
        return images
    height, width = images.shape[2:]
    box = boxes.to(images.device, torch.float32)
    middle_y, middle_x = (2 * box[:, 0] + box[:, 2]) / height - 1, (2 * box[:, 1] + box[:, 3]) / width - 1
    affine = torch.zeros(len(box), 2, 3, device=images.device)
    affine[:, 0, 0], affine[:, 0, 2] = box[:, 3] / width, middle_x
    affine[:, 1, 1], affine[:, 1, 2] = box[:, 2] / height, middle_y
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    values = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return values.round_().clamp_(0, 255).to(torch.uint8)


def random_boxes(uniform: Tensor, sizes: Tensor, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Boxes (top, left, height, width), int64 [B, 4], of a share of the area and an aspect ratio (log-uniform) drawn
    within bounds.

    uniform: numbers in [0, 1), [B, T, 4]: share, ratio and place for T tries, of which the first that fits is taken,
    else the largest centred box within the bounds of the ratio (Szegedy et al. 2015). sizes: height and width of the
    images, [B, 2].
    """
    height, width = sizes.to(torch.float64).T
    low, high = np.log(ratio[0]), np.log(ratio[1])
    area = (height * width)[:, None] * (scale[0] + (scale[1] - scale[0]) * uniform[..., 0])
    aspect = torch.exp(low + (high - low) * uniform[..., 1])
    wide, tall = torch.sqrt(area * aspect).round(), torch.sqrt(area / aspect).round()
    fits = (wide >= 1) & (wide <= width[:, None]) & (tall >= 1) & (tall <= height[:, None])
    first = fits.to(torch.int64).argmax(1, keepdim=True)
    wide, tall = (values.gather(1, first)[:, 0] for values in (wide, tall))
    place = uniform.gather(1, first[..., None].expand(-1, 1, 4))[:, 0]
    whole = width / height
    centred_wide = torch.where(whole > ratio[1], (height * ratio[1]).round(), width)
    centred_tall = torch.where(whole < ratio[0], (width / ratio[0]).round(), height)
    unfit = ~fits.any(1)
    wide, tall = torch.where(unfit, centred_wide, wide), torch.where(unfit, centred_tall, tall)
    top = torch.where(unfit, (height - tall) // 2, (place[:, 2] * (height - tall + 1)).floor())
    left_edge = torch.where(unfit, (width - wide) // 2, (place[:, 3] * (width - wide + 1)).floor())
    return torch.stack([top, left_edge, tall, wide], 1).to(torch.int64)
