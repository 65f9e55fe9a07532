"""What the page's charts show: training curves, natural against robust accuracy, robustness over epsilon, accuracy and
confusions per class; from records alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from poise.core.settings import spelled
from poise.reports.collect import Run
from poise.reports.columns import Column, records_of
from poise.reports.figures.series import Field, Panel, Point, Series
from poise.reports.figures.still import names_of, placed, still
from poise.reports.figures.vega import Spec, vega
from poise.reports.statistics import NATURAL, WORST, Group
from poise.reports.tables import Cell, Row, Table

_CLASSES_SHOWN = 20
_BARS = 12
"""With more methods than these, accuracy per class is a matrix."""
_ELSEWHERE = ("diagnosis/", "regret/")  # diagnostics.py shows these
_MANY, _THINNED = 20_000, 25
Places = Mapping[str, int]
"""Of each group's key, what its colour and shape go by."""


@dataclass(frozen=True)
class Chart:
    """A chart of the page: interactive as `spec`, static as `still`. Of several panels one is chosen at a time."""

    kind: str
    panels: tuple[Panel, ...]

    @property
    def title(self) -> str:
        return self.panels[0].title

    @property
    def note(self) -> str:
        return self.panels[0].note

    @cached_property
    def spec(self) -> Spec:
        return vega(self.kind, self.panels)

    @cached_property
    def still(self) -> str:
        return still(self.kind, self.panels[0])

    @property
    def choices(self) -> list[str]:
        return [panel.title for panel in self.panels] if len(self.panels) > 1 else []

    @property
    def legend(self) -> dict[str, int]:
        """{label: what its colour and shape go by}, of the series that can be switched off."""
        return (
            {series_item.label: place for place, series_item in placed(self.panels[0].series)}
            if self.kind != "nested"
            else {}
        )

    @property
    def names(self) -> list[str]:
        """What colours stand for where series differ in shape alone."""
        return names_of(self.panels[0]) if self.kind == "embedding" else []


def chart(kind: str, *panels: Panel) -> Chart:
    return Chart(kind, panels)


def group_of(run: Run) -> str:
    """The key of the group that a run belongs to, from its records."""
    record = next(iter(run.records.values()), None)
    return "" if record is None else record.group or f"{record.model} {record.run}".strip()


# -- training ---------------------------------------------------------------------------------------------------------


def curve_charts(runs: Sequence[Run], places: Places, labels: Mapping[str, str]) -> dict[str, list[Chart]]:
    """{"monitor": [...], "other": [...]}: one chart per metric, a line per run in its group's colour, and of several
    runs of a group their mean.
    """
    by_metric: dict[str, list[tuple[Run, list[tuple[float, float]]]]] = {}
    for run in runs:
        for metric, points in run.curves().items():
            finite = [(x, y) for x, y in points if math.isfinite(y)]
            if finite and not metric.startswith(_ELSEWHERE):
                by_metric.setdefault(metric, []).append((run, finite))
    charts: dict[str, list[Chart]] = {"monitor": [], "other": []}
    every = _every(points for lines in by_metric.values() for _, points in lines)
    for metric in sorted(by_metric):
        kind = "monitor" if metric.startswith("monitor/") else "other"
        charts[kind].append(chart("curves", _curves(metric, by_metric[metric], places, labels, every)))
    return charts


def _every(lines: Any) -> int:
    """Of so many points that the page would be too large, every how many are drawn."""
    lengths = [len(points) for points in lines]
    return max(1, math.ceil(max(lengths) / _THINNED)) if sum(lengths) > _MANY else 1


def _curves(
    metric: str,
    lines: Sequence[tuple[Run, list[tuple[float, float]]]],
    places: Places,
    labels: Mapping[str, str],
    every: int,
) -> Panel:
    values = [y for _, points in lines for _, y in points]
    shares = metric.startswith("monitor/") and min(values) >= 0 and max(values) <= 1
    scale = 100 if shares else 1
    by_group: dict[str, list[Series]] = {}
    for run, points in lines:
        key, seed = group_of(run), run.experiment.get("seed", "-")
        points_thinned = points[(len(points) - 1) % every :: every]
        line = tuple(Point(x, scale * y) for x, y in points_thinned)
        series = Series(labels.get(key, run.name), line, place=places.get(key, -1), run=f"seed {seed}")
        by_group.setdefault(key, []).append(series)
    series = [series_item for members in by_group.values() for series_item in (*_mean(members), *members)]
    note = "% by epoch" if shares else "by epoch"
    thinning_text = f"; every {every}th point" if every > 1 else ""
    meant = "; mean and std of runs" if any(not series_item.run for series_item in series) else ""
    return Panel(metric.removeprefix("monitor/"), "epoch", "", tuple(series), note=note + meant + thinning_text)


