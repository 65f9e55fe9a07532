"""Threat models: the set around an image that an attacker may use, and the geometry that attacks need of it.

A threat owns the pixel box too: whatever it projects lies in [0, 1]. Images are [B, C, H, W] (or [B, ...]); those of half precision
are measured and moved in float32 and then rounded.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from poise.core.lengths import above_zero, scaled, wide
from poise.core.seeds import Draw
from poise.core.settings import NonNegative, Settings, UnitInterval, settings

_MARGIN = 1e-5  # how far below its sphere L2 projects, as a share of the norm and at most 1e-7: rounding then leaves it inside

_GUARD, _ORDINARY = 1e-12, 2.0**20  # what published code adds to a gradient's norm; here to ordinary ones (an entry above 1e-6) in float32


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
        """`z` moved by `step_size` in the direction of steepest ascent, however small the gradient, and not at all where it is 0.

        The result is not projected.
        """

    @abstractmethod
    def norm(self, delta: Tensor) -> Tensor:
        """Size of each perturbation [B]."""

    def gaussian_start(self, x: Tensor, draw: Draw, deviation: float = 0.001) -> Tensor:
        """x plus a little normal noise, neither projected nor clamped: the start of TRADES, MART and Squeeze Training."""
        return (x + deviation * draw.normal(*x.shape[1:], dtype=wide(x.dtype))).to(x.dtype)


@settings
class Linf(Threat):
    """Every pixel may change by at most epsilon."""

    epsilon: UnitInterval = 8 / 255

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        wider = x.to(wide(x.dtype))
        return torch.minimum(torch.maximum(z, wider - self.epsilon), wider + self.epsilon).clamp(0, 1).to(z.dtype)

    def random_start(self, x: Tensor, draw: Draw) -> Tensor:
        noise = draw.uniform(*x.shape[1:], dtype=wide(x.dtype))
        return (x + noise.mul_(2).sub_(1).mul_(self.epsilon)).clamp_(0, 1).to(x.dtype)

    def step(self, z: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        sign = torch.where(gradient.isnan(), gradient, gradient.sign())  # torch's sign of NaN is 0, as if there were nothing to follow
        return (z + step_size * sign.to(wide(z.dtype))).to(z.dtype)

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
        wider = x.to(wide(x.dtype))
        if self.box_first:
            return (wider + self._into_ball(z.clamp(0, 1) - wider)).to(z.dtype)
        return (wider + self._into_ball(z - wider)).clamp(0, 1).to(z.dtype)

    def random_start(self, x: Tensor, draw: Draw) -> Tensor:
        """Uniform in the ball, then clamped to [0, 1]."""
        direction = draw.within("direction").normal(*x.shape[1:], dtype=wide(x.dtype))
        radius = draw.within("radius").uniform(1, dtype=direction.dtype)[:, 0] ** (1 / x[0].numel())
        scale = self.epsilon * radius / above_zero(self.norm(direction))
        return (x + spread(scale, x) * direction).clamp_(0, 1).to(x.dtype)

    def step(self, z: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        near, factor = scaled(gradient, each(gradient))
        guard = torch.where(factor < _ORDINARY, _GUARD * factor, 0.0) if near.dtype is torch.float32 else 0.0
        size = above_zero(self.norm(near)).view_as(factor)
        return (z + step_size * near / (size + guard)).to(z.dtype)

    def norm(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).norm(dim=1, dtype=wide(delta.dtype))

    def _into_ball(self, delta: Tensor) -> Tensor:
        norm = self.norm(delta)
        margin = torch.clamp(_MARGIN * norm, max=1e-7)
        scale = torch.where(norm > self.epsilon, self.epsilon / (norm + margin), torch.ones_like(norm))
        return delta * spread(scale, delta)


def each(x: Tensor) -> tuple[int, ...]:
    """The axes of one example."""
    return tuple(range(1, x.dim()))


def spread(values: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, ..., 1] with as many axes as `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))
