"""The one table of results: rows are groups of runs, columns are natural accuracy, each attack and the worst case, in
percent.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from poise.core.errors import RunError
from poise.core.identity import chosen_on_own_test_images
from poise.core.measures import FELL_FROM, MEASURED
from poise.core.records import EvaluationRecord
from poise.reports.collect import Run
from poise.reports.columns import Cell, Column, columns_of, values_of
from poise.reports.names import group_labels, settings_of
from poise.reports.printed import attacks_of_papers, columns_of_papers, paper_cells, papers_beside
from poise.reports.statistics import CORRUPTED, Group, Summary, examples_of, group_records, key_of, summary

Checkpoints = Literal["selected", "last", "both", "all"]


@dataclass(frozen=True)
class Row:
    label: str
    checkpoint: str
    data: str
    """Data set, split and number of images."""
    cells: list[Cell]
    kind: Literal["measured", "published", "difference"] = "measured"
    group: Group | None = None
    source: str = ""
    """Of a published row, the table that prints it and its name there."""

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
    def labels(self) -> dict[str, str]:
        """{group key: the label of its rows}."""
        return {row.group.key: row.label for row in self.rows if row.group is not None}

    @property
    def groups(self) -> list[Group]:
        return [row.group for row in self.rows if row.group is not None and row.kind == "measured"]


def table(runs: Sequence[Run], checkpoints: Checkpoints = "selected") -> Table:
    """The table of all records of `runs`.

    checkpoints: "selected" takes each group's selected checkpoint (or what it has, if that was not evaluated), "last"
    the last one, "both" these two, "all" every checkpoint evaluated.

    Raises: RunError when no record is left.
    """
    groups, again = _once(choose(group_records(record for run in runs for record in run.records.values()), checkpoints))
    if not groups:
        raise RunError(
            f"no run has an evaluation record with checkpoints = {checkpoints!r}; make them with: poise evaluate RUN"
        )
    rows_of_papers, notes = papers_beside(groups, runs)
    columns = columns_of(groups, attacks_of_papers(rows_of_papers))
    columns += columns_of_papers(columns, rows_of_papers)
    labels = group_labels(groups, runs)
    rows: list[Row] = []
    for group, papers in rows_of_papers:
        data = f"{group.first.dataset} {group.first.split}, {group.first.count:,} images"
        cells = _honest([_cell(group, column) for column in columns], columns)
        rows.append(Row(labels[group.key], group.checkpoint, data, cells, "measured", group))
        for paper in papers:
            cells_of_paper = paper_cells(paper, columns, group)
            where = f" ({paper.label})" if paper.label else ""
            rows.append(
                Row(
                    f"{labels[group.key]}, published{where}",
                    group.checkpoint,
                    data,
                    cells_of_paper,
                    "published",
                    source=paper.label,
                )
            )
    rows = _images_told_apart(rows)
    left_out = [
        f"Not of {run.name}'s present weights, left out: {', '.join(run.former)}." for run in runs if run.former
    ]
    sentences = [
        *_without_worst_case(columns, rows),
        *plus_minus_notes(rows),
        *notes,
        *again,
        *_chosen(groups, runs, labels),
        *_fallen(runs),
    ]
    return _mark(columns, rows, [*sentences, *left_out, *_arithmetics(groups, labels)])


def plus_minus_notes(rows: Sequence[Row]) -> list[str]:
    """What stands after a plus-minus, for the kinds that are shown."""
    kinds = {cell.kind for row in rows for cell in row.cells if cell.spread is not None}
    sentences = {
        "std": "± (std, n): standard deviation over n runs",
        "95 %": "± (95 %, n): 95 % interval of the mean over n runs",
    }
    return (
        [f"{'; '.join(text for kind, text in sentences.items() if kind in kinds)}."] if kinds & set(sentences) else []
    )


def _honest(cells: list[Cell], columns: Sequence[Column]) -> list[Cell]:
    """No worst case that is above another number of its row, as one beside the accuracy under corruptions can be."""
    other_groups = [
        cell.value for cell, column in zip(cells, columns, strict=True) if not column.worst and cell.value is not None
    ]
    within = [column.worst and column.within is None for column in columns]
    least = min(other_groups, default=math.inf)
    return [
        Cell() if alone and cell.value is not None and cell.value > least else cell
        for cell, alone in zip(cells, within, strict=True)
    ]


def _without_worst_case(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    """A sentence where a row that was attacked has no worst case."""
    missing = [
        row.label
        for row in rows
        if row.group is not None
        and any(record.attacks for record in row.group.records)
        and all(cell.value is None for cell, column in zip(row.cells, columns, strict=True) if column.worst)
    ]
    if not missing:
        return []
    return [
        f"No worst case of {', '.join(dict.fromkeys(missing))}: it would not be over all columns that are shown, for"
        " every run."
    ]


def _images_told_apart(rows: Sequence[Row]) -> list[Row]:
    """Rows whose data are called the same although their images are others are told apart."""
    images: dict[str, list[Any]] = {}
    lines, last = [], ""
    for row in rows:
        if row.group is not None:
            image_sets = images.setdefault(row.data, [])
            image_set = examples_of(row.group.first)
            image_sets += [] if image_set in image_sets else [image_set]
            place = image_sets.index(image_set)
            last = row.data if place == 0 else f"{row.data} (others, {place + 1})"
        lines.append(dataclasses.replace(row, data=last))
    return lines


def _once(groups: Sequence[Group]) -> tuple[list[Group], list[str]]:
    """The groups without a checkpoint that is another one again, for every method and on all images; and a sentence
    that says so.
    """

    def rows(checkpoint: str) -> set[Any]:
        return {
            (group.key, examples_of(group.first), _answers(r))
            for group in groups
            if group.checkpoint == checkpoint
            for r in group.records
        }

    first: dict[str, set[Any]] = {}
    lines: list[str] = []
    for checkpoint in dict.fromkeys(group.checkpoint for group in groups):
        same = next((label for label, rows_known in first.items() if rows_known == rows(checkpoint)), None)
        if same is None:
            first[checkpoint] = rows(checkpoint)
        else:
            lines.append(f"The {checkpoint} checkpoint is the {same} one and not shown again.")
    return [group for group in groups if group.checkpoint in first], lines


def _answers(record: EvaluationRecord) -> tuple[Any, ...]:
    """All that a network was seen to say."""
    return (
        record.model_digest,
        record.seed,
        tuple(record.natural),
        tuple((key_of(a), tuple(a.predicted)) for a in record.attacks),
    )


def _chosen(groups: Sequence[Group], runs: Sequence[Run], labels: Mapping[str, str]) -> list[str]:
    """A sentence where the epoch of a method was chosen on the test images of somebody's own data."""
    settings = settings_of(groups, runs)
    names = [labels[key] for key, definition in settings.items() if chosen_on_own_test_images(definition)]
    if not names:
        return []
    return [
        f"The epoch was chosen on the test images themselves, so that accuracy on them flatters: {', '.join(names)}."
    ]