def _mean(members: Sequence[Series]) -> list[Series]:
    """The mean of the runs of a group, with their standard deviation, at the epochs that all have."""
    if len(members) < 2:
        return []
    at = [{point.x: point.y for point in member.points} for member in members]
    points = []
    for x in sorted(set.intersection(*(set(run) for run in at))):
        values = [run[x] for run in at]
        mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
        points.append(Point(x, mean, mean - std, mean + std, n=len(values)))
    return [Series(members[0].label, tuple(points), place=members[0].place)] if points else []


# -- accuracies -------------------------------------------------------------------------------------------------------


def tradeoff(table: Table, places: Places) -> Chart | None:
    """Natural (across) against robust accuracy (up), in percent, with intervals; a paper's point is hollow. None
    without data.

    Robust is AutoAttack's column where it was measured, which papers print too, and else the worst case.
    """
    up = robust_column(table)
    if up is None:
        return None
    across, name = [column.label for column in table.columns].index(NATURAL), robust_name(table.columns[up])
    series, place, spreads = [], 0, False
    for row in table.rows:
        place = places[row.group.key] if row.group is not None else place  # a published row follows its group's
        x, y = row.cells[across], row.cells[up]
        if row.block != table.rows[0].block or x.value is None or y.value is None:
            continue
        is_printed = row.kind == "published"
        spreads |= is_printed and any(cell.low is None and cell.spread is not None for cell in (x, y))
        point = _tradeoff_point(row, x, y, name)
        method = series[-1].label if is_printed and series else row.label
        series.append(Series(method, (point,), is_printed, place))
    if not series:
        return None
    note = "Lines through points are 95 % intervals" + (
        "; through a paper's, the standard deviation that it prints." if spreads else "."
    )
    title = "natural against robust accuracy"
    return chart("trade-off", Panel(title, "natural accuracy, %", f"{name}, %", tuple(series), note=note))


def _tradeoff_point(row: Row, x: Cell, y: Cell, robust: str) -> Point:
    is_printed = row.kind == "published"
    about = [(NATURAL, x.text), *([("", x.detail)] if x.detail else [])]
    about += [(robust, y.text), *([("", y.detail)] if y.detail and y.detail != x.detail else [])]
    about += [("runs", str(cell.n)) for cell in [x] if cell.n]
    name = "published" if is_printed else row.label if len(row.label) <= 26 else row.label[:25] + "…"
    (low, high), (x_low, x_high) = _ends(y), _ends(x)
    facts = (("method", row.label), *about)
    return Point(x.value or 0.0, y.value or 0.0, low, high, x_low, x_high, name, n=x.n, about=facts)


def _ends(cell: Cell) -> tuple[float | None, float | None]:
    """Of the interval, or of what a paper prints as plus-minus."""
    if cell.low is not None or cell.spread is None or cell.value is None:
        return cell.low, cell.high
    return cell.value - cell.spread, cell.value + cell.spread


def robust_column(table: Table) -> int | None:
    """The place of the column that says how robust a network is: AutoAttack's, or else the worst case; None where
    neither was measured.
    """
    rows_measured = [row for row in table.rows if row.kind == "measured" and row.block == table.rows[0].block]
    columns = [
        place
        for place, column in enumerate(table.columns)
        if any(row.cells[place].value is not None for row in rows_measured)
    ]
    strongest = [place for place in columns if (table.columns[place].settings or {}).get("type") == "AutoAttack"]
    return next(iter([*strongest, *(place for place in columns if table.columns[place].worst)]), None)


def robust_name(column: Column) -> str:
    return f"accuracy under {column.label}" if column.attack else column.label.replace(WORST, "worst-case accuracy")


def epsilon_charts(table: Table, places: Places) -> list[Chart]:
    """Accuracy over epsilon: a chart for every attack that was made at several, a line for each method; 0 is natural
    accuracy.
    """
    families: dict[str, dict[float, int]] = {}
    names: dict[str, str] = {}
    for place, column in enumerate(table.columns):
        threat = (column.settings or {}).get("threat")
        if not isinstance(threat, Mapping) or not isinstance(threat.get("epsilon"), int | float):
            continue
        key = _but_for_epsilon(column, threat)
        families.setdefault(key, {}).setdefault(float(threat["epsilon"]), place)
        names[key] = f"{column.attack} within {threat.get('type')}"
    natural = [column.label for column in table.columns].index(NATURAL)
    charts = []
    for key, by_epsilon in families.items():
        if len(by_epsilon) > 1:
            pixels = all(spelled(epsilon).endswith("/255") for epsilon in by_epsilon)
            scale, across = (255, "epsilon, /255") if pixels else (1, "epsilon")
            series = tuple(_over_epsilon(table, places, {0.0: natural, **by_epsilon}, names[key], scale))
            note = "bars are 95 % intervals; epsilon 0 is natural accuracy"
            charts.append(chart("sweep", Panel(names[key], across, "accuracy, %", series, note=note)))
    return charts


