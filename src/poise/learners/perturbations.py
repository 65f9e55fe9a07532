"""Weight perturbations: the loss is descended at weights moved a little uphill, and the move is undone after the
step.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from poise.core import papers
from poise.core.batches import Now
from poise.core.lengths import above_zero, scaled
from poise.core.papers import Paper
from poise.core.settings import NonNegative, Number, Positive, PositiveCount, Settings, settings

Keep = Callable[[Tensor], Tensor]
"""Loss of each example [B] -> which of them count [B]."""
Uphill = Callable[[Keep | None], list[Tensor]]
"""The gradient of the training loss at the current weights, one tensor per perturbed parameter, over all microbatches
and ranks.
"""


class WeightPerturbation(Settings, family="perturbation"):
    """Moves a network's weights before its loss is taken; the Learner undoes the move after the optimizer's step."""

    paper: ClassVar[Paper]
    gamma: float
    from_epoch: int

    @property
    @abstractmethod
    def gradients(self) -> int:
        """How often the training loss is differentiated for it in a step."""

    def active(self, now: Now) -> bool:
        """Whether weights are perturbed at this (1-based) epoch."""
        return now.epoch >= self.from_epoch

    @abstractmethod
    def move(self, weights: Sequence[Tensor], uphill: Uphill) -> list[Tensor]:
        """The perturbation of each weight, gamma included. May move `weights` to look around but leaves them where they
        were.
        """


def perturbed(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that are perturbed: trained ones named "weight" with more than one dimension (not biases, not
    BatchNorm).
    """
    parameters = network.named_parameters()
    return [
        parameter
        for name, parameter in parameters
        if "weight" in name and parameter.dim() > 1 and parameter.requires_grad
    ]


@settings
class AWP(WeightPerturbation):
    """Adversarial weight perturbation: each layer moves by gamma times its own norm along its gradient (Wu et al. 2020,
    Eq. 8-10).
    """

    paper = papers.AWP
    gamma: NonNegative = 0.01
    from_epoch: PositiveCount = 1

    @property
    def gradients(self) -> int:
        return 1

    def move(self, weights: Sequence[Tensor], uphill: Uphill) -> list[Tensor]:
        near = [scaled(gradient, tuple(range(gradient.dim())))[0] for gradient in uphill(None)]
        return [
            self.gamma * weight.norm() / above_zero(towards.norm()) * towards
            for weight, towards in zip(weights, near, strict=True)
        ]


@settings
class RWP(WeightPerturbation):
    """Robust weight perturbation: several ascent steps on examples of small loss, scaled by all weights jointly (Yu et
    al. 2022).
    """

    paper = papers.RWP
    gamma: NonNegative = 0.01
    from_epoch: PositiveCount = 1
    steps: PositiveCount = 10
    step_size: Positive = 0.01
    """Size of one ascent step before scaling ("proxy learning rate")."""
    largest_loss: Number = 1.7
    """c_min: examples with a larger loss don't count."""

    @property
    def gradients(self) -> int:
        return self.steps

    def move(self, weights: Sequence[Tensor], uphill: Uphill) -> list[Tensor]:
        here = [weight.clone() for weight in weights]
        size = _norm(here)
        sums = [torch.zeros_like(weight) for weight in weights]
        delta = sums
        for _ in range(self.steps):
            gradients = uphill(lambda values: values < self.largest_loss)
            sums = [total + self.step_size * gradient for total, gradient in zip(sums, gradients, strict=True)]
            factor = scaled(torch.stack([total.abs().max() for total in sums]))[1]
            near = [total * factor for total in sums]
            scale = self.gamma * size / above_zero(_norm(near))
            delta = [scale * total for total in near]
            for weight, start, move in zip(weights, here, delta, strict=True):
                weight.copy_(start + move)
        for weight, start in zip(weights, here, strict=True):
            weight.copy_(start)
        return delta


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all tensors taken together."""
    return torch.stack([tensor.norm() for tensor in tensors]).norm()
