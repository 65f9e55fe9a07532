"""Grids in words: `epsilon=2/255,4/255`, `method.beta=log:1e-3..1e-1:5`, and every combination of them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from poise.core.errors import SettingsError
from poise.core.settings import number, to_json
from poise.core.wording import plain

MOST = 100_000
"""Points of a sweep."""
_SPACED = re.compile(r"(log|lin):(.+?)\.\.(.+?):(\d+)")
_BRACKETS = {"[": 1, "{": 1, "]": -1, "}": -1}


def parsed(words: Sequence[str]) -> tuple[list[str], dict[str, list[Any]]]:
    """(recipes, values by path) of a command's words: those with an equals sign are the grid's.

    Raises: SettingsError.
    """
    recipes = [word for word in words if "=" not in word]
    grid: dict[str, list[Any]] = {}
    for word in words:
        path, equals, text = word.partition("=")
        if not equals:
            continue
        if not path.strip():
            raise SettingsError(f"{word!r} is not of the form name.name=value,value")
        if path.strip() in grid:
            raise SettingsError(f"{path.strip()} is given twice; give all its values in one: {path.strip()}=a,b,c")
        grid[path.strip()] = values(path.strip(), text.strip())
    return recipes, grid


def values(path: str, text: str) -> list[Any]:
    """The values of one path: a list with commas (a value in brackets is one), or so many of `log:` or `lin:` A..B:N.

    Raises: SettingsError.
    """
    spacing = _SPACED.fullmatch(text)
    if spacing is not None:
        return _spaced(f"{path}={text}", *spacing.groups())
    if re.match(r"(log|lin):", text):
        raise SettingsError(f"{path}={text}: must be {text[:3]}:FROM..TO:COUNT, such as log:1e-3..1e-1:5")
    parts, depth, start = list[str](), 0, 0
    for place, letter in enumerate(text):
        depth += _BRACKETS.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    parts.append(text[start:].strip())
    return checked(path, parts)


def checked(path: str, given: Sequence[Any]) -> list[Any]:
    """The values, of which there is one at least, none is empty and none comes twice. Raises: SettingsError."""
    if len(given) == 0 or any(isinstance(value, str) and not value for value in given):
        raise SettingsError(f"{path}: a value is missing; must be one or more, such as {path}=a,b,c")
    words = [spoken(value) for value in given]
    if twice := next((word for place, word in enumerate(words) if word in words[:place]), None):
        raise SettingsError(f"{path}: {twice} is given twice")
    return list(given)


def _spaced(what: str, kind: str, first: str, last: str, count: str) -> list[Any]:
    try:
        ends = [float(number(end.strip())) for end in (first, last)]  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise SettingsError(f"{what}: {first} and {last} must be numbers") from None
    steps = int(count) - 1
    if not all(map(math.isfinite, ends)) or ends[0] == ends[1] or steps < 1:
        raise SettingsError(f"{what}: must be of two different numbers and at least 2 values")
    if kind == "log" and min(ends) <= 0:
        raise SettingsError(f"{what}: both ends must be above 0")
    if kind == "log":
        inner = [math.exp(math.log(ends[0]) + math.log(ends[1] / ends[0]) * step / steps) for step in range(1, steps)]
    else:
        inner = [ends[0] + (ends[1] - ends[0]) * step / steps for step in range(1, steps)]
    # six digits, so that a person can write the same; the ends are as they were given
    return [ends[0], *(float(f"{value:.6g}") for value in inner), ends[1]]


def spoken(value: Any) -> str:
    """A value in a word, as in names and labels."""
    return value if isinstance(value, str) else plain(to_json(value, whole=True))


def combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every choice of one value for each path, the last path's running fastest. Raises: SettingsError for too many."""
    count = math.prod(len(options) for options in grid.values())
    if count > MOST:
        raise SettingsError(f"the grid has {count:,} points; must be at most {MOST:,}")
    return [dict(zip(grid, combination, strict=True)) for combination in itertools.product(*grid.values())]


def named(grid: Mapping[str, Sequence[Any]], point: Mapping[str, Any]) -> str:
    """What tells a point from the others: `epsilon=4_255-beta=6`; empty where the grid has one point only.

    A path is named by its last word, or as a whole where another one ends alike.
    """
    paths_varied = [path for path, options in grid.items() if len(options) > 1]
    ends = [path.rpartition(".")[2] for path in paths_varied]
    words = [end if ends.count(end) == 1 else path for path, end in zip(paths_varied, ends, strict=True)]
    parts = (f"{word}={spoken(point[path])}" for word, path in zip(words, paths_varied, strict=True))
    return "-".join(re.sub(r"[^A-Za-z0-9.=+-]+", "_", part) for part in parts)
