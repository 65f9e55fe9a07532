"""FAT: friendly adversarial training (Zhang et al. 2020, Algorithm 1): the ascent stops soon after it has succeeded."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from poise.attacks.ascent import StopRule
from poise.core import papers
from poise.core.batches import UNLABELLED, Batch, Now
from poise.core.errors import SettingsError
from poise.core.modes import CraftMode
from poise.core.settings import Count, NonNegative, PositiveCount, settings
from poise.objectives.at import AT, Adversarial, AdversarialObjective
from poise.objectives.objective import Forwards, Objective, Terms


def friendly(y: Tensor, tau: int) -> StopRule:
    """A stop rule: an example takes at most `tau` steps from misclassified iterates and then keeps the point it is at.

    One without a label (-1) is never misclassified and takes all steps.
    """
    left = torch.zeros_like(y) + tau

    def stop(logits: Tensor) -> Tensor:
        nonlocal left
        wrong = (logits.argmax(1) != y) & (y != UNLABELLED)
        going = ~wrong | (left > 0)
        left = left - wrong.to(left.dtype)
        return going

    return stop


@settings
class FAT(Objective[Adversarial]):
    """An objective on friendly examples: FAT itself around AT, FAT-TRADES and FAT-MART around those.

    Its published code clamps TRADES' Gaussian start to [0, 1]: `objective.inner.start=clamped_gaussian`. BatchNorm's
    running statistics are updated by the forwards of the objective's loss, and by those of the steps where its
    `craft_mode` is "training".
    """

    transparent = "objective"
    paper = papers.FAT
    objective: AdversarialObjective = AT()
    tau: tuple[Count, ...] = (0, 1, 2)
    """Steps after success."""
    tau_from: tuple[PositiveCount, ...] = (1, 51, 91)
    """The 1-based epochs from which each tau is in force."""
    jitter: NonNegative = 0.001
    """omega: standard deviation of the noise added to every step; takes the place of the inner ascent's own."""

    def __post_init__(self) -> None:
        if (
            len(self.tau) != len(self.tau_from)
            or self.tau_from[:1] != (1,)
            or list(self.tau_from) != sorted(set(self.tau_from))
        ):
            raise SettingsError(
                f"FAT.tau_from = {self.tau_from}: must start at 1, increase and be as long as tau = {self.tau}"
            )
        if max(self.tau) > self.objective.inner.steps:
            raise SettingsError(
                f"FAT.tau = {self.tau}: must be at most the inner ascent's steps = {self.objective.inner.steps}"
            )

    @property
    def craft_mode(self) -> CraftMode:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.objective.craft_mode

    @property
    def takes_unlabelled(self) -> bool:
        return self.objective.takes_unlabelled

    def forwards(self) -> Forwards:
        """At most: friendly examples stop early."""
        return self.objective.forwards()

    def craft(self, model: nn.Module, batch: Batch, now: Now, teacher: nn.Module | None = None) -> Adversarial:
        changes = zip((0, *self.tau), self.tau, self.tau_from, strict=False)
        tau = sum((after - before) * now.since(start) for before, after, start in changes)
        inner = dataclasses.replace(self.objective.inner, jitter=self.jitter).at(now)
        score, draw = self.objective.score(model, batch), now.draw("craft", batch)
        x_adv = inner.maximise(score, batch.x, draw, stop=friendly(batch.y, tau))
        return Adversarial(batch.y, batch.x, x_adv, weights=self.objective.weights(batch))

    def loss(self, model: nn.Module, examples: Adversarial, now: Now) -> Terms:
        return self.objective.loss(model, examples, now)