def _but_for_epsilon(column: Column, threat: Mapping[str, Any]) -> str:
    """What makes an attack another one, whatever its epsilon and the step size that goes with it."""
    rest = {name: value for name, value in (column.settings or {}).items() if name not in ("step_size", "digest")}
    threat_without = {**rest, "threat": {name: value for name, value in threat.items() if name != "epsilon"}}
    return json.dumps([column.attack, threat_without], sort_keys=True, default=str)


def _over_epsilon(
    table: Table, places: Places, by_epsilon: Mapping[float, int], attack: str, scale: float
) -> list[Series]:
    series = []
    for row in table.rows:
        if row.group is None or row.kind != "measured" or row.block != table.rows[0].block:
            continue
        cells = [(epsilon, row.cells[place]) for epsilon, place in sorted(by_epsilon.items())]
        points = tuple(
            Point(
                scale * epsilon,
                cell.value,
                cell.low,
                cell.high,
                name=row.label,
                n=cell.n,
                about=(
                    ("method", row.label),
                    ("epsilon", spelled(epsilon) if epsilon else "0"),
                    (attack if epsilon else NATURAL, cell.text),
                    ("", cell.detail),
                    ("runs", str(cell.n)),
                ),
            )
            for epsilon, cell in cells
            if cell.value is not None
        )
        if len(points) > 1:
            series.append(Series(row.label, points, place=places[row.group.key]))
    return series


# -- classes ----------------------------------------------------------------------------------------------------------


def class_charts(table: Table, groups: Sequence[Group], places: Places, labels: Mapping[str, str]) -> list[Chart]:
    """One chart per group: per class a pale bar for natural accuracy and a full one for the worst case (mean over
    runs); of very many groups a matrix of all.

    Of several worst cases, within other threats, the first that a group has.
    """
    worst_cases = [column for column in table.columns if column.worst]
    shares = {id(group): per_class(group, worst_cases) for group in groups}
    if len(groups) > _BARS:
        return _class_matrix(groups, shares, labels)
    charts = []
    for group in groups:
        natural, worst = shares[id(group)]
        classes_visible, note = _shown_classes(
            group, [shares[id(other_group)][1] for other_group in groups if _same_classes(other_group, group)]
        )
        count = np.bincount(np.array(group.first.labels), minlength=len(natural))
        pale, full = (
            tuple(
                Point(
                    line,
                    100 * float(values[k]),
                    name=_class_name(group, k),
                    n=int(count[k]),
                    about=(
                        ("class", _class_name(group, k)),
                        ("natural", f"{100 * natural[k]:.2f} %"),
                        ("worst case", f"{100 * worst[k]:.2f} %"),
                        ("images", f"{count[k]}"),
                        ("runs", f"{len(group.records)}"),
                    ),
                )
                for line, k in enumerate(classes_visible)
            )
            for values in (natural, worst)
        )
        place = places[group.key]
        series = (Series("natural", pale, place=place), Series("worst case", full, place=place))
        charts.append(chart("nested", Panel(labels[group.key], "", "", series, note=f"% correct{note}")))
    return charts


def _same_classes(a: Group, b: Group) -> bool:
    return a.first.classes == b.first.classes


def _shown_classes(group: Group, worst: Sequence[np.ndarray]) -> tuple[list[int], str]:
    """All classes that have images, or the hardest of very many; and what is to be said of it."""
    classes_visible = [int(k) for k in np.flatnonzero(np.bincount(group.first.labels))]
    if len(classes_visible) <= _CLASSES_SHOWN:
        return classes_visible, ""
    hardest = np.mean(worst, axis=0)
    return (
        sorted(classes_visible, key=lambda k: float(hardest[k]))[:_CLASSES_SHOWN],
        f"; the {_CLASSES_SHOWN} hardest of {len(classes_visible)} classes",
    )


def _class_name(group: Group, label: int) -> str:
    names = group.first.classes
    return names[label] if label < len(names) else str(label)


