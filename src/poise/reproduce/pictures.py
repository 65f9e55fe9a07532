"""What an item's picture shows, from its runs: the series of its kind."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from poise.recipes.items import Item
from poise.reports.collect import Run
from poise.reports.columns import Cell, Column, records_of
from poise.reports.figures.series import Panel, Point, Series
from poise.reports.plots import robust_column, robust_name
from poise.reports.statistics import NATURAL, Group
from poise.reports.tables import Table
from poise.reproduce.probes import MEASURED
from poise.reproduce.sheet import Made, Sheet, name_of

ROBUST = "robust"


def panels(item: Item, sheet: Sheet) -> list[Panel]:
    """The panels of the item's picture; empty where nothing is measured yet, or the item has no picture."""
    picture = item.picture
    if picture is None or picture.kind in MEASURED:
        return []
    if picture.kind == "curves":
        panels_found = [_curves(title, starts, sheet.made) for title, starts in picture.watched]
    elif picture.kind == "trade-off":
        panels_found = [_trade_off(item, sheet)]
    elif picture.across == "lambda":
        panels_found = [_forms(sheet, picture.columns)]
    elif picture.across == "class":
        panels_found = _classes(sheet)
    elif picture.kind == "sweep":
        panels_found = [Panel(item.title, picture.across, "accuracy, %", _swept(sheet, picture.columns))]
    else:
        panels_found = [Panel(item.title, "", "accuracy, %", _barred(sheet, picture.columns))]
    return [panel for panel in panels_found if any(series.points for series in panel.series)]


def _column(table: Table, name: str) -> int | None:
    """The place of a column by name, or of the one that says how robust a network is."""
    if name == ROBUST:
        return robust_column(table)
    return next((place for place, column in enumerate(table.columns) if name in (column.label, name_of(column))), None)


def _label(table: Table, name: str) -> str:
    place = _column(table, name)
    return name if name != ROBUST or place is None else robust_name(table.columns[place])


def _cell(sheet: Sheet, made: Made, name: str) -> Cell | None:
    """Of the selected checkpoint, or else the first that there is; of an attack under several threats that which was
    measured.
    """
    place = _column(sheet.measured, name)
    columns_named = (
        [place]
        if name == ROBUST
        else [k for k, column in enumerate(sheet.measured.columns) if name in (column.label, name_of(column))]
    )
    cells = _cells(sheet, made)
    return next((cells[k][1] for k in columns_named if cells and k is not None and cells[k][1].value is not None), None)


def _swept(sheet: Sheet, columns: Sequence[str]) -> tuple[Series, ...]:
    """A line for each column, or for each column and family where there are several families."""
    families = dict.fromkeys(result.line.family for result in sheet.made)
    series = []
    for family in families:
        for name in columns:
            cells = [
                (result.line.x, _cell(sheet, result, name))
                for result in sheet.made
                if result.line.family == family and result.line.x is not None
            ]
            points = tuple(
                Point(x or 0.0, cell.value or 0.0, cell.low, cell.high) for x, cell in cells if cell is not None
            )
            label = _label(sheet.measured, name)
            series.append(Series(f"{family}, {label}" if len(families) > 1 else label, points))
    return tuple(series)


def _barred(sheet: Sheet, columns: Sequence[str]) -> tuple[Series, ...]:
    """A colour for each column, a group of bars for each line."""
    bars = []
    for name in columns:
        cells = [(place, result.line.label, _cell(sheet, result, name)) for place, result in enumerate(sheet.made)]
        points = tuple(
            Point(place, cell.value or 0.0, cell.low, cell.high, name=label)
            for place, label, cell in cells
            if cell is not None
        )
        bars.append(Series(_label(sheet.measured, name), points))
    return tuple(bars)


def _trade_off(item: Item, sheet: Sheet) -> Panel:
    """Natural against robust, a family for each name of one; the paper's own points hollow, where there are any in its
    table.
    """
    points_measured: dict[str, list[Point]] = {}
    points_printed: dict[str, list[Point]] = {}
    place = robust_column(sheet.measured) if sheet.measured.rows else None
    for result in sheet.made:
        family = result.line.family or result.line.label
        x, y = _cell(sheet, result, NATURAL), _cell(sheet, result, ROBUST)
        if x is not None and y is not None and x.value is not None and y.value is not None:
            name = f"{result.line.x:g}" if result.line.x is not None else result.line.label.removeprefix(family).strip()
            points_measured.setdefault(family, []).append(Point(x.value, y.value, y.low, y.high, x.low, x.high, name))
    up = sheet.measured.columns[place] if place is not None else None
    for row in sheet.table.rows:
        if row.kind == "published":
            line = next((result.line for result in sheet.made if row.label == f"{result.line.label}, paper"), None)
            if line is None:  # another version's
                continue
            pair = [
                _printed(sheet.table, row.cells, NATURAL),
                _printed(sheet.table, row.cells, up.label if up is not None else "AA"),
            ]
            if pair[0] is not None and pair[1] is not None:
                points_printed.setdefault(line.family or line.label, []).append(
                    Point(pair[0], pair[1], name=line.label)
                )
    series = [Series(family, tuple(points)) for family, points in points_measured.items()]
    series += [Series(f"{family}, paper", tuple(points), printed=True) for family, points in points_printed.items()]
    return Panel(
        item.title,
        "natural accuracy, %",
        f"{robust_name(up) if up is not None else 'accuracy under AutoAttack'}, %",
        tuple(series),
    )


