"""The page's three kinds of plot: training curves, natural against worst-case accuracy, accuracy per class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from poise.reports.collect import Run
from poise.reports.columns import Column, records_of
from poise.reports.statistics import NATURAL, WORST, Group
from poise.reports.svg import Chart, colour_class, marker, number, ticks, wrap
from poise.reports.tables import Cell, Row, Table

_CLASSES_SHOWN = 20
_ELSEWHERE = ("diagnosis/", "regret/")  # diagnostics.py shows these


@dataclass(frozen=True)
class Panel:
    """One small plot with its title; `svg` is markup whose texts are escaped."""

    title: str
    svg: str
    note: str = ""


def curve_panels(runs: Sequence[Run], places: Mapping[str, int], labels: Mapping[str, str]) -> dict[str, list[Panel]]:
    """{"monitor": [...], "other": [...]}: one panel per metric, one line per run, in its group's colour.

    places, labels: of each group's key.
    """
    by_metric: dict[str, list[tuple[Run, list[tuple[float, float]]]]] = {}
    for run in runs:
        for metric, points in run.curves().items():
            finite = [(x, y) for x, y in points if math.isfinite(y)]
            if finite and not metric.startswith(_ELSEWHERE):
                by_metric.setdefault(metric, []).append((run, finite))
    panels: dict[str, list[Panel]] = {"monitor": [], "other": []}
    for metric in sorted(by_metric):
        kind = "monitor" if metric.startswith("monitor/") else "other"
        panels[kind].append(_curve_panel(metric, by_metric[metric], places, labels))
    return panels


def _curve_panel(
    metric: str,
    lines: Sequence[tuple[Run, list[tuple[float, float]]]],
    places: Mapping[str, int],
    labels: Mapping[str, str],
) -> Panel:
    values = [y for _, points in lines for _, y in points]
    shares = metric.startswith("monitor/") and min(values) >= 0 and max(values) <= 1
    scale = 100 if shares else 1
    epochs = [x for _, points in lines for x, _ in points]
    last = ticks(0, max(*epochs, 1), 5)
    chart = Chart(280, 190, last, ticks(min(values) * scale, max(values) * scale, 4), f"{metric} by epoch")
    for run, points in lines:
        key = group_of(run)
        place = places.get(key, -1)
        scaled = [(x, y * scale) for x, y in points]
        seed = run.experiment.get("seed", "-")
        title = f"{labels.get(key, run.name)}, seed {seed}: {scaled[-1][1]:.4g} at epoch {scaled[-1][0]:g}"
        chart.line(scaled, colour_class(place), title)
        px, py = chart.at(*scaled[-1])
        chart.parts.append(marker(place, px, py, 3.2, title=title))
    return Panel(metric.removeprefix("monitor/"), chart.svg(), "% by epoch" if shares else "by epoch")


def group_of(run: Run) -> str:
    """The key of the group that a run belongs to, from its records."""
    record = next(iter(run.records.values()), None)
    return "" if record is None else record.group or f"{record.model} {record.run}".strip()


def tradeoff(table: Table, places: Mapping[str, int]) -> str:
    """Natural (across) against robust accuracy (up), in percent, with 95 % intervals; a paper's point is hollow. Empty
    without data.

    Robust is AutoAttack's column where it was measured, which papers print too, and else the worst case.
    """
    worst = robust_column(table)
    if worst is None:
        return ""
    across, up = [column.label for column in table.columns].index(NATURAL), worst
    block = table.rows[0].block
    points: list[tuple[Row, int, Cell, Cell]] = []
    place = 0
    for row in table.rows:
        place = places[row.group.key] if row.group is not None else place  # a published row follows its group's
        if row.block == block and row.cells[across].value is not None and row.cells[up].value is not None:
            points.append((row, place, row.cells[across], row.cells[up]))
    if not points:
        return ""
    chart = Chart(
        420,
        330,
        _range([x for *_, x, _ in points]),
        _range([y for *_, y in points]),
        "natural against robust accuracy",
        (46, 42),
    )
    chart.text((chart.left + chart.right) / 2, chart.height - 6, "natural accuracy, %", "middle", "name")
    chart.upright(f"{robust_name(table.columns[worst])}, %")
    measured: dict[int, tuple[float, float]] = {}
    for row, place, x, y in points:
        here = (float(x.value or 0), float(y.value or 0))
        if row.kind == "measured":
            measured[place] = here
            _error_bars(chart, place, here, x, y)
        elif place in measured:
            chart.segment(measured[place], here, f"link {colour_class(place)}")
    for row, place, x, y in points:
        px, py = chart.at(float(x.value or 0), float(y.value or 0))
        title = f"{row.label}: natural {x.text}, {robust_name(table.columns[worst])} {y.text}"
        chart.parts.append(marker(place, px, py, 6, hollow=row.kind == "published", title=title))
    _name_points(chart, points)
    return chart.svg()


def robust_column(table: Table) -> int | None:
    """The place of the column that says how robust a network is: AutoAttack's, or else the worst case; None where
    neither was measured.
    """
    measured = [row for row in table.rows if row.kind == "measured" and row.block == table.rows[0].block]
    columns = [
        place
        for place, column in enumerate(table.columns)
        if any(row.cells[place].value is not None for row in measured)
    ]
    strongest = [place for place in columns if (table.columns[place].settings or {}).get("type") == "AutoAttack"]
    return next(iter([*strongest, *(place for place in columns if table.columns[place].worst)]), None)


def robust_name(column: Column) -> str:
    return f"accuracy under {column.label}" if column.attack else column.label.replace(WORST, "worst-case accuracy")


def _range(cells: Sequence[Cell]) -> list[float]:
    ends = [end for cell in cells for end in (cell.value, cell.low, cell.high) if end is not None]
    low, high = max(0.0, min(ends)), min(100.0, max(ends))
    room = max(1.0, 0.08 * (high - low))
    return ticks(max(0.0, low - room), min(100.0, high + room), 5)


def _error_bars(chart: Chart, place: int, here: tuple[float, float], x: Cell, y: Cell) -> None:
    kind = f"error {colour_class(place)}"
    (x0, x1), (y0, y1) = chart.x_limits, chart.y_limits
    if x.low is not None and x.high is not None:
        chart.segment((max(x.low, x0), here[1]), (min(x.high, x1), here[1]), kind)
    if y.low is not None and y.high is not None:
        chart.segment((here[0], max(y.low, y0)), (here[0], min(y.high, y1)), kind)


def _name_points(chart: Chart, points: Sequence[tuple[Row, int, Cell, Cell]]) -> None:
    """A label beside each point, on the first side where it covers neither a point nor another label."""
    places = [chart.at(float(x.value or 0), float(y.value or 0)) for *_, x, y in points]
    taken = [(px - 8, py - 8, px + 8, py + 8) for px, py in places]
    for (row, place, _, _), (px, py) in zip(points, places, strict=True):
        text = "published" if row.kind == "published" else row.label if len(row.label) <= 26 else row.label[:25] + "…"
        wide = 7.5 * len(text)
        sides = [
            (10, -6, "start"),
            (-10, -6, "end"),
            (10, 16, "start"),
            (-10, 16, "end"),
            (0, -14, "middle"),
            (0, 24, "middle"),
        ]
        sides += [(0, -28, "middle"), (0, 38, "middle")]
        boxes = []
        for dx, dy, anchor in sides:
            left = px + dx - {"start": 0, "end": wide, "middle": wide / 2}[anchor]
            box = (left, py + dy - 11, left + wide, py + dy + 3)
            inside = box[0] >= chart.left and box[2] <= chart.right + 8 and box[1] >= 0 and box[3] <= chart.bottom
            boxes.append((inside and not any(_overlap(box, other) for other in taken), box, (dx, dy, anchor)))
        _, box, (dx, dy, anchor) = next((item for item in boxes if item[0]), boxes[0])
        taken.append(box)
        chart.text(px + dx, py + dy, text, anchor, f"point {colour_class(place)}")


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def class_panels(
    table: Table, groups: Sequence[Group], places: Mapping[str, int], labels: Mapping[str, str]
) -> list[Panel]:
    """One panel per group: per class a pale bar for natural accuracy and a full one for the worst case (mean over
    runs).

    Of several worst cases, within other threats, the first that a group has.
    """
    worst_cases = [column for column in table.columns if column.worst]
    shares = {id(group): _per_class(group, worst_cases) for group in groups}
    panels = []
    for group in groups:
        natural, worst = shares[id(group)]
        peers = [shares[id(other)][1] for other in groups if other.first.classes == group.first.classes]
        shown = [int(k) for k in np.flatnonzero(~np.isnan(natural))]
        note = "% correct"
        if len(shown) > _CLASSES_SHOWN:
            note = f"% correct; the {_CLASSES_SHOWN} hardest of {len(shown)} classes"
            hardest = np.mean(peers, axis=0)
            shown = sorted(shown, key=lambda k: float(hardest[k]))[:_CLASSES_SHOWN]
        names = group.first.classes
        rows = [(names[k] if k < len(names) else str(k), float(natural[k]), float(worst[k])) for k in shown]
        panels.append(Panel(labels[group.key], _bars(rows, places[group.key], labels[group.key]), note))
    return panels


def _per_class(group: Group, worst_cases: Sequence[Column]) -> tuple[np.ndarray, np.ndarray]:
    """Natural and worst-case accuracy per class, nan for classes without images."""
    records = next((found for column in worst_cases if (found := records_of(group, column))), group.records)
    labels = np.array(group.first.labels)
    size = max(len(group.first.classes), int(labels.max(initial=0)) + 1)
    count = np.bincount(labels, minlength=size)
    natural, worst = np.zeros(size), np.zeros(size)
    for record in records:
        natural += np.bincount(labels, np.array(record.natural_correct(), float), minlength=size)
        worst += np.bincount(labels, np.array(record.worst_case(), float), minlength=size)
    divisor = np.where(count, count, np.nan) * len(records)
    return natural / divisor, worst / divisor


def _bars(rows: Sequence[tuple[str, float, float]], place: int, label: str) -> str:
    left, right, pitch = 84, 240, 22
    parts = []
    for number_, (name, natural, worst) in enumerate(rows):
        y = 6 + pitch * number_
        title = f"<title>{escape(name)}: natural {100 * natural:.2f} %, worst case {100 * worst:.2f} %</title>"
        short = name if len(name) <= 12 else name[:11] + "…"
        parts.append(
            f'<g class="{colour_class(place)}">{title}<text x="{left - 8}" y="{y + 11}"'
            f' text-anchor="end">{escape(short)}</text>'
        )
        parts.append(f'<rect class="track" x="{left}" y="{y}" width="{right - left}" height="14" rx="2"/>')
        for kind, share in (("pale", natural), ("full", worst)):
            width = number((right - left) * share)
            parts.append(f'<rect class="bar {kind}" x="{left}" y="{y}" width="{width}" height="14" rx="2"/>')
        parts.append(f'<text class="value" x="280" y="{y + 11}" text-anchor="end">{100 * worst:.1f}</text></g>')
    return wrap(280, 8 + pitch * len(rows), f"accuracy per class, {label}", parts)
