"""RandAugment, colour jitter and IDBH: kornia's operations on the device, every draw keyed by its example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from poise.core import papers
from poise.core.errors import InputError, MissingExtraError
from poise.core.seeds import Draw
from poise.core.settings import Count, NonNegative, PositiveCount, UnitInterval, settings
from poise.data.augment import Augmentation, CropShift, Flip, RandomErasing, Several

Strength = Annotated[float, Field(ge=0, le=10)]
Operation = Callable[[Any, Tensor, Tensor, Tensor], Tensor]
"""(kornia, images [n, 3, H, W], strengths [n] from 0 to 1, signs [n] of -1 and 1) -> changed images."""


def library() -> Any:
    """kornia, whose operations are used here. Raises: MissingExtraError."""
    try:
        import kornia.enhance  # pyright: ignore[reportMissingImports]
        import kornia.geometry.transform  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError("kornia", "augment") from None
    return kornia


def _auto_contrast(kornia: Any, x: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low).clamp(min=1 / 255), x)


def _solarize_add(kornia: Any, x: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    return torch.where(x < 128 / 255, (x + strength[:, None, None, None] * 110 / 255).clamp(max=1), x)


def _affine(kornia: Any, x: Tensor, entries: dict[tuple[int, int], Tensor], outside: float = 0.5) -> Tensor:
    """Images moved by a matrix around their centre; what comes from outside is mid-grey, or as said."""
    height, width = x.shape[2:]
    matrix = torch.eye(2, 3, dtype=x.dtype, device=x.device).repeat(len(x), 1, 1)
    for place, value in entries.items():
        matrix[:, place[0], place[1]] = value
    middle = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=x.dtype, device=x.device)
    matrix[:, :, 2] += middle - (matrix[:, :, :2] * middle).sum(2)
    grey = torch.full((3,), outside, dtype=x.dtype, device=x.device)
    return kornia.geometry.transform.warp_affine(x, matrix, (height, width), padding_mode="fill", fill_value=grey)


def _rotated(kornia: Any, x: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    angle = sign * strength * torch.pi / 6
    cosine, sine = angle.cos(), angle.sin()
    return _affine(kornia, x, {(0, 0): cosine, (0, 1): sine, (1, 0): -sine, (1, 1): cosine})


def _enhanced(change: str) -> Operation:
    """A factor 1 +- .9 strength on brightness, contrast, saturation or sharpness."""

    def operation(kornia: Any, x: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
        return getattr(kornia.enhance, change)(x, 1 + 0.9 * sign * strength)

    return operation


OPERATIONS: dict[str, Operation] = {
    "auto_contrast": _auto_contrast,
    "equalize": lambda kornia, x, strength, sign: kornia.enhance.equalize(x),
    "invert": lambda kornia, x, strength, sign: 1 - x,
    "rotate": _rotated,
    "posterize": lambda kornia, x, strength, sign: kornia.enhance.posterize(x, 4 - (4 * strength).to(torch.int64)),
    "solarize": lambda kornia, x, strength, sign: kornia.enhance.solarize(x, (1 - strength).clamp(0, 1)),
    "solarize_add": _solarize_add,
    "saturation": _enhanced("adjust_saturation_with_gray_subtraction"),
    "contrast": _enhanced("adjust_contrast_with_mean_subtraction"),
    "brightness": _enhanced("adjust_brightness_accumulative"),
    "sharpness": _enhanced("sharpness"),
    "shear_x": lambda kornia, x, strength, sign: _affine(kornia, x, {(0, 1): 0.3 * sign * strength}),
    "shear_y": lambda kornia, x, strength, sign: _affine(kornia, x, {(1, 0): 0.3 * sign * strength}),
    "translate_x": lambda kornia, x, strength, sign: _affine(kornia, x, {(0, 2): 0.45 * x.shape[3] * sign * strength}),
    "translate_y": lambda kornia, x, strength, sign: _affine(kornia, x, {(1, 2): 0.45 * x.shape[2] * sign * strength}),
}
"""The fifteen of timm's RandAugment, of growing severity."""


@settings
class RandAugment(Augmentation):
    """`operations` changes of colour or geometry, drawn of fifteen with replacement (Cubuk et al. 2020), as timm's
    "rand-m9-mstd0.5-inc1".

    Needs `pip install 'poise[augment]'`.
    """

    paper = papers.RANDAUGMENT
    operations: PositiveCount = 2
    magnitude: Strength = 9.0
    """Mean of the strength, from 0 to 10."""
    deviation: NonNegative = 0.5
    """Standard deviation of the strength, which is then kept within 0 to 10."""
    probability: UnitInterval = 0.5
    """With which each of the operations is done."""

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        kornia = library()
        of_colour(x, self)
        # which example meets which operation is decided where nothing is waited for
        host = Draw(draw.key, draw.index.cpu())
        for turn in range(self.operations):
            now, there = host.within("operation", turn), draw.within("operation", turn)
            operation_numbers = now.within("which").integers(len(OPERATIONS), 1)[:, 0]
            applied = now.within("whether").uniform(1)[:, 0] < self.probability
            strength = (self.magnitude + self.deviation * there.within("strength").normal(1)[:, 0]).clamp(0, 10) / 10
            sign = 1 - 2 * there.within("sign").integers(2, 1)[:, 0].to(strength.dtype)
            result = x.clone()
            for number, operation in enumerate(OPERATIONS.values()):
                rows = ((operation_numbers == number) & applied).nonzero()[:, 0].to(x.device)
                if len(rows):
                    made = operation(kornia, x[rows], strength[rows].to(x.dtype), sign[rows].to(x.dtype))
                    result[rows] = made.clamp(0, 1).to(x.dtype)
            x = result
        return x


