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
    """A named experiment: `make(quick)` builds it; the docstring has command, cost and published result."""

    name: str
    make: Make

    @property
    def line(self) -> str:
        """The first line of the docstring."""
        return (self.make.__doc__ or "").strip().splitlines()[0]

    @property
    def text(self) -> str:
        return "\n".join(line.strip() for line in (self.make.__doc__ or "").strip().splitlines())


_RECIPES: dict[str, Recipe] = {}


def recipe(make: Make) -> Make:
    """Register the function under its own name; the experiment it returns carries that name, and its rows are bound to it."""

    @functools.wraps(make)
    def made(quick: bool) -> Experiment:
        return make(quick).small_variant() if quick else make(quick).bound()

    _RECIPES[make.__name__] = Recipe(make.__name__, made)
    return make


def register(name: str, text: str, make: Make) -> None:
    """Register `make` under another name and docstring: how a table's rows are made in a loop. Raises: SettingsError for a name taken."""
    if name in _RECIPES:
        raise SettingsError(f"there is a recipe {name!r} already")

    def made(quick: bool) -> Experiment:
        return make(quick)

    made.__name__, made.__doc__ = name, text
    recipe(made)


def recipes() -> dict[str, Recipe]:
    """All recipes by name, in order of registration."""
    return dict(_RECIPES)


def experiment(name: str, quick: bool = False) -> Experiment:
    """The experiment of a recipe, or its quick variant. Raises: SettingsError with the nearest name."""
    if name not in _RECIPES:
        raise SettingsError(f"there is no recipe {name!r}{did_you_mean(name, _RECIPES)}")
    return _RECIPES[name].make(quick)
