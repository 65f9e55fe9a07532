"""FGSM-PGI: one step from what was found for the same image in the last epoch (Jia et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from poise.attacks.ascent import Ascent, started
from poise.attacks.gradients import image_gradient
from poise.attacks.pgd import score_of
from poise.core import papers
from poise.core.batches import Batch, Now
from poise.core.exact import widened
from poise.core.modes import CraftMode
from poise.core.settings import NonNegative, PositiveCount, UnitInterval, settings
from poise.losses import cross_entropy
from poise.objectives.at import Adversarial
from poise.objectives.objective import Forwards, Terms
from poise.objectives.single_step import SingleStep


@dataclass(frozen=True)
class Guided(Adversarial):
    """x_prior: images at the prior [B, C, H, W]; kept: the next prior and the momentum [B, 2 C, H, W]."""

    x_prior: Tensor
    kept: Tensor


@settings
class FGSMPGI(SingleStep[Guided]):
    """CE(x + d) + weight mean_c (f_c(x + d) - f_c(x + p))^2 on logits f, d = Project(p + step steepest(g)), g the
    gradient at x + p.

    p is the image's prior: at first uniform in the threat, then Project(p + step steepest(m)), m = momentum m +
    steepest(g) summed over epochs (FGSM-MEP); without momentum the last epoch's d (FGSM-EP).
    """

    paper = papers.FGSM_PGI
    remembers: ClassVar = "images"
    weight: NonNegative = 10.0
    """Lambda, as in public code of this family, on the mean over classes; 10 there is 1 of the sum over ten classes."""
    momentum: NonNegative = 0.3
    """Mu; 0 is FGSM-EP."""
    reset_every: PositiveCount | None = 40
    """In epochs: how long priors last before they begin anew, as in that code; None: throughout."""
    inner: Ascent = Ascent(step_size=8 / 255, steps=1, start="zero")
    """Threat and size of the one step; the paper's is epsilon."""
    label_smoothing: UnitInterval = 0.0
    craft_mode: CraftMode = "training"

    def forwards(self) -> Forwards:
        return Forwards(2, 6)

    def memory_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        return 2 * shape[0], *shape[1:]

    def craft(self, model: nn.Module, batch: Batch, now: Now, teacher: nn.Module | None = None) -> Guided:
        inner, x = self.inner.at(now), batch.x
        threat, step = inner.threat, inner.step_size
        anew = now.epoch == 1 or (self.reset_every is not None and (now.epoch - 1) % self.reset_every == 0)
        if batch.prior is None or anew:
            z, past = started("uniform", threat, x, now.draw("craft", batch)), torch.zeros_like(x)
        else:
            prior, past = batch.prior.chunk(2, 1)
            z = threat.project(x + prior, x)
        leaf = z.detach().requires_grad_(True)
        with torch.enable_grad():
            values, _ = score_of("cross_entropy", model, x, batch.y)(leaf)
            gradient = image_gradient(values, leaf)
        nothing = torch.zeros_like(x)
        momentum = self.momentum * past + threat.step(nothing, gradient, 1.0)
        x_adv = threat.project(threat.step(z, gradient, step), x)
        follows = threat.project(threat.step(z, momentum, step), x)
        return Guided(batch.y, x, x_adv, z.detach(), torch.cat([follows - x, momentum], 1))

    def remember(self, examples: Guided, now: Now) -> Tensor:
        return examples.kept

    def loss(self, model: nn.Module, examples: Guided, now: Now) -> Terms:
        """Forwards: adversarial, at the prior; nothing is detached."""
        adversarial, prior = widened(model(examples.x_adv)), widened(model(examples.x_prior))
        apart = (adversarial - prior).square().mean(1)
        robust = cross_entropy(adversarial, examples.y, self.label_smoothing)
        return {"robust": robust, "prior": self.weight * apart}
