"""Schedules: a number as a function of the moment of training, stateless. Epochs are 1-based, as in the papers."""

from __future__ import annotations

import math
from abc import abstractmethod

from poise.core.batches import Now
from poise.core.errors import SettingsError
from poise.core.settings import NonNegative, Number, Settings, UnitInterval, number, settings


class Schedule(Settings, family="schedule"):
    """A factor on the learning rate, or any other quantity that training changes by plan. A number stands for itself
    throughout.
    """

    @classmethod
    def coerce(cls, value: object) -> object:
        """A number, or a fraction such as "1/2", is the constant schedule of that value."""
        value = number(value) if isinstance(value, str) else value
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        return {"type": "Constant", "at": value} if plain else value

    @abstractmethod
    def value(self, now: Now) -> float:
        """The value at this moment."""

    @property
    def least(self) -> float:
        """What no value is below, as far as the settings say; 0 where they say nothing."""
        return 0.0


@settings
class Constant(Schedule):
    """The same value throughout."""

    at: Number = 1.0

    @property
    def least(self) -> float:
        return self.at

    def value(self, now: Now) -> float:
        return self.at


@settings
class Step(Schedule):
    """Starts at 1 and takes the next factor at the start of each named epoch (or fraction of training, per step)."""

    at: tuple[Number, ...] = (80, 100)
    """1-based epochs, or fractions of all steps when `unit` is "fraction"."""
    factors: tuple[Number, ...] = (0.1, 0.01)
    unit: str = "epoch"

    def __post_init__(self) -> None:
        if len(self.at) != len(self.factors) or list(self.at) != sorted(self.at):
            raise SettingsError(f"Step.at = {self.at}: must be increasing and as long as factors = {self.factors}")
        if self.unit not in ("epoch", "fraction"):
            raise SettingsError(f"Step.unit = {self.unit!r}: must be 'epoch' or 'fraction'")

    @property
    def least(self) -> float:
        return min(self.factors, default=1.0)

    def value(self, now: Now) -> float:
        position = now.epoch if self.unit == "epoch" else now.step / now.steps
        steps_passed = sum(position >= start for start in self.at)
        return self.factors[steps_passed - 1] if steps_passed else 1.0


@settings
class PiecewiseLinear(Schedule):
    """Linear between breakpoints given as fractions of the run's epochs; constant within an epoch (Generalist's lr and
    gamma).
    """

    at: tuple[UnitInterval, ...] = (0, 1 / 3, 2 / 3, 1)
    values: tuple[Number, ...] = (1, 1, 0.1, 0.01)

    def __post_init__(self) -> None:
        if len(self.at) != len(self.values) or list(self.at) != sorted(self.at) or not self.at:
            raise SettingsError(
                f"PiecewiseLinear.at = {self.at}: must be increasing and as long as values = {self.values}"
            )

    @property
    def least(self) -> float:
        return min(self.values)

    def value(self, now: Now) -> float:
        position = now.epoch / now.epochs
        for low_end, right, low, high in zip(self.at, self.at[1:], self.values, self.values[1:], strict=False):
            if position <= right and right > low_end:
                return low + (high - low) * max(0.0, position - low_end) / (right - low_end)
        return self.values[-1]


@settings
class Cosine(Schedule):
    """(1 + cos(pi (e - 1) / E)) / 2 at epoch e of E (Carmon et al. 2019); per step with `per_step`."""

    per_step: bool = False

    def value(self, now: Now) -> float:
        progress = now.step / now.steps if self.per_step else (now.epoch - 1) / now.epochs
        return (1 + math.cos(math.pi * progress)) / 2


@settings
class WarmupCosine(Schedule):
    """Linear from `start` to 1 over the first `warmup` epochs, then half a cosine down to `end`; per step."""

    warmup: NonNegative = 5
    """Epochs, may be a fraction of one."""
    start: UnitInterval = 0.0
    end: UnitInterval = 0.0
    """Factors on the learning rate before the first step and after the last one."""

    def value(self, now: Now) -> float:
        epochs = (now.step + 1) / now.steps_per_epoch
        if epochs < self.warmup:
            return self.start + (1 - self.start) * epochs / self.warmup
        epochs_left = now.epochs - self.warmup
        progress = min(1.0, (epochs - self.warmup) / epochs_left) if epochs_left > 0 else 0.0
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * progress)) / 2


@settings
class OneCycle(Schedule):
    """Linear from 0 to 1 over the first `rise` of all steps, then linearly back to 0."""

    rise: UnitInterval = 0.4

    def value(self, now: Now) -> float:
        progress = (now.step + 1) / now.steps
        if progress <= self.rise:
            return progress / self.rise
        return max(0.0, (1 - progress) / (1 - self.rise)) if self.rise < 1 else 1.0
