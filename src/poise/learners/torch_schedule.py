"""torch's learning rate schedulers by their names there, as functions of the moment."""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.optim import lr_scheduler

from poise.core.arguments import NONE, Arguments, check_arguments, class_named
from poise.core.batches import Now
from poise.core.errors import SettingsError
from poise.core.settings import configurable
from poise.learners.schedules import Schedule

SCHEDULES = (
    "CosineAnnealingLR",
    "OneCycleLR",
    "StepLR",
    "MultiStepLR",
    "ExponentialLR",
    "LinearLR",
    "ConstantLR",
    "PolynomialLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
)
"""Those whose rate is told by the number of steps alone."""
REFUSED = {
    **dict.fromkeys(("LambdaLR", "MultiplicativeLR"), "it keeps a function, which no settings can"),
    "ReduceLROnPlateau": "it goes by a metric, so the rate is no function of the moment",
    **dict.fromkeys(("SequentialLR", "ChainedScheduler"), "it is made of others; PiecewiseLinear joins lines"),
    "LRScheduler": "it is the class that the others inherit from",
}
_OWN = {
    "optimizer": "it is the policy's",
    "last_epoch": "a run that goes on knows its moment",
    "verbose": "metrics.jsonl has the rates",
    "scale_fn": "settings keep no function",
    **dict.fromkeys(("cycle_momentum", "base_momentum", "max_momentum"), "a schedule moves the learning rate alone"),
    **dict.fromkeys(("total_steps", "epochs", "steps_per_epoch"), "it is the run's length"),
}
_FILLED = {"CosineAnnealingLR": {"T_max": None}, "OneCycleLR": {"max_lr": 1.0, "total_steps": None}}
"""Arguments with defaults of ours; None: the run's length."""
_NOMINAL = 10
"""Length that arguments are tried with."""


@configurable
class TorchSchedule(Schedule):
    """A learning rate scheduler of torch's by its name there, with the arguments that it has there:
    `TorchSchedule(name="StepLR", step_size=30)`.

    Values are factors: torch's scheduler is given the learning rate 1, so that an argument that is a rate (eta_min,
    base_lr, max_lr) is a share of the optimizer's. `T_max` is by default the run's length, as OneCycleLR's always is,
    and its `max_lr` 1.
    """

    transparent = "arguments"
    name: str = "CosineAnnealingLR"
    unit: Literal["epoch", "step"] = "epoch"
    """How often torch's scheduler takes a step, and what its arguments count."""
    arguments: Arguments = NONE
    """Those of the class in torch, by name; what is left out is torch's default."""

    if TYPE_CHECKING:  # arguments may stand beside the settings

        def __init__(self, *, name: str = ..., unit: Literal["epoch", "step"] = ..., **arguments: Any) -> None: ...

    def __post_init__(self) -> None:
        kind = self._kind
        check_arguments("TorchSchedule", kind, self.arguments, _OWN, tuple(_FILLED.get(self.name, ())))
        try:
            list(itertools.islice(self._factors(_NOMINAL), _NOMINAL))
        except (ValueError, TypeError, ArithmeticError) as error:
            arguments_text = ", ".join(f"{name} = {value!r}" for name, value in self.arguments.items())
            raise SettingsError(f"TorchSchedule.name = {self.name!r} refuses {arguments_text}: {error}") from None

    @property
    def _kind(self) -> Any:
        return class_named(lr_scheduler, "TorchSchedule", self.name, SCHEDULES, REFUSED, lr_scheduler.LRScheduler)

    def value(self, now: Now) -> float:
        length, at = (now.epochs, now.epoch - 1) if self.unit == "epoch" else (now.steps, now.step)
        return _values(self, length)[min(at, length - 1)]

    def _factors(self, length: int) -> Iterator[float]:
        """The rate before each of its steps, from an optimizer whose own is 1."""
        kind, own_arguments = self._kind, dict(self.arguments)
        for name, value in _FILLED.get(self.name, {}).items():
            own_arguments.setdefault(name, length if value is None else value)
        if "cycle_momentum" in inspect.signature(kind).parameters:
            own_arguments["cycle_momentum"] = False
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = kind(optimizer, **own_arguments)
        while True:
            yield float(optimizer.param_groups[0]["lr"])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch misses the optimizer's own steps
                scheduler.step()


@lru_cache(maxsize=64)
def _values(schedule: TorchSchedule, length: int) -> tuple[float, ...]:
    """All factors of a run of so many epochs or steps: torch's schedulers go from each to the next."""
    return tuple(itertools.islice(schedule._factors(length), length))
