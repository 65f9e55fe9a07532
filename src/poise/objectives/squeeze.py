"""Squeeze Training (Li et al. 2023, Eq. 6 and Algorithm 1): the gap between the worst and the best neighbour of an
image is closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from poise.attacks.ascent import Ascent, started
from poise.core import papers
from poise.core.batches import Batch, Now
from poise.core.errors import SettingsError
from poise.core.modes import CraftMode, frozen_statistics, over_ranks
from poise.core.settings import NonNegative, UnitInterval, settings
from poise.losses import cross_entropy, divergence
from poise.objectives.objective import Examples, Forwards, Objective, Terms
from poise.objectives.watch import watched

Symmetric = Literal["symmetric_kl", "js", "reversed_js", "squared_l2"]
"""The paper prints JS with its arguments in an order that reads either way; reversed, each half is the KL from the
mean.
"""


@dataclass(frozen=True)
class Pair(Examples):
    """x: natural images; x_adv, x_col: adversarial and collaborative candidates before the last selection, all [B, C,
    H, W].
    """

    x: Tensor
    x_adv: Tensor
    x_col: Tensor


@settings
class SqueezeTraining(Objective[Pair]):
    """CE(x) + beta D(p(x_adv), p(x_col)); the pair jointly maximises D and is chosen anew among {x, x_col, x_adv} at
    every step.
    """

    paper = papers.SQUEEZE_TRAINING
    beta: NonNegative = 6.0
    divergence: Symmetric = "symmetric_kl"
    detach_target: bool = True
    """The target of each half of the symmetric KL is a constant (released code); JS and squared l2 have no target."""
    inner_divergence: Symmetric | None = None
    """What the pair maximises; None: the same. Another one masks gradients (Sec. 4.2)."""
    inner: Ascent = Ascent(start="gaussian")
    label_smoothing: UnitInterval = 0.0
    """Of the natural term only; selections and what is watched stay plain cross-entropy."""
    outer_order: Literal["natural_first", "adversarial_first"] = "natural_first"
    """Order of the two forwards that move BatchNorm's statistics; the released code with extra data takes the
    adversarial first.
    """
    released_swap: bool = False
    """Where no example of the batch (of the microbatch, of the rank) chooses x, gradients are swapped but points are
    not: a defect of the released code."""
    craft_mode: CraftMode = "frozen_statistics"

    def __post_init__(self) -> None:
        if self.inner.jitter:
            raise SettingsError(
                f"SqueezeTraining.inner.jitter = {self.inner.jitter}: must be 0, as Algorithm 1 adds no noise between"
                " steps"
            )

    def forwards(self) -> Forwards:
        """The natural graph is kept, so an inner step costs two forwards and three backward passes."""
        return Forwards(5 * self.inner.steps + 1, 9)

    def craft(self, model: nn.Module, batch: Batch, now: Now, teacher: nn.Module | None = None) -> Pair:
        inner, draw = self.inner.at(now), now.draw("craft", batch)
        z_adv, z_col = (
            started(inner.start, inner.threat, batch.x, draw.within(role)) for role in ("adversarial", "collaborative")
        )
        x = batch.x.detach().requires_grad_(True)
        with torch.enable_grad():
            natural = model(x)  # x and the weights stay, so one forward and its graph serve all steps
        for _ in range(inner.steps):
            z_adv, z_col = self._ascend(model, batch.y, (x, natural), z_col, z_adv, inner)
        return Pair(batch.y, batch.x, z_adv.clamp(0, 1), z_col.clamp(0, 1))

    def loss(self, model: nn.Module, examples: Pair, now: Now) -> Terms:
        """Three forwards: collaborative (running statistics untouched), natural, adversarial; then the last
        selection.
        """
        with frozen_statistics(model):
            collaborative = model(examples.x_col)
        if self.outer_order == "natural_first":
            natural, adversarial = model(examples.x), model(examples.x_adv)
        else:
            adversarial, natural = model(examples.x_adv), model(examples.x)
        logits = torch.stack([natural, collaborative, adversarial])
        worst, best = selected(logits, examples.y)
        adversarial, collaborative = taken(logits, worst), taken(logits, best)
        return {
            "natural": cross_entropy(natural, examples.y, self.label_smoothing),
            "robust": self.beta * self._gap(self.divergence, adversarial, collaborative),
            **watched("natural", cross_entropy(natural, examples.y)),
            **watched("adversarial", cross_entropy(adversarial, examples.y)),
            **watched("collaborative", cross_entropy(collaborative, examples.y)),
        }

    def _ascend(
        self, model: nn.Module, y: Tensor, kept: tuple[Tensor, Tensor], z_col: Tensor, z_adv: Tensor, inner: Ascent
    ) -> tuple[Tensor, Tensor]:
        """One joint step: select, take the gradient at the selected points, move both up the divergence and project."""
        x, natural = kept
        leaf, z_col, z_adv = (tensor.detach().requires_grad_(True) for tensor in (natural, z_col, z_adv))
        with torch.enable_grad():
            logits = torch.stack([leaf, model(z_col), model(z_adv)])
            worst, best = selected(logits, y)
            gap = self._gap(self.inner_divergence or self.divergence, taken(logits, worst), taken(logits, best))
        towards, *candidates = torch.autograd.grad(gap.sum(), [leaf, z_col, z_adv])
        at_x = (
            torch.zeros_like(x)
            if _idle(model, worst, best)
            else torch.autograd.grad(natural, x, towards, retain_graph=True)[0]
        )
        gradients = torch.stack([at_x, *candidates])
        points = torch.stack([x.detach(), z_col.detach(), z_adv.detach()])
        results = []
        for choice, start in ((worst, z_adv), (best, z_col)):
            base = taken(points, choice)
            if self.released_swap:
                base = torch.where(((worst == 0) | (best == 0)).any(), base, start.detach())
            results.append(
                inner.threat.project(inner.threat.step(base, taken(gradients, choice), inner.step_size), x.detach())
            )
        return results[0], results[1]

    def _gap(self, name: Symmetric, adversarial: Tensor, collaborative: Tensor) -> Tensor:
        return divergence(name, adversarial, collaborative, detach_target=self.detach_target and name == "symmetric_kl")


def _idle(model: nn.Module, worst: Tensor, best: Tensor) -> bool:
    """Whether no example chose x, so that nobody takes the gradient there. Not asked on accelerators, which it would
    hold up.
    """
    return worst.device.type == "cpu" and not bool(((worst == 0) | (best == 0)).any()) and not over_ranks(model)


def selected(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Of candidates' logits [3, B, C], the index of the largest and of the smallest cross-entropy per example [B];
    ties: the first.
    """
    losses = torch.stack([cross_entropy(candidate, y) for candidate in logits.detach()])
    return losses.argmax(0), losses.argmin(0)


def taken(candidates: Tensor, choice: Tensor) -> Tensor:
    """candidates [3, B, ...], choice [B] -> [B, ...]: each example's own choice."""
    return candidates[choice, torch.arange(len(choice), device=choice.device)]
