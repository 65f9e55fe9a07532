"""N-FGSM: adversarial training by one step from a noised image, without clipping around the clean one (de Jorge et al.
2022).
"""

from __future__ import annotations

import torch
from torch import nn

from poise.attacks.ascent import Ascent, changed, started
from poise.attacks.gradients import image_gradient
from poise.attacks.pgd import score_of
from poise.core import papers
from poise.core.batches import Batch, Now
from poise.core.modes import CraftMode
from poise.core.settings import NonNegative, UnitInterval, settings
from poise.losses import cross_entropy
from poise.objectives.at import Adversarial
from poise.objectives.objective import Forwards, Terms
from poise.objectives.single_step import SingleStep


@settings
class NFGSM(SingleStep[Adversarial]):
    """CE(x_adv), x_adv = x + eta + step_size * steepest(gradient at x + eta), eta uniform within noise * epsilon; then
    into [0, 1].

    The noise augments, and the step is not projected, so x_adv may lie up to (noise + 1) epsilon from x: that is what
    keeps one-step training from overfitting to its own attack.
    """

    paper = papers.N_FGSM
    noise: NonNegative = 2.0
    """k: largest noise, in epsilons."""
    inner: Ascent = Ascent(step_size=8 / 255, steps=1, start="zero")
    """Threat and size of the one step; the paper's is epsilon. The start is the noise."""
    label_smoothing: UnitInterval = 0.0
    craft_mode: CraftMode = "training"

    def forwards(self) -> Forwards:
        return Forwards(2, 3)

    def craft(self, model: nn.Module, batch: Batch, now: Now, teacher: nn.Module | None = None) -> Adversarial:
        inner = self.inner.at(now)
        around = changed(inner.threat, epsilon=self.noise * inner.threat.epsilon)
        z = started("unclamped_uniform", around, batch.x, now.draw("craft", batch))
        leaf = z.detach().requires_grad_(True)
        with torch.enable_grad():
            values, _ = score_of("cross_entropy", model, batch.x, batch.y)(leaf)
            gradient = image_gradient(values, leaf)
        return Adversarial(batch.y, batch.x, inner.threat.step(z, gradient, inner.step_size).clamp(0, 1))

    def loss(self, model: nn.Module, examples: Adversarial, now: Now) -> Terms:
        return {"robust": cross_entropy(model(examples.x_adv), examples.y, self.label_smoothing)}
