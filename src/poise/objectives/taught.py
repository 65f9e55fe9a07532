"""Adversarial training with a teacher: ReBAT, and ADR's rectified labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from poise.attacks.ascent import Ascent
from poise.attacks.pgd import score_of
from poise.core import papers
from poise.core.batches import Batch, Now
from poise.core.exact import widened
from poise.core.modes import CraftMode
from poise.core.settings import NonNegative, Positive, PositiveCount, UnitInterval, settings
from poise.losses import cross_entropy, kl, log_probabilities
from poise.objectives.at import Adversarial
from poise.objectives.objective import Forwards, Objective, Terms


@dataclass(frozen=True)
class Taught(Adversarial):
    """teacher: the teacher's logits on x_adv [B, C], None before it is asked."""

    teacher: Tensor | None


@settings
class ReBAT(Objective[Taught]):
    """CE(x_adv) + beta KL(p_teacher(x_adv) || p(x_adv)) from `from_epoch` on; the policy's teacher is the learner's
    average.

    What keeps robust overfitting away is that learning rates fall by little (a factor of 1.5): see the recipe.
    """

    paper = papers.REBAT
    asks_teacher = True
    beta: NonNegative = 1.0
    from_epoch: PositiveCount = 105
    """1-based; AT before, in which no teacher is asked."""
    inner: Ascent = Ascent()
    label_smoothing: UnitInterval = 0.0
    craft_mode: CraftMode = "evaluating"

    def forwards(self) -> Forwards:
        """Those of `from_epoch` on."""
        return Forwards(2 * self.inner.steps + 1, 3)

    def craft(self, model: nn.Module, batch: Batch, now: Now, teacher: nn.Module | None = None) -> Taught:
        score = score_of("cross_entropy", model, batch.x, batch.y)
        x_adv = self.inner.at(now).maximise(score, batch.x, now.draw("craft", batch))
        if now.epoch < self.from_epoch:
            return Taught(batch.y, batch.x, x_adv, None)
        with torch.no_grad():
            return Taught(batch.y, batch.x, x_adv, widened((teacher or model)(x_adv)))

    def loss(self, model: nn.Module, examples: Taught, now: Now) -> Terms:
        logits = model(examples.x_adv)
        terms = {"robust": cross_entropy(logits, examples.y, self.label_smoothing)}
        return terms if examples.teacher is None else {**terms, "teacher": self.beta * kl(examples.teacher, logits)}


@dataclass(frozen=True)
class Rectified(Adversarial):
    """taught: the teacher's part of the target, l p [B, C]; rest: what is left to the label, 1 - l [B]."""

    taught: Tensor
    rest: Tensor


@settings
class ADR(Objective[Rectified]):
    """CE(P, x_adv) with P = l softmax(teacher(x) / T) + (1 - l) onehot(y), which the ascent maximises too (Wu et al.
    2024).

    An image on which the teacher is wrong gets less of it: l = clip(share - (max_c p_c - p_y), 0, 1), p the softmax at
    T. T and the share follow half a cosine over training. Teacher: the learner's average.
    """

    paper = papers.ADR
    asks_teacher = True
    temperature: tuple[Positive, Positive] = (2.5, 2.0)
    """T at the beginning and at the end."""
    share: tuple[UnitInterval, UnitInterval] = (0.7, 0.95)
    """The teacher's largest share l at the beginning and at the end."""
    inner: Ascent = Ascent()
    label_smoothing: UnitInterval = 0.0
    """Of onehot(y) in the loss."""
    craft_mode: CraftMode = "evaluating"

    def forwards(self) -> Forwards:
        return Forwards(2 * self.inner.steps + 1, 3)

    def rectified(self, teacher: Tensor, y: Tensor, now: Now) -> tuple[Tensor, Tensor]:
        """l p [B, C] and 1 - l [B] for the teacher's logits [B, C]."""
        temperature, share = (_annealed(*ends, now) for ends in (self.temperature, self.share))
        p = (widened(teacher) / temperature).softmax(1)
        gap = p.amax(1) - p.gather(1, y[:, None])[:, 0]
        label_share = (share - gap).clamp(0, 1)
        return label_share[:, None] * p, 1 - label_share

    def craft(self, model: nn.Module, batch: Batch, now: Now, teacher: nn.Module | None = None) -> Rectified:
        with torch.no_grad():
            taught, rest = self.rectified((teacher or model)(batch.x), batch.y, now)

        def score(z: Tensor) -> tuple[Tensor, Tensor]:
            logits = model(z)
            return _towards(logits, taught, rest * cross_entropy(logits, batch.y)), logits

        x_adv = self.inner.at(now).maximise(score, batch.x, now.draw("craft", batch))
        return Rectified(batch.y, batch.x, x_adv, taught, rest)

    def loss(self, model: nn.Module, examples: Rectified, now: Now) -> Terms:
        logits = model(examples.x_adv)
        label = examples.rest * cross_entropy(logits, examples.y, self.label_smoothing)
        return {"robust": _towards(logits, examples.taught, label)}


def _towards(logits: Tensor, taught: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of the whole target [B], given the label's part of it [B]."""
    return label - (taught * log_probabilities(logits)).sum(1)


def _annealed(first: float, last: float, now: Now) -> float:
    """Half a cosine from the first step to the last."""
    return last + (first - last) * (1 + math.cos(math.pi * now.step / max(1, now.steps - 1))) / 2
