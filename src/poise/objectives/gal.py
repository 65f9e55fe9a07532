"""GAL (Kariyappa & Qureshi 2019): the members' loss gradients at an image should not point the same way."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor, nn

from poise.attacks.ascent import Ascent
from poise.core import papers
from poise.core.batches import Batch, Now
from poise.core.lengths import unit
from poise.core.modes import CraftMode
from poise.core.settings import NonNegative, UnitInterval, settings
from poise.losses import cross_entropy
from poise.objectives.adp import attacked, ensemble_of, sum_of_losses
from poise.objectives.at import Adversarial
from poise.objectives.objective import Forwards, Objective, Terms


def coherence(gradients: Tensor) -> Tensor:
    """log of the sum over pairs of members of exp(cosine of their gradients) [B], from gradients [M, B, D] (Eq. 6); one
    member: 0.
    """
    if len(gradients) < 2:
        return gradients.new_zeros(gradients.shape[1])
    unit_gradients = gradients / gradients.norm(dim=-1, keepdim=True).clamp(min=1e-20)
    # a direction's derivative is as large as its gradient is small
    directions = unit_gradients + (unit(gradients) - unit_gradients).detach()
    cosines = [(directions[i] * directions[j]).sum(-1) for i, j in combinations(range(len(gradients)), 2)]
    return torch.logsumexp(torch.stack(cosines), 0)


@settings
class GAL(Objective[Adversarial]):
    """mean_i CE_i + weight * coherence of the input gradients [+ mean_i CE_i(x_adv)], x_adv from the ensemble.

    The paper's members have LeakyReLU activations of slope .1, whose derivative vanishes nowhere.
    """

    paper = papers.GAL
    weight: NonNegative = 0.5
    """Lambda."""
    noise: NonNegative = 0.045
    """Standard deviation of the normal noise added, unclamped, to some natural images."""
    noise_probability: UnitInterval = 0.5
    """Share of the images that are noised, drawn per image."""
    adversarial: Ascent | None = None
    """PGD on the ensemble, for adversarial training; None: natural images only."""
    label_smoothing: UnitInterval = 0.0
    """Of the members' losses, and so of the gradients whose coherence is measured."""
    craft_mode: CraftMode = "training"
    """In "training" BatchNorm's running statistics are updated by each forward: one for every step of the ascent, one
    of natural and one of adversarial images. "frozen_statistics" and "evaluating" leave out those of the ascent.
    """

    def check(self, model: nn.Module) -> None:
        ensemble_of(model, "GAL")

    def forwards(self) -> Forwards:
        """The gradients that are compared take a backward pass, and one more through it to images and weights."""
        return Forwards(0, 6) if self.adversarial is None else Forwards(2 * self.adversarial.steps, 9)

    def craft(self, model: nn.Module, batch: Batch, now: Now, teacher: nn.Module | None = None) -> Adversarial:
        x_adv = attacked(self.adversarial, ensemble_of(model, "GAL"), batch, now)
        return Adversarial(batch.y, self._noised(batch, now), x_adv)

    def loss(self, model: nn.Module, examples: Adversarial, now: Now) -> Terms:
        """Forwards of every member: natural (also the one that is differentiated twice), then adversarial."""
        ensemble = ensemble_of(model, "GAL")
        losses, gradients = [], []
        for member in ensemble.members:
            x = examples.x.detach().requires_grad_(True)
            losses.append(cross_entropy(member(x), examples.y, self.label_smoothing))
            (gradient,) = torch.autograd.grad(losses[-1].sum(), x, create_graph=True)
            gradients.append(gradient.flatten(1))
        terms = {"natural": torch.stack(losses).mean(0), "coherence": self.weight * coherence(torch.stack(gradients))}
        if self.adversarial is not None:
            robust = sum_of_losses(ensemble.all_logits(examples.x_adv), examples.y, self.label_smoothing)
            terms["robust"] = robust / len(ensemble.members)
        return terms

    def _noised(self, batch: Batch, now: Now) -> Tensor:
        if self.noise == 0 or self.noise_probability == 0:
            return batch.x
        draw = now.draw("noise", batch)
        is_noised = draw.within("chosen").uniform(1, dtype=batch.x.dtype) < self.noise_probability
        noise = self.noise * draw.within("values").normal(*batch.x.shape[1:], dtype=batch.x.dtype)
        return torch.where(is_noised.view(-1, *[1] * (batch.x.dim() - 1)), batch.x + noise, batch.x)
