"""AT: adversarial training, and its half-half form (Madry et al. 2018; Generalist, Eq. 1)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from poise.attacks.ascent import Ascent, Score
from poise.attacks.pgd import score_of
from poise.core import papers
from poise.core.batches import Batch, Now
from poise.core.modes import CraftMode
from poise.core.settings import UnitInterval, settings, shared
from poise.losses import cross_entropy
from poise.objectives.objective import Examples, Forwards, Objective, Terms


@dataclass(frozen=True)
class Adversarial(Examples):
    """x: natural images; x_adv: adversarial ones, both [B, C, H, W]."""

    x: Tensor
    x_adv: Tensor


@shared
class AdversarialObjective(Objective[Adversarial]):
    """An objective on one adversarial example per image, found by one ascent of the objective's own score.

    One of your own needs `score` and `loss`, nothing else.
    """

    inner: Ascent = Ascent()
    craft_mode: CraftMode = "evaluating"

    @abstractmethod
    def score(self, model: nn.Module, batch: Batch) -> Score:
        """What the inner maximisation ascends."""

    def weights(self, batch: Batch) -> dict[str, Tensor]:
        """Of terms that are weighted means, the weight of each example [B]; none by default. They can't depend on what
        is found.
        """
        return {}

    def forwards(self) -> Forwards:
        return Forwards(2 * self.inner.steps, 3)

    def craft(self, model: nn.Module, batch: Batch, now: Now, teacher: nn.Module | None = None) -> Adversarial:
        x_adv = self.inner.at(now).maximise(self.score(model, batch), batch.x, now.draw("craft", batch))
        return Adversarial(batch.targets, batch.x, x_adv, weights=self.weights(batch))


@settings
class AT(AdversarialObjective):
    """Adversarial training: (1 - beta) CE(x) + beta CE(x_adv), x_adv by PGD on cross-entropy. beta 1 is PGD-AT, 1/2
    half-half.
    """

    paper = papers.PGD
    beta: UnitInterval = 1.0
    inner: Ascent = Ascent()
    label_smoothing: UnitInterval = 0.0
    joint_batch: bool = False
    """With beta < 1: one forward of [x_adv; x], so that BatchNorm sees both at once, instead of one each."""
    craft_mode: CraftMode = "evaluating"

    def forwards(self) -> Forwards:
        return Forwards(2 * self.inner.steps, 3 if self.beta == 1 else 6)

    @property
    def takes_soft_labels(self) -> bool:
        return True

    def score(self, model: nn.Module, batch: Batch) -> Score:
        return score_of("cross_entropy", model, batch.x, batch.targets)

    def loss(self, model: nn.Module, examples: Adversarial, now: Now) -> Terms:
        """Forwards: adversarial, then natural if beta < 1."""
        if self.beta == 1:
            return {"robust": cross_entropy(model(examples.x_adv), examples.y, self.label_smoothing)}
        if self.joint_batch:
            adversarial, natural = model(torch.cat([examples.x_adv, examples.x])).chunk(2)
        else:
            adversarial, natural = model(examples.x_adv), model(examples.x)
        return {
            "natural": (1 - self.beta) * cross_entropy(natural, examples.y, self.label_smoothing),
            "robust": self.beta * cross_entropy(adversarial, examples.y, self.label_smoothing),
        }