def _class_matrix(
    groups: Sequence[Group], shares: Mapping[int, tuple[np.ndarray, np.ndarray]], labels: Mapping[str, str]
) -> list[Chart]:
    """Methods down, classes across; natural and worst case to choose from."""
    first = groups[0]
    alike = [group for group in groups if _same_classes(group, first)]
    classes_visible, note = _shown_classes(first, [shares[id(group)][1] for group in alike])
    names, rows = tuple(_class_name(first, k) for k in classes_visible), tuple(labels[group.key] for group in alike)
    panels = []
    for place, column_name in enumerate(("worst case", "natural")):
        cells = [shares[id(group)][1 - place][classes_visible] for group in alike]
        values = tuple(tuple(100 * float(value) for value in row) for row in cells)
        panels.append(Panel(column_name, "class", "method", field=_grid(names, rows, values), note=f"% correct{note}"))
    return [chart("matrix", *panels)]


def _grid(columns: tuple[str, ...], rows: tuple[str, ...], values: tuple[tuple[float, ...], ...]) -> Field:
    places = tuple(tuple(float(k) for k in range(len(names))) for names in (columns, rows))
    return Field(places[0], places[1], values, columns=columns, rows=rows)


def per_class(group: Group, worst_cases: Sequence[Column]) -> tuple[np.ndarray, np.ndarray]:
    """Natural and worst-case accuracy per class [classes], nan for classes without images."""
    records = next(
        (records_found for column in worst_cases if (records_found := records_of(group, column))), group.records
    )
    labels = np.array(group.first.labels)
    size = max(len(group.first.classes), int(labels.max(initial=0)) + 1)
    count = np.bincount(labels, minlength=size)
    natural, worst = np.zeros(size), np.zeros(size)
    for record in records:
        natural += np.bincount(labels, np.array(record.natural_correct(), float), minlength=size)
        worst += np.bincount(labels, np.array(record.worst_case(), float), minlength=size)
    divisor = np.where(count, count, np.nan) * len(records)
    return natural / divisor, worst / divisor


def confusion_chart(table: Table, groups: Sequence[Group], labels: Mapping[str, str]) -> Chart | None:
    """What images of each class are taken for, in percent of its images: natural ones, and those of the attack that
    leaves each group the fewest right; sums over the group's runs.
    """
    panels = []
    for group in groups:
        attacks = [column for column in table.columns if column.attack and records_of(group, column)]
        weakest = min(attacks, key=lambda column: _right(group, column), default=None)
        for column in (Column(NATURAL), *([weakest] if weakest is not None else [])):
            title = f"{labels[group.key]}, {column.label}"
            panels.append(Panel(title, "predicted as", "class", field=_confusions(group, column)))
    return chart("matrix", *panels) if panels else None


def _right(group: Group, column: Column) -> float:
    records = records_of(group, column)
    return sum(record.accuracy(column.attack or "") for record in records) / len(records)


def _confusions(group: Group, column: Column) -> Field:
    """Shares [true, predicted] in percent. Of very many classes those with the most errors, with the others as one."""
    labels, size = np.array(group.first.labels), len(group.first.classes)
    counts = np.zeros((size, size))
    for record in records_of(group, column):
        predictions = np.array(record.natural if column.attack is None else record.attacks[0].predicted)
        is_known = (predictions >= 0) & (predictions < size) & (labels >= 0) & (labels < size)
        np.add.at(counts, (labels[is_known], predictions[is_known]), 1)
    totals = counts.sum(1)
    classes_visible = np.flatnonzero(totals)
    wrong = totals - np.diag(counts)
    if len(classes_visible) > _CLASSES_SHOWN:
        classes_visible = np.sort(classes_visible[np.argsort(-wrong[classes_visible], kind="stable")][:_CLASSES_SHOWN])
    columns = [
        *classes_visible,
        *(k for k in range(size) if k not in classes_visible and counts[classes_visible, k].any()),
    ]
    cells = 100 * counts[classes_visible] / totals[classes_visible, None]
    names = [_class_name(group, int(k)) for k in columns[: len(classes_visible)]]
    values = [[float(row[k]) for k in classes_visible] for row in cells]
    if len(columns) > len(classes_visible):
        names.append("others")
        values = [
            [*line, float(row[columns[len(classes_visible) :]].sum())] for line, row in zip(values, cells, strict=True)
        ]
    rows = tuple(_class_name(group, int(k)) for k in classes_visible)
    return _grid(tuple(names), rows, tuple(map(tuple, values)))
