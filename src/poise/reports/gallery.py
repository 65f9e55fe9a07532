"""Adversarial examples as small PNG images inside the page: the image, the magnified perturbation, the adversarial
image.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from poise.core.bounds import DAMAGE, opened_arrays, read_arrays
from poise.core.errors import RunError

_ARRAYS = ("x", "x_adv", "label", "natural", "adversarial", "attack")


@dataclass(frozen=True)
class Example:
    """The three images are PNG data URIs; the names are classes."""

    image: str
    perturbation: str
    adversarial_image: str
    label: str
    natural: str
    adversarial: str

    @property
    def natural_right(self) -> bool:
        return self.natural == self.label

    @property
    def adversarial_right(self) -> bool:
        return self.adversarial == self.label

    @property
    def outcome(self) -> str:
        """What a gallery is filtered by."""
        if not self.natural_right:
            return "wrong already"
        return "withstood" if self.adversarial_right else "fooled"


@dataclass(frozen=True)
class Gallery:
    attack: str
    magnification: int
    """What the perturbation is multiplied by before it is drawn around mid-grey."""
    examples: list[Example]


def read_gallery(path: Path, classes: Sequence[str], most: int = 12) -> Gallery:
    """The gallery in an npz file with x uint8 [n, C, H, W], x_adv [n, C, H, W] in [0, 1], label, natural, adversarial
    [n], attack.

    most: how many of its examples are read.
    Raises: RunError when the file is damaged or lacks an array.
    """
    try:
        arrays = opened_arrays(read_arrays(path))
        if lacking := [name for name in _ARRAYS if name not in arrays]:
            raise KeyError(lacking[0])
    except DAMAGE as error:
        raise RunError(f"{path} cannot be read as a gallery: {error}") from None
    x, x_adv = arrays["x"], arrays["x_adv"]
    lengths = {len(arrays[name]) if arrays[name].ndim else -1 for name in _ARRAYS[:-1]}
    if x.ndim != 4 or x.shape != x_adv.shape or len(lengths) != 1:
        raise RunError(f"{path} is not a gallery: x is {x.shape} and x_adv {x_adv.shape}, both must be [n, C, H, W]")
    delta = x_adv.astype(np.float64) - x / 255
    largest = float(np.abs(delta).max(initial=0))
    magnification = max(1, int(0.5 / largest)) if largest > 0 else 1

    def name(label: object) -> str:
        place = int(label)  # type: ignore[call-overload]
        return classes[place] if 0 <= place < len(classes) else str(place)

    examples = [
        Example(
            _png(x[i] / 255),
            _png(0.5 + magnification * delta[i]),
            _png(x_adv[i]),
            *(name(arrays[key][i]) for key in ("label", "natural", "adversarial")),
        )
        for i in range(min(len(x), most))
    ]
    attacks = dict.fromkeys(str(attack) for attack in np.atleast_1d(arrays["attack"]))
    return Gallery(", ".join(attacks), magnification, examples)


def _png(image: np.ndarray) -> str:
    """[C, H, W] in [0, 1] as a data URI; anything but three channels is drawn in grey."""
    from PIL import Image

    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels.mean(0).astype(np.uint8))
    out = io.BytesIO()
    picture.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
