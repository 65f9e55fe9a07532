"""What a picture shows, as numbers: panels of series of points. They are written beside it as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
    is drawn black; names: what the values 0, 1, ... mean.
    """

    xs: tuple[float, ...]
    ys: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]
    right: int | None = None
    columns: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    """Names in place of numbers, of a matrix."""
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tile:
    """An image of a grid, with what is said below it. pixels: rows of grey values, or of (red, green, blue), in [0, 1];
    number: the image's in its data set; right: whether it is classified rightly, drawn as its frame; None: no frame.
    """

    pixels: tuple[tuple[Any, ...], ...]
    text: str
    number: int
    right: bool | None = None


@dataclass(frozen=True)
class Box:
    """Of a diagram: its place (its middle) and size in units of the panel, 0 to 1, and its text."""

    name: str
    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class Diagram:
    """Boxes, and arrows from one to another by their names, each with a text, which may be empty."""

    boxes: tuple[Box, ...]
    arrows: tuple[tuple[str, str, str], ...]


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
    tiles: tuple[tuple[str, tuple[Tile, ...]], ...] = ()
    """Rows of images, each with its name."""
    diagram: Diagram | None = None


def to_csv(panels: Sequence[Panel]) -> str:
    """A line for each point: panel, series, whether a paper printed it, its name, then `NUMBERS`; empty where there is
    none.

    Of a field a point has the place in x and low, across and up, and the value in y. Of images each has its number in
    the data set in x, its place in its row in y, what is said of it as name, and in low whether it is classified
    rightly. Of a diagram each box has its place in x and y; an arrow has its ends and its text as name.
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
        for name, tiles in panel.tiles:
            for place, tile in enumerate(tiles):
                right = "" if tile.right is None else str(int(tile.right))
                writer.writerow(
                    [panel.title, name, "no", "; ".join(tile.text.split("\n")), tile.number, place, right, "", "", ""]
                )
        if panel.diagram is not None:
            for box in panel.diagram.boxes:
                writer.writerow(
                    [
                        panel.title,
                        "box",
                        "no",
                        " ".join(box.text.split("\n")),
                        f"{box.x:.6g}",
                        f"{box.y:.6g}",
                        *[""] * 4,
                    ]
                )
            for start, end, text in panel.diagram.arrows:
                said = f"{start} to {end}" + (f": {text}" if text else "")
                writer.writerow([panel.title, "arrow", "no", said, *[""] * 6])
    return out.getvalue()
