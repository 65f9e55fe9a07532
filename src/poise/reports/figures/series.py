"""What a picture shows, as numbers: panels of series of points. They are written beside it as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

NUMBERS = ("x", "y", "low", "high", "x low", "x high")


@dataclass(frozen=True)
class Point:
    """A value at a place, with the ends of its interval or band; `name` is said beside it, or below it where `x` is a
    place of a bar.
    """

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    x_low: float | None = None
    x_high: float | None = None
    name: str = ""
    n: int = 0
    """Over how many runs or images it is; 0 where that is not said."""
    about: tuple[tuple[str, str], ...] = ()
    """Further facts, each with its name: what a page says where one points at it."""


@dataclass(frozen=True)
class Series:
    """Points that belong together: a line, a family, the bars of one colour. printed: a paper's own numbers, drawn
    hollow.
    """

    label: str
    points: tuple[Point, ...]
    printed: bool = False
    place: int | None = None
    """What its colour and shape go by; by default its place among the others, and below 0 none."""
    run: str = ""
    """Of a line that is one of several runs, which are drawn thin beside their mean: the run."""


@dataclass(frozen=True)
class Field:
    """Values on a grid: `values[row][column]` at (xs[column], ys[row]). right: of labels, the one that is right, which
    is drawn black.
    """

    xs: tuple[float, ...]
    ys: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]
    right: int | None = None
    columns: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    """Names in place of numbers, of a matrix."""


@dataclass(frozen=True)
class Panel:
    title: str
    across: str
    up: str
    series: tuple[Series, ...] = ()
    field: Field | None = None
    marked: tuple[float, ...] = ()
    """Places across at which upright lines stand."""
    note: str = ""


def to_csv(panels: Sequence[Panel]) -> str:
    """A line for each point: panel, series, whether a paper printed it, its name, then `NUMBERS`; empty where there is
    none.

    Of a field a point has the place in x and low, across and up, and the value in y.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["panel", "series", "printed", "name", *NUMBERS])
    for panel in panels:
        for series in panel.series:
            for point in series.points:
                numbers = (point.x, point.y, point.low, point.high, point.x_low, point.x_high)
                texts = ["" if number is None else f"{number:.6g}" for number in numbers]
                writer.writerow([panel.title, series.label, "yes" if series.printed else "no", point.name, *texts])
        if panel.field is not None:
            for y, row in zip(panel.field.ys, panel.field.values, strict=True):
                for x, value in zip(panel.field.xs, row, strict=True):
                    writer.writerow(
                        [panel.title, "field", "no", "", f"{x:.6g}", f"{value:.6g}", f"{y:.6g}", "", "", ""]
                    )
    return out.getvalue()
