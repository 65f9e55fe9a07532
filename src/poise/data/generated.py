"""Images that are made, not read: what shows that a recipe for large photographs runs where there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from poise.core.seeds import Draw, key_of
from poise.core.settings import PositiveCount, settings
from poise.data.dataset import Data, DataSource
from poise.data.split import Split


@settings
class Generated(DataSource):
    """Smooth random colour images: each class has a pattern of its own, half hidden under one of each image. Equal
    settings, equal images.

    They are no benchmark: what is measured on them says that something runs, and nothing of photographs.
    """

    size: Annotated[int, Field(ge=8)] = 32
    """Height and width, in pixels."""
    count: PositiveCount = 1_000
    """Training images; a fifth as many are for the test."""
    kinds: Annotated[int, Field(ge=2)] = 10
    """Number of classes."""

    def read(self, data_dir: Path) -> Data:
        names = tuple(f"kind-{number}" for number in range(self.kinds))
        train, test = (
            self._split(part, count) for part, count in (("train", self.count), ("test", -(-self.count // 5)))
        )
        return Data(
            "Generated", train, test, names, ("generated images: no measure of anything but that a recipe runs",)
        )

    def _split(self, part: str, count: int) -> Split:
        labels = torch.arange(count) % self.kinds
        patterns = self._smooth(Draw(key_of("generated", "kinds", self.size), torch.arange(self.kinds)))
        values = (patterns[labels] + self._smooth(Draw(key_of("generated", part, self.size), torch.arange(count)))) / 2
        return Split.of((255 * values).round_().to(torch.uint8), labels)

    def _smooth(self, draw: Draw) -> Tensor:
        """Random images [B, 3, size, size] without details smaller than an eighth of them."""
        rough = draw.uniform(3, 8, 8, dtype=torch.float32)
        return F.interpolate(rough, size=(self.size, self.size), mode="bilinear", align_corners=False)
