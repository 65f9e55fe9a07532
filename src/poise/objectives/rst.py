"""RST: robust self-training on labelled and pseudo-labelled images, after Carmon et al. 2019 and after Raghunathan et
al. 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from poise.attacks.ascent import Ascent, Score
from poise.attacks.pgd import score_of
from poise.core import papers
from poise.core.batches import UNLABELLED, Batch, Now
from poise.core.modes import CraftMode
from poise.core.settings import NonNegative, UnitInterval, settings
from poise.losses import cross_entropy, kl, log_probabilities
from poise.objectives.at import Adversarial, AdversarialObjective
from poise.objectives.objective import Forwards, Terms
from poise.threats import Linf


@settings
class RST(AdversarialObjective):
    """TRADES on all images, with cross-entropy on the labelled and pseudo-labelled ones only (label -1: none) (Carmon
    et al. 2019).
    """

    paper = papers.RST_CARMON
    beta: NonNegative = 6.0
    entropy_weight: NonNegative = 0.0
    """Weight of the mean entropy of the natural predictions of images without label."""
    inner: Ascent = Ascent(threat=Linf(epsilon=0.031), step_size=0.007, start="gaussian")
    label_smoothing: UnitInterval = 0.0
    craft_mode: CraftMode = "evaluating"

    def forwards(self) -> Forwards:
        return Forwards(2 * self.inner.steps + 1, 6)

    @property
    def takes_unlabelled(self) -> bool:
        return True

    def score(self, model: nn.Module, batch: Batch) -> Score:
        return score_of("kl", model, batch.x, batch.y)

    def weights(self, batch: Batch) -> dict[str, Tensor]:
        is_labelled = (batch.y != UNLABELLED).to(batch.x.dtype)
        return {"natural": is_labelled, "entropy": 1 - is_labelled}

    def loss(self, model: nn.Module, examples: Adversarial, now: Now) -> Terms:
        """Two forwards: adversarial, natural; nothing is detached."""
        adversarial, natural = model(examples.x_adv), model(examples.x)
        terms = {
            "natural": cross_entropy(natural, examples.y.clamp(min=0), self.label_smoothing),
            "robust": self.beta * kl(natural, adversarial),
        }
        if self.entropy_weight > 0:
            terms["entropy"] = self.entropy_weight * entropy(natural)
        return terms


@settings
class WeightedRST(AdversarialObjective):
    """(1 - beta) L(x) + beta L(x_adv); each L is a mean of cross-entropies weighted 1 - w for labelled, w for extra
    images.

    Raghunathan et al. 2020. With both w = 0 extra images don't count: AT's half-half form on the labelled ones.
    """

    paper = papers.RST_RAGHUNATHAN
    beta: UnitInterval = 0.5
    extra_natural: UnitInterval = 0.9
    """w of the natural term."""
    extra_robust: UnitInterval = 0.5
    """w of the robust term."""
    inner: Ascent = Ascent(threat=Linf(epsilon=0.031), step_size=0.007, start="gaussian")
    label_smoothing: UnitInterval = 0.0
    craft_mode: CraftMode = "evaluating"

    def forwards(self) -> Forwards:
        return Forwards(2 * self.inner.steps, 6)

    def score(self, model: nn.Module, batch: Batch) -> Score:
        return score_of("cross_entropy", model, batch.x, batch.y)

    def weights(self, batch: Batch) -> dict[str, Tensor]:
        extra = batch.extra.to(batch.x.dtype)
        return {
            name: extra * share + (1 - extra) * (1 - share)
            for name, share in (("natural", self.extra_natural), ("robust", self.extra_robust))
        }

    def loss(self, model: nn.Module, examples: Adversarial, now: Now) -> Terms:
        """Two forwards: adversarial, natural."""
        robust = cross_entropy(model(examples.x_adv), examples.y, self.label_smoothing)
        natural = cross_entropy(model(examples.x), examples.y, self.label_smoothing)
        return {"natural": (1 - self.beta) * natural, "robust": self.beta * robust}


def entropy(logits: Tensor) -> Tensor:
    """-sum_k p_k log p_k [B]."""
    log_p = log_probabilities(logits)
    return -(torch.exp(log_p) * log_p).sum(1)