def _printed(table: Table, cells: Sequence[Cell], name: str) -> float | None:
    return next((cell.value for cell, column in zip(cells, table.columns, strict=True) if column.label == name), None)


def _forms(sheet: Sheet, stems: Sequence[str]) -> Panel:
    """Accuracy under an adaptive attack over its lambda: a line for each row and aim; lambda 0 is the plain attack.

    stems: an attack with its budget and aim; small variants have another budget.
    """
    series, budget = [], r"-\d+(?:x\d+)?"
    for result in sheet.made:
        cells = [(column.attack or "", cell) for column, cell in _cells(sheet, result)]
        for stem in stems:
            attack, aim = stem.partition("-")[0], stem.rpartition("-")[2]
            swept, plain = rf"{attack}{budget}-{aim}-([\d.]+)", attack.removeprefix("Adaptive") + budget
            values = [(float(match[1]), cell) for name, cell in cells if (match := re.fullmatch(swept, name))]
            values += [(0.0, cell) for name, cell in cells if re.fullmatch(plain, name)][:1] if values else []
            points = [Point(x, cell.value or 0.0, cell.low, cell.high) for x, cell in values if cell.value is not None]
            label = f"{result.line.label}, {stem.rpartition('-')[2]}"
            series.append(Series(label, tuple(sorted(points, key=lambda point: point.x))))
    return Panel("", "lambda", "accuracy, %", tuple(series))


def _cells(sheet: Sheet, made: Made) -> list[tuple[Column, Cell]]:
    group = next(iter(made.groups.values()), None)
    row = next((row for row in sheet.measured.rows if group is not None and row.group is group), None)
    return [] if row is None else list(zip(sheet.measured.columns, row.cells, strict=True))


def _classes(sheet: Sheet) -> list[Panel]:
    """Accuracy by class, natural and attacked: a colour for each line."""
    place = robust_column(sheet.measured) if sheet.measured.rows else None
    columns = [Column(NATURAL), *([sheet.measured.columns[place]] if place is not None else [])]
    cells = []
    for column in columns:
        series = []
        for result in sheet.made:
            group = next(iter(result.groups.values()), None)
            shares = [] if group is None else by_class(group, column)
            names = [] if group is None else group.first.classes
            series.append(
                Series(result.line.label, tuple(Point(k, 100 * share, name=names[k]) for k, share in enumerate(shares)))
            )
        title = robust_name(column) if column.label != NATURAL else "natural accuracy"
        cells.append(Panel(title, "", f"{title}, %", tuple(series)))
    return cells


def by_class(group: Group, column: Column) -> list[float]:
    """Share of each class's images that are classified correctly, mean over the group's runs, in [0, 1]."""
    records = records_of(group, column)
    labels = np.array(group.first.labels)
    right = [
        (
            record.correct_under(column.attack)
            if column.attack
            else record.worst_case()
            if column.worst
            else record.natural_correct()
        )
        for record in records
    ]
    means = np.mean(np.array(right, dtype=float), axis=0) if right else np.zeros(len(labels))
    return [
        float(means[labels == k].mean()) if (labels == k).any() else math.nan for k in range(len(group.first.classes))
    ]


def _curves(title: str, starts: Sequence[str], made: Sequence[Made]) -> Panel:
    """Named quantities by epoch: the mean over runs, with a band of their standard deviation; or, of a quantity that a
    run itself gives as mean and deviation over images, of half that deviation."""
    series = []
    for result in made:
        by_name: dict[str, list[dict[float, float]]] = {}
        for run in result.runs:
            for name, points in curves_of(run, starts).items():
                by_name.setdefault(name, []).append(dict(points))
        for name, runs in by_name.items():
            if name.endswith("/std"):
                continue
            spread = by_name.get(f"{name.removesuffix('/mean')}/std") if name.endswith("/mean") else None
            epochs = sorted(set.intersection(*(set(points) for points in runs)))
            points = tuple(
                _at(epoch, [points[epoch] for points in runs], [points.get(epoch, 0.0) for points in spread or []])
                for epoch in epochs
            )
            label = name.removesuffix("/mean").partition("/")[2]
            series.append(Series(f"{result.line.label}, {label}" if len(made) > 1 else label, points))
    shares = title == "accuracy"
    values_scaled = (
        tuple(Series(s.label, tuple(_percent(point) for point in s.points)) for s in series)
        if shares
        else tuple(series)
    )
    return Panel(title, "epoch", f"{title}, %" if shares else title, values_scaled)


def curves_of(run: Run, starts: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """Those of these names, or that begin with one that ends in a slash."""
    groups = tuple(start for start in starts if start.endswith("/"))
    return {name: points for name, points in run.curves().items() if name in starts or name.startswith(groups)}


def _at(epoch: float, values: Sequence[float], spreads: Sequence[float]) -> Point:
    mean = float(np.mean(values))
    half = float(np.mean(spreads)) / 2 if spreads else float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Point(epoch, mean, *((None, None) if half is None else (mean - half, mean + half)))


def _percent(point: Point) -> Point:
    low, high = (None if end is None else 100 * end for end in (point.low, point.high))
    return Point(point.x, 100 * point.y, low, high)
