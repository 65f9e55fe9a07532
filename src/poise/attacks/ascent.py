"""The projected-ascent loop on which FGSM, PGD, MIM, the margin attack and every inner maximisation stand.

z_0 = start;   z_{k+1} = Project( z_k + step_size * steepest(gradient of score at z_k) )      (Madry et al. 2018, Eq. 4)
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextvars import ContextVar
from typing import Literal, TypeVar

import torch
from torch import Tensor

from poise.attacks.auto_ascent import auto_ascent
from poise.attacks.gradients import image_gradient
from poise.core.batches import Now
from poise.core.errors import SettingsError
from poise.core.lengths import above_zero, scaled, wide
from poise.core.seeds import Draw
from poise.core.settings import Count, NonNegative, Positive, Settings, UnitInterval, newer, settings
from poise.threats import Linf, Threat, each, spread

Score = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images [B, ...] -> (what is maximised [B], logits [B, C])."""
StopRule = Callable[[Tensor], Tensor | None]
"""Logits at z_k [B, C] -> which examples take the step from z_k [B], bool; None for all. May count as it goes."""
Rank = Callable[[Tensor, Tensor], Tensor]
"""(values [B], logits [B, C]) of an iterate -> its rank [B]; the iterate of largest rank is kept."""
Move = Callable[[Threat, float, Tensor, Tensor, Tensor], Tensor]
"""(threat, step size, z, gradient, x) -> the projected step from z."""
Start = Literal["uniform", "unclamped_uniform", "gaussian", "zero", "clamped_gaussian"]


def moved_by(threat: Threat, step_size: float, z: Tensor, gradient: Tensor, x: Tensor) -> Tensor:
    """Project( z + step_size * steepest(gradient) )."""
    return threat.project(threat.step(z, gradient, step_size), x)


MOVE: ContextVar[Move] = ContextVar("MOVE", default=moved_by)
"""How a step is computed: a learner that compiles puts the same function here, fused into one kernel."""


def ascent(
    score: Score,
    x: Tensor,
    start: Tensor,
    *,
    threat: Threat,
    step_size: float,
    steps: int,
    momentum: float = 0.0,
    normalised: bool = True,
    noise: Callable[[int], Tensor] | None = None,
    stop: StopRule | None = None,
    keep: Rank | None = None,
) -> Tensor:
    """The last iterate z_steps, or with `keep` for each example the iterate of largest rank; same shape as x.

    start: z_0, used as it is; momentum: decay of the accumulated gradient, each normalised by its mean absolute value
    (Dong et al. 2018, Eq. 6) unless `normalised` is false; noise(k): added to step k before projection; stop: see
    `StopRule` (Zhang et al. 2020, Alg. 1). The model inside `score` should have frozen parameters, so that gradients
    are taken with respect to images only. Images of half precision are moved in float32 and rounded where the model is
    asked. NaN is never passed over: it stays, and with `keep` it wins.
    Raises: InputError where the score has no gradient.
    """
    dtype_given, x = x.dtype, x.to(wide(x.dtype))
    z = start.detach().to(x.dtype)
    velocity = torch.zeros_like(x) if momentum else None
    active = torch.ones(len(x), dtype=torch.bool, device=x.device) if stop is not None else None
    best = (torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device), z) if keep is not None else None
    for k in range(steps):
        leaf = z.detach().to(dtype_given).requires_grad_(True)
        with torch.enable_grad():
            values, logits = score(leaf)
            gradient = image_gradient(values, leaf).to(x.dtype)
        with torch.no_grad():
            if best is not None and keep is not None:
                best = _better(best, keep(values, logits), z)
            if velocity is not None:
                if normalised:
                    near = scaled(gradient, each(gradient))[0]
                    gradient = near / spread(above_zero(near.flatten(1).abs().mean(1)), near)
                gradient = velocity = momentum * velocity + gradient
            if noise is None:
                stepped = MOVE.get()(threat, step_size, z, gradient, x)
            else:
                stepped = threat.project(threat.step(z, gradient, step_size) + noise(k), x)
            if stop is not None and active is not None and (going := stop(logits)) is not None:
                active = active & going
                stepped = torch.where(spread(active, z), stepped, z)
            z = stepped
    if best is not None and keep is not None:
        with torch.no_grad():
            return _better(best, keep(*score(z.to(dtype_given))), z)[1].to(dtype_given)
    return z.to(dtype_given)


