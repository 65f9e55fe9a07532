"""GAIRAT (Zhang et al. 2021) and its form with extra data: examples that are attacked easily weigh more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from poise.attacks.ascent import Ascent
from poise.attacks.pgd import score_of
from poise.core import papers
from poise.core.batches import Batch, Now
from poise.core.modes import CraftMode
from poise.core.settings import NonNegative, Number, PositiveCount, UnitInterval, settings
from poise.losses import cross_entropy, kl
from poise.objectives.at import Adversarial
from poise.objectives.objective import Examples, Forwards, Objective, Terms
from poise.threats import Linf

Weighting = Literal["tanh", "sigmoid", "discrete"]


def counter(y: Tensor, kappa: Tensor) -> Callable[[Tensor], None]:
    """A stop rule that stops nothing and adds to `kappa` [B] one for each iterate that is classified correctly."""

    def count(logits: Tensor) -> None:
        kappa.add_(logits.argmax(1) == y)

    return count


def geometry_weights(kappa: Tensor, steps: int, shift: float, weighting: Weighting = "tanh") -> Tensor:
    """omega [B], not normalised, for kappa [B] correct iterates of `steps` (Zhang et al. 2021, Eq. 6); odd steps are
    halved downwards.
    """
    if weighting == "discrete":
        return (steps + 1 - kappa) / (steps + 1)
    half = max(1, steps // 2)
    position = shift + 5 * (1 - kappa / half)
    return (1 + torch.tanh(position)) / 2 if weighting == "tanh" else torch.sigmoid(position)


@settings
class GAIRAT(Objective[Adversarial]):
    """CE(x_adv) as a mean weighted by omega(kappa), kappa the number of PGD iterates that are still classified
    correctly.
    """

    paper = papers.GAIRAT
    shift: Number = -1.0
    """Lambda: larger is closer to AT."""
    weighting: Weighting = "tanh"
    from_epoch: PositiveCount = 60
    """1-based; AT before."""
    inner: Ascent = Ascent()
    label_smoothing: UnitInterval = 0.0
    craft_mode: CraftMode = "evaluating"

    def forwards(self) -> Forwards:
        return Forwards(2 * self.inner.steps, 3)

    def craft(self, model: nn.Module, batch: Batch, now: Now, teacher: nn.Module | None = None) -> Adversarial:
        kappa = torch.zeros(len(batch), dtype=batch.x.dtype, device=batch.x.device)
        score = score_of("cross_entropy", model, batch.x, batch.y)
        x_adv = self.inner.at(now).maximise(score, batch.x, now.draw("craft", batch), stop=counter(batch.y, kappa))
        weight = geometry_weights(kappa, self.inner.steps, self.shift, self.weighting)
        uneven = now.since(self.from_epoch)
        return Adversarial(batch.y, batch.x, x_adv, weights={"robust": uneven * weight + (1 - uneven)})

    def loss(self, model: nn.Module, examples: Adversarial, now: Now) -> Terms:
        return {"robust": cross_entropy(model(examples.x_adv), examples.y, self.label_smoothing)}


@dataclass(frozen=True)
class TwoAttacks(Examples):
    """x: natural images; x_adv: by KL; x_margin: by the margin, None while not used, all [B, C, H, W]; share: weight of
    x_adv [B].
    """

    x: Tensor
    x_adv: Tensor
    x_margin: Tensor | None
    share: Tensor


@settings
class GAIRRST(Objective[TwoAttacks]):
    """GAIR-RST: TRADES on extra data whose robust term goes over, the closer an image is to the boundary, to margin
    examples.

    CE(x) + beta [w KL(p(x) || p(x_adv)) + (1 - w) KL(p(x) || p(x_margin))], w = (1 + tanh(Lambda + K/2 - kappa)) / 2.
    """

    paper = papers.GAIRAT
    beta: NonNegative = 6.0
    shift: Number = 3.0
    """Lambda."""
    from_epoch: PositiveCount = 100
    """1-based; w = 1 before."""
    inner: Ascent = Ascent(threat=Linf(epsilon=0.031), step_size=0.007, start="gaussian")
    confidence: Number = 50.0
    label_smoothing: UnitInterval = 0.0
    craft_mode: CraftMode = "evaluating"

    def forwards(self) -> Forwards:
        """Those of `from_epoch` on."""
        return Forwards(4 * self.inner.steps + 1, 9)

    def craft(self, model: nn.Module, batch: Batch, now: Now, teacher: nn.Module | None = None) -> TwoAttacks:
        kappa = torch.zeros(len(batch), dtype=batch.x.dtype, device=batch.x.device)
        inner, draw = self.inner.at(now), now.draw("craft", batch)
        x_adv = inner.maximise(score_of("kl", model, batch.x, batch.y), batch.x, draw, stop=counter(batch.y, kappa))
        if now.epoch < self.from_epoch:
            return TwoAttacks(batch.y, batch.x, x_adv, None, torch.ones_like(kappa))
        margin = score_of("margin", model, batch.x, batch.y, confidence=self.confidence)
        share = (1 + torch.tanh(self.shift + inner.steps / 2 - kappa)) / 2
        return TwoAttacks(batch.y, batch.x, x_adv, inner.maximise(margin, batch.x, draw.within("margin")), share)

    def loss(self, model: nn.Module, examples: TwoAttacks, now: Now) -> Terms:
        """Forwards: by KL, by margin (if used), natural; nothing is detached."""
        adversarial = model(examples.x_adv)
        by_margin = None if examples.x_margin is None else model(examples.x_margin)
        natural = model(examples.x)
        robust = kl(natural, adversarial)
        if by_margin is not None:
            robust = examples.share * robust + (1 - examples.share) * kl(natural, by_margin)
        return {"natural": cross_entropy(natural, examples.y, self.label_smoothing), "robust": self.beta * robust}
