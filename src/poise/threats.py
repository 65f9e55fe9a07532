"""Threat models: the set around an image that an attacker may use, and the geometry that attacks need of it.

A threat owns the pixel box too: whatever it projects lies in [0, 1]. Images are [B, C, H, W] (or [B, ...]).
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from poise.core.seeds import Draw
from poise.core.settings import NonNegative, Settings, UnitInterval, settings


class Threat(Settings, family="threat"):
    """The set of allowed images around `x`: within `epsilon` of it and inside [0, 1]."""

    epsilon: float

    @abstractmethod
    def project(self, z: Tensor, x: Tensor) -> Tensor:
        """The allowed image for `z`, nearest in the norm's own sense; same shape."""

    @abstractmethod
    def random_start(self, x: Tensor, draw: Draw) -> Tensor:
        """A random allowed image."""

    @abstractmethod
    def step(self, z: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        """`z` moved by `step_size` in the direction of steepest ascent; not projected."""

    @abstractmethod
    def norm(self, delta: Tensor) -> Tensor:
        """Size of each perturbation [B]."""

    def gaussian_start(self, x: Tensor, draw: Draw, deviation: float = 0.001) -> Tensor:
        """x plus a little normal noise, neither projected nor clamped: the start of TRADES, MART and Squeeze Training."""
        return x + deviation * draw.normal(*x.shape[1:], dtype=x.dtype)


@settings
class Linf(Threat):
    """Every pixel may change by at most epsilon."""

    epsilon: UnitInterval = 8 / 255

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(z, x - self.epsilon), x + self.epsilon).clamp(0, 1)

    def random_start(self, x: Tensor, draw: Draw) -> Tensor:
        noise = draw.uniform(*x.shape[1:], dtype=x.dtype)
        return (x + noise.mul_(2).sub_(1).mul_(self.epsilon)).clamp_(0, 1)

    def step(self, z: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        return z + step_size * gradient.sign()

    def norm(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().amax(1)


@settings
class L2(Threat):
    """The perturbation's Euclidean norm is at most epsilon."""

    epsilon: NonNegative = 128 / 255
    """May exceed 1: the norm is taken over all pixels."""
    box_first: bool = False
    """Clamp to [0, 1] before the ball instead of after (TRADES' order); both results are allowed images."""

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        if self.box_first:
            return x + self._into_ball(z.clamp(0, 1) - x)
        return (x + self._into_ball(z - x)).clamp(0, 1)

    def random_start(self, x: Tensor, draw: Draw) -> Tensor:
        """Uniform in the ball, then clamped to [0, 1]."""
        direction = draw.within("direction").normal(*x.shape[1:], dtype=x.dtype)
        radius = draw.within("radius").uniform(1, dtype=x.dtype)[:, 0] ** (1 / x[0].numel())
        scale = self.epsilon * radius / self.norm(direction).clamp(min=1e-12)
        return (x + spread(scale, x) * direction).clamp_(0, 1)

    def step(self, z: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        return z + step_size * gradient / spread(self.norm(gradient) + 1e-12, z)

    def norm(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).norm(dim=1)

    def _into_ball(self, delta: Tensor) -> Tensor:
        norm = self.norm(delta)
        scale = torch.where(norm > self.epsilon, self.epsilon / (norm + 1e-7), torch.ones_like(norm))
        return delta * spread(scale, delta)


def spread(values: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, ..., 1] with as many axes as `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))
