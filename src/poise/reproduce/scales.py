"""At which scale an item is made: as the paper made it, as the study on CIFAR-10 is made, on the embedded digits, or as
a trial.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from typing import Any, Literal, get_args

from poise.core.errors import SettingsError
from poise.core.overrides import override
from poise.core.settings import Settings
from poise.data import CIFAR10
from poise.engine import Experiment
from poise.engine.published import definition
from poise.learners import SGD, PiecewiseLinear, Policy
from poise.methods import Generalist, Method
from poise.models import PreActResNet18, ResNet18, WideResNet
from poise.recipes import experiment
from poise.recipes.items import Item, Line

Scale = Literal["quick", "digits", "study", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)
SAID = {
    "quick": "small variants of the recipes, which only show that they run",
    "digits": "on scikit-learn's digits, not the paper's experiment",
    "study": "a ResNet-18 of width 16 for 20 epochs on CIFAR-10, not the paper's experiment",
    "paper": "",
}
"""What a title says of the scale."""
STUDY_MODEL, STUDY_EPOCHS, STUDY_IMAGES = ResNet18(width=16), 20, 1000


def lines_of(item: Item, scale: Scale) -> list[Line]:
    """The item's lines that there are at this scale; of those that are one experiment there, the first.

    Raises: SettingsError where there are none.
    """
    lines = list(item.lines)
    if scale == "digits":
        lines = _distinct((line, line.digits) for line in lines if line.digits)
    elif scale == "study":
        experiments = [
            (line, at_scale(line, scale, 0)) for line in lines if _studied(experiment(line.recipe.split()[0]))
        ]
        lines = _distinct(
            (line, json.dumps(definition(definition_of_line), sort_keys=True))
            for line, definition_of_line in experiments
        )
    if not lines and item.lines:
        there = ", ".join(
            definition_of_line
            for definition_of_line in SCALES
            if definition_of_line != scale and _any(item, definition_of_line)
        )
        raise SettingsError(f"--scale {scale}: {item.id} has no row there; must be {there}")
    return lines


def _distinct(lines: Iterable[tuple[Line, str]]) -> list[Line]:
    lines_distinct: dict[tuple[str, bool], Line] = {}
    for line, settings_text in lines:
        lines_distinct.setdefault(
            (settings_text, line.by_learner), dataclasses.replace(line, label=line.short or line.label)
        )
    return list(lines_distinct.values())


def _any(item: Item, scale: Scale) -> bool:
    try:
        return bool(lines_of(item, scale))
    except SettingsError:
        return False


def at_scale(line: Line, scale: Scale, seed: int | None) -> Experiment:
    """The experiment of a line, named after its recipe and what is changed in it. seed: None for the recipe's own."""
    name, *settings = (line.digits if scale == "digits" else line.recipe).split()
    if scale == "quick":
        settings = [setting for setting in settings if setting.startswith("method.")]  # others may be of longer runs
    result = override(experiment(name, scale == "quick"), settings) if settings else experiment(name, scale == "quick")
    if scale == "study":
        result = _study(result)
    suffix = "".join(f"-{re.sub(r'[^A-Za-z0-9.]+', '_', setting)}" for setting in settings)
    placement: Any = "by-learner" if line.by_learner else result.placement
    label = f"{name}{suffix}" + ("_quick" if scale == "quick" else "")
    return dataclasses.replace(result, name=label, seed=result.seed if seed is None else seed, placement=placement)


def _studied(made: Experiment) -> bool:
    is_known = isinstance(made.model, ResNet18 | PreActResNet18 | WideResNet)
    pools = any(policy.extra is not None for policy in made.method.policies().values())
    return isinstance(made.data, CIFAR10) and is_known and not pools


def _study(made: Experiment) -> Experiment:
    """The same method and objectives with the study's network and schedule: what is given in epochs keeps its fraction
    of the run.
    """
    share = STUDY_EPOCHS / made.epochs
    monitors = tuple(dataclasses.replace(monitor, first=STUDY_IMAGES) for monitor in made.monitors)
    return dataclasses.replace(
        made,
        model=STUDY_MODEL,
        method=_scheduled(made.method, share),
        epochs=STUDY_EPOCHS,
        monitors=monitors,
        keep_epochs=tuple(sorted({max(1, round(epoch * share)) for epoch in made.keep_epochs})),
        protocol=dataclasses.replace(made.protocol, first=STUDY_IMAGES),
        title=made.label,
        published=None,
        also_published=(),
    )


def _scheduled(method: Any, share: float) -> Method:
    policies = {name: _policy(policy, share) for name, policy in method.policies().items()}
    changes: Any = {"policy": policies["joint"]} if "joint" in policies else policies
    if isinstance(method, Generalist) and method.redistribute_unit == "epochs":
        changes["redistribute_every"] = max(1, round(method.redistribute_every * share))
    return dataclasses.replace(method, **changes)


def _policy(policy: Policy, share: float) -> Policy:
    optimizer: Any = policy.optimizer
    # the published rates of .01 with a weight decay of 3.5e-3 do not train so thin a network
    if isinstance(optimizer, SGD):
        optimizer = dataclasses.replace(optimizer, learning_rate=0.1, weight_decay=5e-4)
    changes: Any = {name: _begun(getattr(policy, name), share) for name in ("objective", "perturbation", "average")}
    return dataclasses.replace(policy, optimizer=optimizer, schedule=PiecewiseLinear(), **changes)


def _begun(part: Any, share: float) -> Any:
    """What begins at an epoch, at the same fraction of the run."""
    if not isinstance(part, Settings) or not dataclasses.is_dataclass(part):
        return part
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if field.name == "from_epoch":
            changes[field.name] = max(1, round(value * share))
        elif field.name == "tau_from":
            changes[field.name] = tuple(max(place + 1, round(epoch * share)) for place, epoch in enumerate(value))
        elif isinstance(value, Settings):
            changes[field.name] = _begun(value, share)
    return dataclasses.replace(part, **{name: value for name, value in changes.items() if value != getattr(part, name)})
