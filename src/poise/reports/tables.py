"""The one table of results: rows are groups of runs, columns are natural accuracy, each attack and the worst case, in percent."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from poise.core.errors import RunError
from poise.reports.collect import Run
from poise.reports.columns import Cell, Column, attacks_of, columns_of, values_of
from poise.reports.printed import columns_of_papers, notes_of, paper_cells, paper_label, papers_beside
from poise.reports.statistics import CORRUPTED, Group, Summary, examples_of, group_records, summary

Checkpoints = Literal["selected", "last", "both", "all"]


@dataclass(frozen=True)
class Row:
    label: str
    checkpoint: str
    data: str
    """Data set, split and number of images."""
    cells: list[Cell]
    kind: Literal["measured", "published"] = "measured"
    group: Group | None = None

    @property
    def block(self) -> tuple[str, str]:
        """Rows are compared with each other only within a block."""
        return self.data, self.checkpoint


@dataclass(frozen=True)
class Table:
    columns: list[Column]
    rows: list[Row]
    notes: list[str]

    @property
    def groups(self) -> list[Group]:
        return [row.group for row in self.rows if row.group is not None and row.kind == "measured"]


def table(runs: Sequence[Run], checkpoints: Checkpoints = "selected") -> Table:
    """The table of all records of `runs`.

    checkpoints: "selected" takes each group's selected checkpoint (or what it has, if that was not evaluated), "last" the last
    one, "both" these two, "all" every checkpoint evaluated.

    Raises: RunError when no record is left.
    """
    groups = choose(group_records(record for run in runs for record in run.records.values()), checkpoints)
    if not groups:
        raise RunError(f"no run has an evaluation record with checkpoints = {checkpoints!r}; make them with: poise evaluate RUN")
    columns = columns_of(groups)
    printed = papers_beside(groups, runs)
    columns += columns_of_papers(columns, printed)
    labels = group_labels(groups)
    rows: list[Row] = []
    for group, papers in printed:
        data = f"{group.first.dataset} {group.first.split}, {group.first.count:,} images"
        cells = [_cell(group, column) for column in columns]
        rows.append(Row(labels[group.key], group.checkpoint, data, cells, "measured", group))
        for paper in papers:
            if paper["columns"]:  # of a figure no numbers are printed
                label, known = paper_label(labels[group.key], paper), paper_cells(paper, columns, group)
                rows.append(Row(label, group.checkpoint, data, known, "published"))
    left_out = [f"Not of {run.name}'s present weights, left out: {', '.join(run.former)}." for run in runs if run.former]
    return _mark(columns, rows, [*notes_of(printed), *left_out, *_arithmetics(groups, labels)])


def _arithmetics(groups: Sequence[Group], labels: dict[str, str]) -> list[str]:
    """A sentence where rows were trained in different arithmetics; records that say nothing of it are passed over."""
    rows: dict[str, list[str]] = {}
    for group in groups:
        for precision in dict.fromkeys(record.notes.get("trained_in") for record in group.records):
            if precision is not None:
                rows.setdefault(str(precision), []).append(labels[group.key])
    told = "; ".join(f"{precision}: {', '.join(dict.fromkeys(names))}" for precision, names in sorted(rows.items()))
    return [f"Rows were trained in different arithmetics. {told}."] if len(rows) > 1 else []


def choose(groups: Sequence[Group], checkpoints: Checkpoints) -> list[Group]:
    """The groups asked for, ordered by data, then checkpoint (selected, last, others), then appearance."""
    names = {key: {group.checkpoint for group in groups if group.key == key} for key in {group.key for group in groups}}

    def wanted(group: Group) -> bool:
        if checkpoints == "selected":
            return group.checkpoint == "selected" or "selected" not in names[group.key]
        if checkpoints == "both":
            return group.checkpoint in ("selected", "last") or not names[group.key] & {"selected", "last"}
        return checkpoints == "all" or group.checkpoint == checkpoints

    if checkpoints not in ("selected", "last", "both", "all"):
        raise RunError(f"checkpoints = {checkpoints!r}: must be 'selected', 'last', 'both' or 'all'")
    places: dict[Any, int] = {}
    for group in groups:
        places.setdefault(examples_of(group.first), len(places))
        places.setdefault(group.checkpoint, len(places))
    order = {"selected": -2, "last": -1}
    kept = [group for group in groups if wanted(group)]
    return sorted(kept, key=lambda group: (places[examples_of(group.first)], order.get(group.checkpoint, places[group.checkpoint])))


def group_labels(groups: Sequence[Group]) -> dict[str, str]:
    """{group key: label}: the model's name, made unambiguous by the key where two groups share it."""
    models = {group.key: group.first.model or group.key for group in groups}
    names = list(models.values())

    def label(key: str, model: str) -> str:
        if names.count(model) == 1:
            return model
        return key if key.startswith(model) else f"{model} {key}"

    return {key: label(key, model) for key, model in models.items()}


def _cell(group: Group, column: Column) -> Cell:
    values = [value for value in values_of(group, column) if math.isfinite(value)]
    if not values:
        return Cell()
    s = summary(values, group.first.count)
    spread = None if math.isnan(s.std) else 100 * s.std
    detail = _detail(s, group)
    if column.worst:
        count = len(attacks_of(group, column.within))
        detail += f"; wrong on the natural image or after {'the one attack' if count == 1 else f'any of {count} attacks'} counts as wrong"
    if column.whole:
        detail += f"; wrong on the natural image or on any of the {len(column.whole)} sets of images counts as wrong"
    if column.label == CORRUPTED and column.attack is None:
        detail += "; mean over 15 common corruptions of 5 severities"
    return Cell(100 * s.mean, spread, s.n, detail, 100 * s.low, 100 * s.high)


def _detail(s: Summary, group: Group) -> str:
    over = f"t over {s.n} seeds" if s.over == "seeds" else f"over {group.first.count:,} images, one run"
    return f"95 % interval {100 * s.low:.2f} to {100 * s.high:.2f} ({over})"


def _mark(columns: list[Column], rows: list[Row], said: Sequence[str]) -> Table:
    """Mark the best and second best distinct printed value of each column among the measured rows of a block. said: further notes."""
    notes: list[str] = []
    marks: dict[tuple[int, int], Literal["best", "second"]] = {}
    for block in dict.fromkeys(row.block for row in rows):
        places = [place for place, row in enumerate(rows) if row.block == block and row.group is not None]
        groups = [group for place in places if (group := rows[place].group)]
        for number, column in enumerate(columns):
            if column.worst and len({attacks_of(group, column.within) for group in groups} - {frozenset()}) > 1:
                notes.append("The worst cases are over different attacks in different rows and are not ranked.")
                continue
            printed = {p: round(value, 2) for p in places if (value := rows[p].cells[number].value) is not None}
            ranked = sorted(set(printed.values()), reverse=True)[:2] if len(printed) > 1 else []
            for place, value in printed.items():
                if value in ranked:
                    marks[place, number] = "best" if value == ranked[0] else "second"
    marked = [
        dataclasses.replace(row, cells=[dataclasses.replace(cell, mark=marks.get((p, c), "")) for c, cell in enumerate(row.cells)])
        for p, row in enumerate(rows)
    ]
    return Table(columns, marked, [*dict.fromkeys(notes), *said])