@settings
class ColourJitter(Augmentation):
    """Random brightness, contrast and saturation by factors within 1 +- the setting, then a hue within +- its setting
    of the circle.

    Needs `pip install 'poise[augment]'`.
    """

    brightness: UnitInterval = 0.4
    contrast: UnitInterval = 0.4
    saturation: UnitInterval = 0.4
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        enhance = library().enhance
        of_colour(x, self)
        changes = {
            "brightness": (enhance.adjust_brightness_accumulative, self.brightness, 1.0),
            "contrast": (enhance.adjust_contrast_with_mean_subtraction, self.contrast, 1.0),
            "saturation": (enhance.adjust_saturation_with_gray_subtraction, self.saturation, 1.0),
            "hue": (enhance.adjust_hue, 2 * torch.pi * self.hue, 0.0),
        }
        for name, (change, width, middle) in changes.items():
            if width:
                amount = middle + width * (2 * draw.within(name).uniform(1)[:, 0] - 1)
                x = change(x, amount.to(x.dtype)).clamp(0, 1)
        return x


Change = Callable[[Any, Tensor, Tensor, Tensor], Tensor]
"""(kornia, images [n, 3, H, W], amounts [n] uniform on [0, 1), signs [n] of -1 and 1) -> changed images."""


def _factor(change: str, low: float, high: float) -> Change:
    return lambda kornia, x, amount, sign: getattr(kornia.enhance, change)(x, low + (high - low) * amount)


def _sheared(kornia: Any, x: Tensor, amount: Tensor, sign: Tensor) -> Tensor:
    """By .05 to .15 rad; along rows where the amount is below a half, else along columns."""
    slope = sign * (0.05 + 0.1 * (2 * amount % 1)).tan()
    nothing, along = torch.zeros_like(slope), amount < 0.5
    return _affine(
        kornia, x, {(0, 1): torch.where(along, slope, nothing), (1, 0): torch.where(along, nothing, slope)}, 0.0
    )


def _turned(kornia: Any, x: Tensor, amount: Tensor, sign: Tensor) -> Tensor:
    """By 1 to 10 degrees."""
    angle = sign * (1 + 9 * amount) * torch.pi / 180
    cosine, sine = angle.cos(), angle.sin()
    return _affine(kornia, x, {(0, 0): cosine, (0, 1): sine, (1, 0): -sine, (1, 1): cosine}, 0.0)


CHANGES: dict[str, Change] = {
    "saturation": _factor("adjust_saturation_with_gray_subtraction", 0.1, 1.9),
    "brightness": _factor("adjust_brightness_accumulative", 0.5, 1.9),
    "contrast": _factor("adjust_contrast_with_mean_subtraction", 0.5, 1.9),
    "sharpness": _factor("sharpness", 0.1, 1.9),
    "auto_contrast": _auto_contrast,
    "equalize": lambda kornia, x, amount, sign: kornia.enhance.equalize(x),
    "shear": _sheared,
    "rotate": _turned,
}
"""The eight of IDBH's ColorShape."""


@settings
class ColourShape(Augmentation):
    """One of eight changes, each with probability 1/8: IDBH's ColorShape (Li & Spratling 2023).

    Saturation by .1 to 1.9, brightness and contrast by .5 to 1.9, sharpness by .1 to 1.9, automatic contrast,
    equalisation, a shear of .05 to .15 rad along rows or columns, a rotation of 1 to 10 degrees, both either way and on
    zeros.
    Needs `pip install 'poise[augment]'`.
    """

    paper = papers.IDBH

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        kornia = library()
        of_colour(x, self)
        # which example meets which change is decided where nothing is waited for
        operations = Draw(draw.key, draw.index.cpu()).within("which").integers(len(CHANGES), 1)[:, 0]
        amount = draw.within("amount").uniform(1, dtype=x.dtype)[:, 0]
        sign = 1 - 2 * draw.within("sign").integers(2, 1)[:, 0].to(x.dtype)
        result = x.clone()
        for number, change in enumerate(CHANGES.values()):
            rows = (operations == number).nonzero()[:, 0].to(x.device)
            if len(rows):
                result[rows] = change(kornia, x[rows], amount[rows], sign[rows]).clamp(0, 1).to(x.dtype)
        return result


@settings
class IDBH(Augmentation):
    """Mirror, CropShift, ColourShape, then erase a box: what lifts adversarial training without more data (Li &
    Spratling 2023).

    Needs `pip install 'poise[augment]'`.
    """

    paper = papers.IDBH
    erasing: UnitInterval = 0.5
    """With which probability a box is erased: 1/2 is IDBH-weak, 1 IDBH-strong."""
    most: Count = 10
    """Of CropShift."""

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        parts = (Flip(), CropShift(most=self.most), ColourShape(), RandomErasing(probability=self.erasing))
        return Several(parts=parts)(x, draw)


def of_colour(x: Tensor, part: Augmentation) -> None:
    """Raises: InputError for images that have not three channels."""
    if x.shape[1] != 3:
        raise InputError(f"{type(part).__name__} changes colours: images must have 3 channels, not {x.shape[1]}")
