"""The loss-space ramp: AT whose beta follows Generalist's gamma, so that losses are mixed where Generalist mixes
weights.
"""

from __future__ import annotations

from torch import nn

from poise.attacks import Ascent
from poise.attacks.ascent import Score
from poise.core import papers
from poise.core.batches import Batch, Now
from poise.core.modes import CraftMode
from poise.core.settings import UnitInterval, settings
from poise.learners import PiecewiseLinear, Schedule
from poise.objectives import AT, Adversarial, Terms
from poise.objectives.at import AdversarialObjective
from poise.objectives.objective import Forwards


@settings
class RampedAT(AdversarialObjective):
    """(1 - beta(t)) CE(x) + beta(t) CE(x_adv): AT with its share of adversarial examples as a schedule."""

    paper = papers.PGD
    beta: Schedule = PiecewiseLinear(values=(1, 1, 1, 0.5))
    inner: Ascent = Ascent()
    label_smoothing: UnitInterval = 0.0
    craft_mode: CraftMode = "evaluating"

    def forwards(self) -> Forwards:
        return AT(beta=0.5, inner=self.inner).forwards()

    def score(self, model: nn.Module, batch: Batch) -> Score:
        return AT(inner=self.inner).score(model, batch)

    def loss(self, model: nn.Module, examples: Adversarial, now: Now) -> Terms:
        """AT's, at this epoch's beta."""
        now_at = AT(beta=self.beta.value(now), inner=self.inner, label_smoothing=self.label_smoothing)
        return now_at.loss(model, examples, now)
