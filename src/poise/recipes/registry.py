"""Recipes: functions that return an Experiment. `@recipe` makes one findable by its name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from poise.core.errors import SettingsError, did_you_mean
from poise.engine.experiment import Experiment

Make = Callable[[bool], Experiment]


@dataclass(frozen=True)
class Recipe:
    """A named experiment: `make(quick)` builds it. Neither it nor what is said of it is made before it is asked for."""

    name: str
    make: Make
    describe: Callable[[], str]

    @functools.cached_property
    def text(self) -> str:
        """What it is, in a line, then its command, its cost and what was published."""
        return "\n".join(line.strip() for line in self.describe().strip().splitlines())

    @property
    def line(self) -> str:
        return self.text.partition("\n")[0]


_RECIPES: dict[str, Recipe] = {}


def recipe(make: Make) -> Make:
    """Register the function under its own name, described by its docstring; the experiment it returns carries that
    name.
    """
    enlist(make.__name__, make, lambda: make.__doc__ or "")
    return make


def enlist(name: str, make: Make, describe: Callable[[], str]) -> None:
    """Register `make` under a name; the rows of its experiments are bound to them. Raises: SettingsError for a name
    taken.
    """
    if name in _RECIPES:
        raise SettingsError(f"there is a recipe {name!r} already")

    def bound(quick: bool) -> Experiment:
        return make(quick).small_variant() if quick else make(quick).bound()

    _RECIPES[name] = Recipe(name, bound, describe)


def recipes() -> dict[str, Recipe]:
    """All recipes by name, in order of registration."""
    return dict(_RECIPES)


def experiment(name: str, quick: bool = False) -> Experiment:
    """The experiment of a recipe, or its quick variant. Raises: SettingsError with the nearest name."""
    if name not in _RECIPES:
        raise SettingsError(f"there is no recipe {name!r}{did_you_mean(name, _RECIPES)}")
    return _RECIPES[name].make(quick)
