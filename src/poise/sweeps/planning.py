"""From recipes and a grid to the plan of a sweep: every point's whole experiment, checked before any work."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

from poise.core.errors import SettingsError, did_you_mean
from poise.core.overrides import override
from poise.core.settings import read_file, to_json
from poise.core.version import __version__
from poise.engine import Experiment
from poise.recipes import experiment as of_recipe
from poise.sweeps.grids import combinations, named, spoken
from poise.sweeps.ledger import Halving, Needs, Plan, Point

Swept = str | Path | Experiment
"""A recipe's name, a settings file (*.json) or an experiment."""
_LONGEST = 150
"""Letters of a point's name."""


def planned(
    recipes: Sequence[Swept],
    grid: Mapping[str, Sequence[Any]],
    seeds: int | None = None,
    *,
    quick: bool = False,
    halving: Halving | None = None,
    needs: Needs = Needs(),
    **how: Any,
) -> Plan:
    """The plan of each recipe at each point of the grid with each seed; how: its other fields.

    Raises: SettingsError naming the point whose settings do not fit, and as `check_halving`.
    """
    if not recipes:
        raise SettingsError("name at least one recipe (poise list recipes) or settings file")
    if seeds is not None and seeds < 1:
        raise SettingsError(f"seeds = {seeds}: must be at least 1")
    if seeds is not None and "seed" in grid:
        raise SettingsError("seed=... and --seeds: one of the two; --seeds counts from 0")
    points: list[Point] = []
    for base in [_base(swept, quick) for swept in recipes]:
        for combination in combinations(grid):
            points += _seeded(base, grid, combination, seeds, several=len(recipes) > 1)
    names = [point.name for point in points]
    if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
        raise SettingsError(f"two points of the sweep are called {twice}; give each recipe once, and values apart")
    _check_needs(needs)
    plan = Plan(
        __version__, datetime.now(UTC).isoformat(timespec="seconds"), points, needs=needs, halving=halving, **how
    )
    if halving is not None:
        check_halving(plan, halving)
    return plan


def _base(swept: Swept, quick: bool) -> Experiment:
    if isinstance(swept, Experiment):
        experiment = swept
    elif str(swept).endswith(".json"):
        experiment = read_file(Experiment, Path(swept))
    else:
        return of_recipe(str(swept), quick)
    if quick:
        raise SettingsError(
            "quick is of recipes, which have a small variant; settings that were written are as they are"
        )
    return experiment


def _seeded(
    base: Experiment, grid: Mapping[str, Sequence[Any]], chosen: Mapping[str, Any], seeds: int | None, several: bool
) -> list[Point]:
    apart = named(grid, chosen)
    configuration = _short("-".join(part for part in (base.name, apart) if part))
    try:
        experiment = override(base, dict(chosen))
    except SettingsError as error:
        raise SettingsError(f"{configuration}: {error}") from None
    differs = {"recipe": base.name} if several else {}
    differs |= {path: spoken(chosen[path]) for path in grid if len(grid[path]) > 1}
    points = []
    for seed in range(seeds) if seeds is not None else [experiment.seed]:
        seeded_experiment = dataclasses.replace(experiment, seed=seed)
        name = f"{configuration}/seed-{seed}" if seeds is not None else configuration
        points.append(Point(name, configuration, differs, seed, seeded_experiment.epochs, to_json(seeded_experiment)))
    return points


def _short(name: str) -> str:
    """A name that folders take; of a longer one the beginning, and a digest of all."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _check_needs(needs: Needs) -> None:
    for word, value, least in (("ranks", needs.ranks, 1), ("cpus", needs.cpus, 1), ("gpus", needs.gpus, 0)):
        if value < least:
            raise SettingsError(f"{word} = {value}: must be at least {least}")
    if needs.gpus > 1 and needs.gpus != int(needs.gpus):
        raise SettingsError(f"gpus = {needs.gpus:g}: must be a share of one, or a whole number")
    if needs.ranks > 1 and 0 < needs.gpus < 1:
        raise SettingsError(f"gpus = {needs.gpus:g}: must be whole ones where {needs.ranks} ranks train together")


def halving_of(rungs: str | Sequence[int], keep: str | float | Fraction, by: str) -> Halving:
    """Raises: SettingsError for what is none."""
    words = rungs.split(",") if isinstance(rungs, str) else [str(rung) for rung in rungs]
    if not words or not all(re.fullmatch(r"\s*[1-9]\d*\s*", word) for word in words):
        raise SettingsError(f"rungs = {rungs!r}: must be epochs, such as 5,15")
    epochs = [int(word) for word in words]
    if epochs != sorted(set(epochs)):
        raise SettingsError(f"rungs = {rungs!r}: must be epochs one after the other, such as 5,15")
    try:
        share = Fraction(str(keep).strip())
    except (ValueError, ZeroDivisionError):
        raise SettingsError(f"keep = {keep!r}: must be a share such as 1/3 or 0.5") from None
    if not 0 < share < 1:
        raise SettingsError(f"keep = {keep!r}: must be above 0 and below 1")
    return Halving(epochs, str(share), by)


def check_halving(plan: Plan, halving: Halving) -> None:
    """Raises: SettingsError where rungs cannot be reached, nothing is measured there, or it is measured on test
    images.
    """
    from poise.core.settings import from_json

    configurations = dict.fromkeys(point.configuration for point in plan.points)
    if len(configurations) < 2:
        raise SettingsError("halving needs at least two configurations to choose among")
    for point in plan.points:
        if point.configuration not in configurations:
            continue
        del configurations[point.configuration]
        experiment = from_json(Experiment, point.experiment)
        monitors = {monitor.name: monitor for monitor in experiment.monitors}
        where = f"{point.configuration}: --by {halving.by}"
        if halving.by not in monitors:
            raise SettingsError(f"{where}: it has no such monitor{did_you_mean(halving.by, monitors)}")
        split = monitors[halving.by].split
        if split == "test" or (split == "selection" and experiment.selection == "test"):
            remedy = "set selection=held-out" if split == "selection" else "measure it on held-out images"
            raise SettingsError(f"{where} is measured on test images, by which no settings may be chosen; {remedy}")
        late = next((rung for rung in halving.rungs if rung >= experiment.epochs), None)
        if late is not None:
            raise SettingsError(f"{point.configuration}: rung {late} must be below its epochs = {experiment.epochs}")
        every, epochs_to_keep = experiment.monitor_every, experiment.keep_epochs
        unseen = next((rung for rung in halving.rungs if rung % every and rung not in epochs_to_keep), None)
        if unseen is not None:
            raise SettingsError(
                f"{point.configuration}: nothing is measured at rung {unseen}, as monitor_every = {every}"
            )