def _better(best: tuple[Tensor, Tensor], values: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Per example, the larger score with its image. NaN is larger than any number, and its image is none (see
    `check_found`).
    """
    nan = values.isnan()
    wins, z = (values > best[0]) | nan, torch.where(spread(nan, z), torch.nan, z)
    return torch.where(wins, values, best[0]), torch.where(spread(wins, z), z, best[1])


def started(start: Start, threat: Threat, x: Tensor, draw: Draw) -> Tensor:
    """z_0: uniform in the threat or x + N(0, 0.001^2), clamped to [0, 1] or not, or x itself; in float32 at
    least.
    """
    x = x.to(wide(x.dtype))
    if start == "uniform":
        return threat.random_start(x, draw.within("start"))
    if start == "unclamped_uniform":  # around mid-grey no clamp is reached
        grey = torch.full_like(x, 0.5)
        return x + (threat.random_start(grey, draw.within("start")) - grey)
    if start in ("gaussian", "clamped_gaussian"):
        z = threat.gaussian_start(x, draw.within("start"))
        return z if start == "gaussian" else z.clamp(0, 1)
    return x


@settings
class Ascent(Settings):
    """Settings of an inner maximisation: what a training objective leaves open besides the score."""

    threat: Threat = Linf()
    step_size: Positive = 2 / 255
    """In pixel units: the sign step's size in Linf, the step's length in L2."""
    steps: Count = 10
    start: Start = "uniform"
    jitter: NonNegative = 0.0
    """Standard deviation of the noise added to every step (omega of Zhang et al. 2020)."""

    ramp: UnitInterval = 0.0
    """Share of training over which epsilon and step size grow linearly from 0; networks without normalisation need one.
    """
    adaptive: bool = newer(default=False)
    """Auto-PGD: steps of 2 epsilon that halve themselves, with momentum, and the best point is kept; `step_size` is not
    used.
    """

    def __post_init__(self) -> None:
        if self.adaptive and self.jitter:
            raise SettingsError(f"Ascent.jitter = {self.jitter}: must be 0 where the ascent is adaptive")

    def at(self, now: Now) -> Ascent:
        """The settings in force at this moment: those of the ramp."""
        if self.ramp == 0 or now.step + 1 >= self.ramp * now.steps:
            return self
        share = (now.step + 1) / (self.ramp * now.steps)
        threat = changed(self.threat, epsilon=share * self.threat.epsilon)
        return changed(self, threat=threat, step_size=share * self.step_size, ramp=0.0)

    def maximise(self, score: Score, x: Tensor, draw: Draw, stop: StopRule | None = None) -> Tensor:
        """x_adv [B, C, H, W], detached: the last iterate of the ascent of `score` around x."""

        def noise(k: int) -> Tensor:
            return self.jitter * draw.within("jitter", k).normal(*x.shape[1:], dtype=wide(x.dtype))

        z = started(self.start, self.threat, x, draw)
        if self.adaptive:
            if stop is not None:
                raise SettingsError("Ascent.adaptive = True: must be False for an objective that stops single examples")
            return auto_ascent(score, x, z, threat=self.threat, steps=self.steps)
        z = ascent(
            score,
            x,
            z,
            threat=self.threat,
            step_size=self.step_size,
            steps=self.steps,
            noise=noise if self.jitter else None,
            stop=stop,
        )
        return z.clamp(0, 1)  # with zero steps the gaussian start is still unclamped


S = TypeVar("S", bound=Settings)


def changed(settings: S, **changes: object) -> S:
    """The settings with other values, which are not validated: while a step is recorded, a ramp's are no plain
    numbers.
    """
    copy_of_settings = copy.copy(settings)
    for name, value in changes.items():
        object.__setattr__(copy_of_settings, name, value)
    return copy_of_settings


__all__ = ["Ascent", "Rank", "Score", "Start", "StopRule", "ascent", "started"]
