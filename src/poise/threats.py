"""Threat models: the set around an image that an attacker may use, and the geometry that attacks need of it.

A threat owns the pixel box too: whatever it projects lies in [0, 1]. Images are [B, C, H, W] (or [B, ...]); those of
half precision are measured and moved in float32 and then rounded.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from math import inf
from typing import Annotated

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from poise.core.errors import SettingsError
from poise.core.lengths import above_zero, scaled, signs, wide
from poise.core.seeds import Draw
from poise.core.settings import NonNegative, Settings, UnitInterval, number, settings

PositiveShare = Annotated[float, BeforeValidator(number), Field(gt=0, le=1)]

# how far below its sphere L2 projects, as a share of the norm and at most 1e-7: rounding then leaves it inside
_MARGIN = 1e-5

# what published code adds to a gradient's norm; here to ordinary ones (an entry above 1e-6) in float32
_GUARD, _ORDINARY = (
    1e-12,
    2.0**20,
)


class Threat(Settings, family="threat"):
    """The set of allowed images around `x`: within `epsilon` of it and inside [0, 1]."""

    epsilon: float

    @property
    def order(self) -> float:
        """Of the norm: infinity, 2 or 1. Raises: SettingsError for a threat of another kind."""
        raise SettingsError(f"threat = {type(self).__name__}: this attack knows norms of order infinity, 2 and 1")

    def dual_norm(self, gradient: Tensor) -> Tensor:
        """What a move of size 1 can add to a linear function of this gradient [B]: the norm dual to the threat's."""
        raise SettingsError(f"threat = {type(self).__name__}: this attack needs to know its dual norm")

    @abstractmethod
    def project(self, z: Tensor, x: Tensor) -> Tensor:
        """The allowed image for `z`, nearest in the norm's own sense; same shape."""

    @abstractmethod
    def random_start(self, x: Tensor, draw: Draw) -> Tensor:
        """A random allowed image."""

    @abstractmethod
    def step(self, z: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        """`z` moved by `step_size` in the direction of steepest ascent, however small the gradient, and not at all
        where it is 0.

        The result is not projected.
        """

    @abstractmethod
    def norm(self, delta: Tensor) -> Tensor:
        """Size of each perturbation [B]."""

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raises: SettingsError for images of so few values that the threat is beyond the box, whatever they are."""

    def whole_box(self, x: Tensor) -> float:
        """The epsilon within which every image of this shape [B, ...] can become every other."""
        return float(x[0].numel()) ** (1 / self.order)

    def gaussian_start(self, x: Tensor, draw: Draw, deviation: float = 0.001) -> Tensor:
        """x plus a little normal noise, neither projected nor clamped: the start of TRADES, MART and Squeeze
        Training.
        """
        return (x + deviation * draw.normal(*x.shape[1:], dtype=wide(x.dtype))).to(x.dtype)


@settings
class Linf(Threat):
    """Every pixel may change by at most epsilon."""

    epsilon: UnitInterval = 8 / 255

    @property
    def order(self) -> float:
        return inf

    def dual_norm(self, gradient: Tensor) -> Tensor:
        return gradient.flatten(1).abs().sum(1)

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        wider = x.to(wide(x.dtype))
        return torch.minimum(torch.maximum(z, wider - self.epsilon), wider + self.epsilon).clamp(0, 1).to(z.dtype)

    def bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and the largest allowed value of every pixel, both like x."""
        return (x - self.epsilon).clamp_(0, 1), (x + self.epsilon).clamp_(0, 1)

    def random_start(self, x: Tensor, draw: Draw) -> Tensor:
        noise = draw.uniform(*x.shape[1:], dtype=wide(x.dtype))
        return (x + noise.mul_(2).sub_(1).mul_(self.epsilon)).clamp_(0, 1).to(x.dtype)

    def step(self, z: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        return (z + step_size * signs(gradient).to(wide(z.dtype))).to(z.dtype)

    def norm(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().amax(1)


@settings
class L2(Threat):
    """The perturbation's Euclidean norm is at most epsilon."""

    epsilon: NonNegative = 128 / 255
    """May exceed 1: the norm is taken over all pixels."""
    box_first: bool = False
    """Clamp to [0, 1] before the ball instead of after (TRADES' order); both results are allowed images."""

    @property
    def order(self) -> float:
        return 2

    def dual_norm(self, gradient: Tensor) -> Tensor:
        return gradient.flatten(1).norm(dim=1)

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
        # in float64 not for a last digit: a step of length epsilon stays as it is
        scale = torch.where(norm > self.epsilon * (1 + 1e-12), self.epsilon / (norm + margin), torch.ones_like(norm))
        return delta * spread(scale, delta)


@settings
class L1(Threat):
    """The sum of all pixels' changes is at most epsilon; projections are exact for ball and box together (Croce & Hein
    2021).
    """

    epsilon: NonNegative = 12.0
    """May exceed 1: the sum is taken over all pixels."""
    density: PositiveShare = 0.01
    """Share of the coordinates that a step moves: those of largest gradient, alike."""

    @property
    def order(self) -> float:
        return 1

    def check_shape(self, shape: Sequence[int]) -> None:
        values = math.prod(shape)
        if self.epsilon > values:
            size = " x ".join(map(str, shape))
            raise SettingsError(
                f"L1.epsilon = {self.epsilon:g}: must be at most {values}, within which every image of {size} can"
                " become every other; the sum is over all pixels of images in [0, 1]"
            )

    def dual_norm(self, gradient: Tensor) -> Tensor:
        return gradient.flatten(1).abs().amax(1)

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        """The nearest image of ball and box in the Euclidean sense."""
        return self.within(z, x, x.new_zeros(len(x), dtype=wide(x.dtype)) + self.epsilon)

    def within(self, z: Tensor, x: Tensor, epsilon: Tensor) -> Tensor:
        """The same with an epsilon for each example [B]."""
        wider = x.to(wide(x.dtype))
        delta, flat = (z - wider).flatten(1), wider.flatten(1)
        room = torch.where(delta > 0, 1 - flat, flat)
        return (wider + shrunk(delta, room, epsilon).view_as(x)).clamp(0, 1).to(z.dtype)

    def random_start(self, x: Tensor, draw: Draw) -> Tensor:
        """The nearest allowed image of x + N(0, 1), which is as sparse as the threat."""
        return self.project(x + draw.normal(*x.shape[1:], dtype=wide(x.dtype)), x).to(x.dtype)

    def step(self, z: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        """Among coordinates that the box lets move, those of largest gradient share the step alike."""
        free = torch.where(gradient > 0, z < 1, z > 0) | gradient.isnan()
        return (z + step_size * self.sparse(gradient * free, self.density)).to(z.dtype)

    def sparse(self, gradient: Tensor, density: float | Tensor) -> Tensor:
        """The signs of the share `density` (for each example [B] or all) of largest coordinates, of norm 1; 0 where all
        are 0.
        """
        size = gradient.flatten(1).abs()
        share = density if isinstance(density, Tensor) else torch.full((), density, device=size.device)
        count = (size.shape[1] * share).long().clamp(1, size.shape[1])
        least = size.sort(1, descending=True).values.gather(1, (count - 1).expand(len(size))[:, None])
        sign = signs(gradient).to(wide(gradient.dtype)) * (size >= least).view_as(gradient)
        return sign / spread(self.norm(sign).clamp(min=1), sign)

    def norm(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().sum(1, dtype=wide(delta.dtype))


def each(x: Tensor) -> tuple[int, ...]:
    """The axes of one example."""
    return tuple(range(1, x.dim()))


def shrunk(delta: Tensor, room: Tensor, epsilon: Tensor) -> Tensor:
    """The point nearest to delta [B, D] of L1 norm at most epsilon [B] whose coordinates go at most room [B, D] in
    delta's direction.

    Coordinate i goes min(room_i, max(|delta_i| - level, 0)), level >= 0 the least that keeps the sum within epsilon.
    The sum is piecewise linear in the level with kinks at |delta_i| and |delta_i| - room_i, so one sort finds it
    exactly.
    """
    size = delta.abs()
    kinks, order = torch.cat([size, (size - room).clamp(min=0)], 1).sort(1, descending=True)
    slope = torch.cat([torch.ones_like(size), -torch.ones_like(size)], 1).gather(1, order).cumsum(1)
    sums = torch.cat([torch.zeros_like(size[:, :1]), (slope[:, :-1] * (kinks[:, :-1] - kinks[:, 1:])).cumsum(1)], 1)
    enough = sums >= epsilon[:, None]
    after = enough.to(torch.uint8).argmax(1, keepdim=True).clamp(min=1)  # the first kink whose sum reaches epsilon
    above, used, rate = (values.gather(1, after - 1)[:, 0] for values in (kinks, sums, slope))
    level = torch.where(enough.any(1), above - (epsilon - used) / rate.clamp(min=1), torch.zeros_like(above)).clamp(
        min=0
    )
    return torch.minimum((size - level[:, None]).clamp(min=0), room) * delta.sign()


def spread(values: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, ..., 1] with as many axes as `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))