def _fallen(runs: Sequence[Run]) -> list[str]:
    """A sentence for each run whose training lost its robustness within an epoch."""
    sentences = []
    for run in runs:
        for line in run.metrics:
            if FELL_FROM in line and MEASURED in line:
                epoch, before, now = line["epoch"], 100 * line[FELL_FROM], 100 * line[MEASURED]
                sentences.append(
                    f"{run.name}: accuracy under PGD-10 fell from {before:.1f} % to {now:.1f} % in epoch {epoch} of"
                    " training (catastrophic overfitting)."
                )
    return sentences


def _arithmetics(groups: Sequence[Group], labels: dict[str, str]) -> list[str]:
    """A sentence where rows were trained in different arithmetics; records that say nothing of it are passed over."""
    rows: dict[str, list[str]] = {}
    for group in groups:
        for precision in dict.fromkeys(record.notes.get("trained_in") for record in group.records):
            if precision is not None:
                rows.setdefault(str(precision), []).append(labels[group.key])
    text = "; ".join(f"{precision}: {', '.join(dict.fromkeys(names))}" for precision, names in sorted(rows.items()))
    return [f"Rows were trained in different arithmetics. {text}."] if len(rows) > 1 else []


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
    groups_kept = [group for group in groups if wanted(group)]
    return sorted(
        groups_kept,
        key=lambda group: (places[examples_of(group.first)], order.get(group.checkpoint, places[group.checkpoint])),
    )


def _cell(group: Group, column: Column) -> Cell:
    values = [value for value in values_of(group, column) if math.isfinite(value)]
    if not values:
        return Cell()
    s = summary(values, group.first.count)
    spread = None if math.isnan(s.std) else 100 * s.std
    detail = _detail(s, group)
    if column.worst:
        count = len(column.among[examples_of(group.first)])
        detail += (
            f"; wrong on the natural image or after {'the one attack' if count == 1 else f'any of {count} attacks'}"
            " counts as wrong"
        )
    if column.forms:
        detail += f"; of {len(column.forms)} forms of the attack, the one that the network is right under least often"
    if column.whole:
        detail += f"; wrong on the natural image or on any of the {len(column.whole)} sets of images counts as wrong"
    if column.label == CORRUPTED and column.attack is None:
        detail += "; mean over 15 common corruptions of 5 severities"
    return Cell(100 * s.mean, spread, s.n, detail, 100 * s.low, 100 * s.high, of=len(group.records))


def _detail(s: Summary, group: Group) -> str:
    over = f"t over {s.n} seeds" if s.over == "seeds" else f"over {group.first.count:,} images, one run"
    return f"95 % interval {100 * s.low:.2f} to {100 * s.high:.2f} ({over})"


def _mark(columns: list[Column], rows: list[Row], said: Sequence[str]) -> Table:
    """Mark the best and second best distinct printed value of each column among the measured rows of a block. said:
    further notes.
    """
    marks: dict[tuple[int, int], Literal["best", "second"]] = {}
    for block in dict.fromkeys(row.block for row in rows):
        places = [place for place, row in enumerate(rows) if row.block == block and row.group is not None]
        for number in range(len(columns)):
            values_printed = {p: round(value, 2) for p in places if (value := rows[p].cells[number].value) is not None}
            ranking = sorted(set(values_printed.values()), reverse=True)[:2] if len(values_printed) > 1 else []
            for place, value in values_printed.items():
                if value in ranking:
                    marks[place, number] = "best" if value == ranking[0] else "second"
    cells_marked = [
        dataclasses.replace(
            row, cells=[dataclasses.replace(cell, mark=marks.get((p, c), "")) for c, cell in enumerate(row.cells)]
        )
        for p, row in enumerate(rows)
    ]
    return Table(columns, cells_marked, list(said))
