"""What a table or figure of a paper is: its rows in the paper's order, by what they are measured, and how it is
drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from poise.core.errors import SettingsError, did_you_mean
from poise.core.papers import Paper
from poise.engine.published import Published

Kind = Literal[
    "sweep",
    "bars",
    "trade-off",
    "curves",
    "budget",
    "histogram",
    "surface",
    "labels",
    "embedding",
    "grid",
    "plane",
    "diagram",
]


@dataclass(frozen=True)
class Line:
    """A row of a table, or a point or bar of a figure.

    recipe, digits: a recipe's name, with settings after it that change it, and then none of its rows is its; digits is
    what stands for it on the embedded data, empty where nothing does.
    """

    label: str
    recipe: str
    digits: str = ""
    row: str = ""
    """Its name in the paper's table, where the recipe has several rows of it."""
    family: str = ""
    """Points of a family are joined, in order; bars of a family stand together."""
    x: float | None = None
    """Its place in a sweep."""
    short: str = ""
    """What it is called where another network, or other data, stand for the paper's; empty: the same."""
    by_learner: bool = False
    """Each learner trains in a process of its own, at the same time."""
    minutes: float | None = None
    """What the paper prints its training took."""
    instead: Published | None = None
    """What the item's table prints of it, where that is no row of the recipe's."""
    beside: Published | None = None
    """What another version of the paper prints of it."""


@dataclass(frozen=True)
class Picture:
    """How an item is drawn. columns: attacks by name, "natural", or "robust" for AutoAttack or else the worst case."""

    kind: Kind
    columns: tuple[str, ...] = ("natural", "robust")
    across: str = ""
    """What the x axis says."""
    watched: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Of training curves: panels, each the beginnings of the names of the metrics that it shows."""
    chosen: Literal["", "only the last", "not the last"] = ""
    """Of a grid of images over records: which networks get them right; empty for the first images."""
    images: int = 200
    """Of what is measured on the networks themselves (budget, histogram, surface, labels, embedding), on how many test
    images.
    """


@dataclass(frozen=True)
class Item:
    """A table or figure. `id` is `paper/name`; one without lines is a picture that needs no runs."""

    id: str
    title: str
    paper: Paper
    lines: tuple[Line, ...]
    table: str = ""
    """How the papers' rows that belong to it are called in recipes (`Published.table`); empty where no numbers are
    printed.
    """
    picture: Picture | None = None
    protocols: tuple[str, ...] = ()
    """Named protocols that its runs are evaluated by beside their own, under the threat that they are judged within."""
    corruptions: bool = False
    runs: int = 1
    """How many the paper made of each row."""
    minutes: bool = False
    transfer: str = ""
    """The transfer protocol that its runs are judged by beside their own."""
    across: tuple[str, ...] = ()
    """Of a table of one column for each place in a sweep: what it shows of each family, a row each, by the names of
    columns.
    """
    gains: bool = False
    """Whether a line's gain over the one before it, of the same family, is a column."""
    untuned: bool = False
    """Whether its lines, of the families "source" and "target", say what the choice of the one costs on the other."""
    sanity: bool = False
    """Whether its runs are inspected by `poise sanity` too."""
    also: tuple[str, ...] = field(default=())
    """Further names: papers that have it too."""


_ITEMS: dict[str, Item] = {}


def add(*items: Item) -> None:
    """Register items. Raises: SettingsError for an id or name that is taken."""
    for entry in items:
        for name in (entry.id, *entry.also):
            if name in _ITEMS:
                raise SettingsError(f"there is an item {name!r} already")
            _ITEMS[name] = entry


def items() -> dict[str, Item]:
    """All items by id, in order of registration."""
    return {name: entry for name, entry in _ITEMS.items() if name == entry.id}


def item(name: str) -> Item:
    """The item of an id or a further name. Raises: SettingsError with the nearest names."""
    if name not in _ITEMS:
        same = [
            entry_name
            for entry_name in _ITEMS
            if entry_name.partition("/")[2] == name.partition("/")[2] or entry_name.partition("/")[2] == name
        ]
        hint = f"; did you mean {' or '.join(map(repr, same))}?" if same else did_you_mean(name, _ITEMS)
        raise SettingsError(f"there is no item {name!r}{hint} (poise list papers has all)")
    return _ITEMS[name]


def swept(family: str, recipes: Sequence[tuple[float, str, str]], label: str) -> tuple[Line, ...]:
    """Lines of a sweep: (x, recipe, digits) each; label: with {x} in it."""
    return tuple(Line(label.format(x=f"{x:g}"), recipe, digits, family=family, x=x) for x, recipe, digits in recipes)
