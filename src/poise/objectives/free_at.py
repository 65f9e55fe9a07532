"""Free adversarial training: every backward pass moves the weights and the perturbation (Shafahi et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from poise.attacks.ascent import Ascent
from poise.core import papers
from poise.core.batches import Batch, Now
from poise.core.modes import CraftMode
from poise.core.settings import PositiveCount, UnitInterval, settings
from poise.losses import cross_entropy
from poise.objectives.at import Adversarial
from poise.objectives.objective import Forwards, Terms
from poise.objectives.single_step import SingleStep


@dataclass(frozen=True)
class Replayed(Adversarial):
    """delta: the perturbation before it was projected for these images [B, C, H, W]."""

    delta: Tensor


@settings
class FreeAT(SingleStep[Replayed]):
    """CE(x + d), `replays` times on each batch; after each d becomes Project(d + step steepest(gradient at x + d)).

    The gradient is that of the backward pass which trains, so nothing is asked beside it. d belongs to a place in the
    batch and goes on from one batch to the next, at first 0.
    """

    paper = papers.FREE_AT
    remembers: ClassVar = "places"
    replays: PositiveCount = 8
    """m: updates on each batch. Training takes as many epochs fewer."""
    inner: Ascent = Ascent(step_size=8 / 255, steps=1, start="zero")
    """Threat and size of the step after each replay; the paper's is epsilon."""
    label_smoothing: UnitInterval = 0.0
    craft_mode: CraftMode = "training"

    def forwards(self) -> Forwards:
        return Forwards(0, 3 * self.replays)

    def turns(self, model: nn.Module, now: Now) -> int:
        return self.replays

    def craft(self, model: nn.Module, batch: Batch, now: Now, teacher: nn.Module | None = None) -> Replayed:
        delta = torch.zeros_like(batch.x) if batch.prior is None else batch.prior
        return Replayed(batch.y, batch.x, self.inner.at(now).threat.project(batch.x + delta, batch.x), delta)

    @torch.no_grad()
    def remember(self, examples: Replayed, now: Now) -> Tensor:
        gradient = examples.x_adv.grad
        assert gradient is not None, "asked before the backward pass"
        inner, grey = self.inner.at(now), torch.full_like(examples.x, 0.5)  # around which no box is reached
        stepped = inner.threat.step(grey + examples.delta, gradient, inner.step_size)
        return inner.threat.project(stepped, grey) - grey

    def loss(self, model: nn.Module, examples: Replayed, now: Now) -> Terms:
        """The backward pass leaves its gradient at the images, too."""
        if torch.is_grad_enabled() and examples.x_adv.is_leaf:
            examples.x_adv.requires_grad_(True)
        return {"robust": cross_entropy(model(examples.x_adv), examples.y, self.label_smoothing)}
