"""Training with collaborative examples only (Squeeze Training, Eq. 5)."""

from __future__ import annotations

from torch import Tensor, nn

from poise.attacks.ascent import Ascent, Score
from poise.core import papers
from poise.core.batches import Batch, Now
from poise.core.modes import CraftMode
from poise.core.settings import NonNegative, UnitInterval, settings
from poise.losses import cross_entropy, kl
from poise.objectives.at import Adversarial, AdversarialObjective
from poise.objectives.objective import Forwards, Terms


@settings
class CollaborativeTraining(AdversarialObjective):
    """CE(x) + beta KL(p(x) || p(x_col)), x_col descending the cross-entropy; `x_adv` of the examples holds x_col."""

    paper = papers.SQUEEZE_TRAINING
    beta: NonNegative = 6.0
    """The paper gives none."""
    inner: Ascent = Ascent(start="zero")
    label_smoothing: UnitInterval = 0.0
    craft_mode: CraftMode = "evaluating"

    def forwards(self) -> Forwards:
        return Forwards(2 * self.inner.steps, 6)

    def score(self, model: nn.Module, batch: Batch) -> Score:
        def descent(z: Tensor) -> tuple[Tensor, Tensor]:
            logits = model(z)
            return -cross_entropy(logits, batch.y), logits

        return descent

    def loss(self, model: nn.Module, examples: Adversarial, now: Now) -> Terms:
        """Two forwards: natural, collaborative; nothing is detached."""
        natural, collaborative = model(examples.x), model(examples.x_adv)
        loss = cross_entropy(natural, examples.y, self.label_smoothing)
        return {"natural": loss, "robust": self.beta * kl(natural, collaborative)}
