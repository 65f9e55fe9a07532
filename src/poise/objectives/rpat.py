"""RPAT: robust perception adversarial training: between an image and its adversarial example the network is to be
linear.
"""

from __future__ import annotations

from torch import nn

from poise.attacks.ascent import Ascent, Score
from poise.attacks.pgd import score_of
from poise.core import papers
from poise.core.batches import Batch, Now
from poise.core.exact import widened
from poise.core.modes import CraftMode
from poise.core.settings import NonNegative, UnitInterval, settings
from poise.losses import cross_entropy
from poise.objectives.at import Adversarial, AdversarialObjective
from poise.objectives.objective import Forwards, Terms


@settings
class RPAT(AdversarialObjective):
    """CE(x_adv) + beta mean_c (f_c(m) - (f_c(x) + f_c(x_adv)) / 2)^2 on logits f, m = (x + x_adv) / 2, x_adv by PGD."""

    paper = papers.RPAT
    beta: NonNegative = 1.0
    inner: Ascent = Ascent()
    label_smoothing: UnitInterval = 0.0
    craft_mode: CraftMode = "evaluating"

    def forwards(self) -> Forwards:
        return Forwards(2 * self.inner.steps, 9)

    def score(self, model: nn.Module, batch: Batch) -> Score:
        return score_of("cross_entropy", model, batch.x, batch.y)

    def loss(self, model: nn.Module, examples: Adversarial, now: Now) -> Terms:
        """Three forwards: adversarial, natural, between; nothing is detached."""
        x, x_adv = examples.x, examples.x_adv
        adversarial, natural, between = (widened(model(images)) for images in (x_adv, x, (x + x_adv) / 2))
        bend = (between - (natural + adversarial) / 2).square().mean(1)
        return {"robust": cross_entropy(adversarial, examples.y, self.label_smoothing), "perception": self.beta * bend}
