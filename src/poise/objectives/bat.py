"""BAT: bridged adversarial training (Kim et al. 2023): the way from an image to its adversarial example in short
strides.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from poise.attacks.ascent import Ascent, Score
from poise.attacks.pgd import score_of
from poise.core import papers
from poise.core.batches import Batch, Now
from poise.core.modes import CraftMode
from poise.core.settings import NonNegative, PositiveCount, UnitInterval, settings
from poise.losses import cross_entropy, kl
from poise.objectives.at import Adversarial, AdversarialObjective
from poise.objectives.objective import Forwards, Terms


@settings
class BAT(AdversarialObjective):
    """CE(x) + beta sum_{k=1..m} KL(p(x_{k-1}) || p(x_k)) with x_k = x + (k/m) (x_adv - x); m = 1 with `maximised` "kl"
    is TRADES.
    """

    paper = papers.BAT
    beta: NonNegative = 6.0
    bridges: PositiveCount = 2
    """m."""
    maximised: Literal["cross_entropy", "kl"] = "cross_entropy"
    inner: Ascent = Ascent()
    label_smoothing: UnitInterval = 0.0
    craft_mode: CraftMode = "evaluating"

    def forwards(self) -> Forwards:
        return Forwards(2 * self.inner.steps + (self.maximised == "kl"), 3 * (self.bridges + 1))

    def score(self, model: nn.Module, batch: Batch) -> Score:
        return score_of(self.maximised, model, batch.x, batch.y)

    def loss(self, model: nn.Module, examples: Adversarial, now: Now) -> Terms:
        """m + 1 forwards: x_0 = x to x_m = x_adv in this order; nothing is detached."""
        delta = examples.x_adv - examples.x
        logits: list[Tensor] = [model(examples.x + k / self.bridges * delta) for k in range(self.bridges + 1)]
        robust = torch.stack([kl(earlier, right) for earlier, right in pairwise(logits)]).sum(0)
        return {"natural": cross_entropy(logits[0], examples.y, self.label_smoothing), "robust": self.beta * robust}
