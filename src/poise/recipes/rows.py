"""How a table's rows become recipes: the full experiment, its small variant, its cost and its text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from poise.attacks import PGD, Attack
from poise.data import CIFAR10, CIFAR100, MNIST, SVHN, DataSource, Digits, TinyImageNet
from poise.engine.experiment import Experiment, Monitor, Published
from poise.evaluation import Protocol
from poise.learners import Policy
from poise.learners.costs import forwards
from poise.methods import Generalist, Method
from poise.models import VGG16, Network, PreActResNet18, ResNet18, WideResNet
from poise.objectives import FAT
from poise.recipes.registry import Make, enlist

M = TypeVar("M", bound=Method)

IMAGES: dict[type[DataSource], int] = {
    CIFAR10: 50_000,
    CIFAR100: 50_000,
    Digits: 1_437,
    MNIST: 60_000,
    SVHN: 73_257,
    TinyImageNet: 100_000,
}
"""Training images."""


Cost = str | Callable[[Experiment], str]
"""The forwards an image in words, as they are or of the experiment, where `forwards` can't tell."""


def register(name: str, line: str, make: Make, note: str = "", cost: Cost = "", then: Sequence[str] = ()) -> None:
    """Register a recipe with its text (see `text`). then: further commands on the run, each after what it shows."""

    def describe() -> str:
        full = make(False)
        cost_text = cost if isinstance(cost, str) else cost(full)
        return "\n".join([text(name, line, full, note, cost_text), *(f"Then, {command}" for command in then)])

    enlist(name, make, describe)


def add(name: str, line: str, make: Callable[[], Experiment], note: str = "") -> None:
    """Register a recipe with its text (see `text`) and its small variant."""

    def build(quick: bool) -> Experiment:
        full = dataclasses.replace(make(), name=name)
        return small(full) if quick else full

    register(name, line, build, note)


def own(make: Make, line: str, note: str = "") -> None:
    """Register a function that builds both variants itself, under its own name, with its text."""
    register(make.__name__, line, make, note)


def unprinted(table: str, row: str, note: str = "no numbers are printed") -> Published:
    """A row of a paper that has no numbers: a figure, a form that is only described. It says where the experiment
    belongs.
    """
    return Published(table=table, row=row, note=note)


def text(name: str, line: str, made: Experiment, note: str = "", each: str = "") -> str:
    """A recipe's text: what it is, how it is run, what it costs, what was published, and what the paper leaves open.
    each: see `cost`.
    """
    row = made.published
    published_text = said(row) if row is not None else ""
    lines = [
        f"{line}{f'; published {published_text}' if published_text else ''}.",
        "",
        f"Command: poise train {name} --out runs/{name}",
        f"Cost: {cost(made, each)}.",
    ]
    if row is not None:
        lines.append(
            f"Published: {row.table}{f', {row.row}' if row.row else ''}." + (f" Note: {row.note}." if row.note else "")
        )
    else:
        lines.append("Published: no numbers.")
    lines += [f"Also published: {also.table}, {also.row}: {said(also) or also.note}." for also in made.also_published]
    if note:
        lines.append(f"Settings: {note}.")
    return "\n".join(lines)


def said(row: Published) -> str:
    """The natural accuracy, and AutoAttack's or else the lowest robust one, as printed."""
    values = {column: value for column, value in zip(row.columns, row.values, strict=True) if value is not None}
    robust = sorted(
        (column for column in values if column != "natural"), key=lambda column: (column != "AA", values[column])
    )
    return ", ".join(
        f"{values[column]:.2f} {column}" for column in (*(["natural"] if "natural" in values else []), *robust[:1])
    )


# -- cost ------------------------------------------------------------------------------------------------------------


def cost(made: Experiment, each: str = "") -> str:
    """What training costs, counted in forwards of the network. each: the forwards an image in words, where `forwards`
    can't tell.
    """
    each = each or f"{sum(forwards(policy) for policy in made.method.policies().values())} forwards an image"
    size = made.method.batch_size
    count = getattr(made.data, "train_images", None) or IMAGES.get(type(made.data))
    steps = f" of {-(-count // size)} steps" if count is not None else ""
    return f"{each} (backward passes counted as one, as two with weights); {made.epochs} epochs{steps} of {size} images"


# -- the small variant -----------------------------------------------------------------------------------------------


def small(made: Experiment) -> Experiment:
    """Two epochs of a narrow network on the first 48 images: shows that everything runs, no more.

    What begins late in training (weight perturbations, re-weighting, a larger tau) begins at once, and Generalist
    redistributes in the second epoch. Extra images still come from their file.
    """
    images: dict[str, Any] = {"train_images": 16 if isinstance(made.model, VGG16) else 48, "test_images": 50}
    attacks: tuple[Attack, ...] = tuple(_short(attack) for attack in made.protocol.attacks if isinstance(attack, PGD))[
        :1
    ]
    return dataclasses.replace(
        made,
        name=f"{made.name}_quick",
        data=dataclasses.replace(made.data, **images),
        model=narrow(made.model),
        method=redistributing(_early(made.method), epochs=2),
        epochs=2,
        natural_floor=0.0,
        monitors=tuple(_quick(monitor) for monitor in made.monitors),
        monitor_every=2,
        protocol=Protocol(name="quick", attacks=attacks, first=20),
    )


def redistributing(method: M, epochs: int) -> M:
    """Generalist with at least one redistribution in so few epochs: what comes too late for them is drawn in. Others as
    they are.
    """
    if not isinstance(method, Generalist):
        return method
    every = min(method.redistribute_every, epochs)
    last = epochs // every * every
    return dataclasses.replace(
        method, redistribute_every=every, redistribute_from=min(method.redistribute_from, last / epochs)
    )


def _quick(monitor: Monitor) -> Monitor:
    attack = _short(monitor.attack) if isinstance(monitor.attack, PGD) else monitor.attack
    return dataclasses.replace(monitor, first=20, attack=attack)


def narrow(model: Network) -> Network:
    """The same architecture, as thin as it can be."""
    if isinstance(model, WideResNet):
        return dataclasses.replace(model, depth=10, width=1)
    if isinstance(model, ResNet18 | PreActResNet18):
        return dataclasses.replace(model, width=4)
    return model


def _short(attack: PGD) -> PGD:
    return dataclasses.replace(attack, steps=min(attack.steps, 5), restarts=1)


def _early(method: Any) -> Any:
    policies = {name: _at_once(policy) for name, policy in method.policies().items()}
    return (
        dataclasses.replace(method, policy=policies["joint"])
        if "joint" in policies
        else dataclasses.replace(method, **policies)
    )


def _at_once(policy: Policy) -> Policy:
    objective: Any = policy.objective
    if hasattr(objective, "from_epoch"):
        objective = dataclasses.replace(objective, from_epoch=2)
    if isinstance(objective, FAT):
        objective = dataclasses.replace(objective, tau=objective.tau[:2], tau_from=(1, 2)[: len(objective.tau)])
    perturbation: Any = policy.perturbation
    if perturbation is not None:
        perturbation = dataclasses.replace(perturbation, from_epoch=1)
    average: Any = policy.average
    if getattr(average, "from_epoch", 1) > 2:
        average = dataclasses.replace(average, from_epoch=1)
    return dataclasses.replace(policy, objective=objective, perturbation=perturbation, average=average)
