"""NT: natural training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from poise.core import papers
from poise.core.batches import Batch, Now
from poise.core.modes import CraftMode
from poise.core.settings import UnitInterval, settings
from poise.losses import cross_entropy
from poise.objectives.objective import Examples, Forwards, Objective, Terms


@dataclass(frozen=True)
class Natural(Examples):
    """x: images [B, C, H, W]."""

    x: Tensor


@settings
class NT(Objective[Natural]):
    """Natural training: mean cross-entropy on the images as they are."""

    paper = papers.GENERALIST
    label_smoothing: UnitInterval = 0.0
    craft_mode: CraftMode = "evaluating"

    @property
    def takes_soft_labels(self) -> bool:
        return True

    asks_network = False

    def forwards(self) -> Forwards:
        return Forwards(0, 3)

    def craft(self, model: nn.Module, batch: Batch, now: Now, teacher: nn.Module | None = None) -> Natural:
        return Natural(batch.targets, batch.x)

    def loss(self, model: nn.Module, examples: Natural, now: Now) -> Terms:
        return {"natural": cross_entropy(model(examples.x), examples.y, self.label_smoothing)}
