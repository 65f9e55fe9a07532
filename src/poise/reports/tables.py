"""The one table of results: rows are groups of runs, columns are natural accuracy, each attack and the worst case, in percent."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from poise.core.errors import RunError
from poise.core.records import AttackRecord, EvaluationRecord
from poise.reports.collect import Run
from poise.reports.statistics import CORRUPTED, NATURAL, WORST, Group, Summary, examples_of, group_records, settings_key, summary
from poise.reports.wording import flatten

Checkpoints = Literal["selected", "last", "both", "all"]
_ALIASES = {"clean": NATURAL, "nat": NATURAL, "standard": NATURAL, "worst": WORST, "aa": "autoattack", "nrob": CORRUPTED}


@dataclass(frozen=True)
class Column:
    """`attack` and `settings` are None for "natural", "worst case" and columns that only a paper has."""

    label: str
    attack: str | None = None
    settings: dict[str, Any] | None = field(default=None, hash=False)

    def of(self, record: EvaluationRecord) -> AttackRecord | None:
        """The record's attack of this name with these settings."""
        wanted = settings_key(self.settings or {})
        return next((a for a in record.attacks if a.name == self.attack and settings_key(a.settings) == wanted), None)


@dataclass(frozen=True)
class Cell:
    """One accuracy in percent; `value` is None where it was not measured."""

    value: float | None = None
    spread: float | None = None
    """Sample standard deviation over the runs, or the paper's printed plus-minus."""
    n: int = 0
    detail: str = ""
    """The interval, in words."""
    low: float | None = None
    high: float | None = None
    mark: Literal["", "best", "second"] = ""

    @property
    def text(self) -> str:
        """`84.32`, `84.32 ± 0.21 (3)` with the number of runs, or `-`."""
        if self.value is None:
            return "-"
        spread = "" if self.spread is None else f" ± {self.spread:.2f}"
        return f"{self.value:.2f}{spread}" + (f" ({self.n})" if self.n > 1 else "")


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
    columns = _columns(groups)
    printed = {group.key: _published(group, runs) for group in groups}
    columns += _columns_of_papers(columns, groups, printed)
    labels = group_labels(groups)
    rows: list[Row] = []
    for group in groups:
        data = f"{group.first.dataset} {group.first.split}, {group.first.count:,} images"
        cells = [_cell(group, column) for column in columns]
        rows.append(Row(labels[group.key], group.checkpoint, data, cells, "measured", group))
        for paper in printed.pop(group.key, []):
            if paper["columns"]:  # of a figure no numbers are printed
                label, known = _paper_label(labels[group.key], paper), _paper_cells(paper, columns, group)
                rows.append(Row(label, group.checkpoint, data, known, "published"))
    return _mark(columns, rows)


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


def _columns(groups: Sequence[Group]) -> list[Column]:
    found: dict[tuple[str, str], AttackRecord] = {}
    for group in groups:
        for record in group.records:
            for attack in record.attacks:
                found.setdefault((attack.name, settings_key(attack.settings)), attack)
    names = [name for name, _ in found]
    attacks = []
    for attack in found.values():
        same = [other.settings for other in found.values() if other.name == attack.name]
        extra = "" if names.count(attack.name) == 1 else f" [{_told_apart(attack.settings, same)}]"
        attacks.append(Column(attack.name + extra, attack.name, attack.settings))
    corrupted = any(record.corruption_accuracy is not None for group in groups for record in group.records)
    return [Column(NATURAL), *([Column(CORRUPTED)] if corrupted else []), *attacks, *([Column(WORST)] if attacks else [])]


def _told_apart(settings: dict[str, Any], others: Sequence[dict[str, Any]]) -> str:
    flat = [flatten(other) for other in others]
    own = flatten(settings)
    return ", ".join(f"{name}={own.get(name, '-')}" for name in own if len({other.get(name) for other in flat}) > 1) or "other settings"


def values_of(group: Group, column: Column) -> list[float]:
    """The accuracy [n] in [0, 1] of each record of the group that has this column."""
    if column.label == NATURAL and column.attack is None:
        return [record.natural_accuracy for record in group.records]
    if column.label == WORST and column.attack is None:
        return [record.worst_case_accuracy for record in _with_common_attacks(group)]
    if column.label == CORRUPTED and column.attack is None:
        return [mean for record in group.records if (mean := record.corruption_accuracy) is not None]
    if column.attack is None:
        return []
    found = [dataclasses.replace(record, attacks=[attack]) for record in group.records if (attack := column.of(record))]
    return [record.accuracy(column.attack) for record in found]


def _with_common_attacks(group: Group) -> list[EvaluationRecord]:
    """The group's records with the attacks that all of them have, so that their worst cases mean the same."""
    common = attacks_of(group)
    kept = [[a for a in record.attacks if (a.name, settings_key(a.settings)) in common] for record in group.records]
    return [dataclasses.replace(record, attacks=attacks) for record, attacks in zip(group.records, kept, strict=True)] if common else []


def attacks_of(group: Group) -> frozenset[tuple[str, str]]:
    sets = [{(attack.name, settings_key(attack.settings)) for attack in record.attacks} for record in group.records]
    return frozenset(set.intersection(*sets))


def _cell(group: Group, column: Column) -> Cell:
    values = [value for value in values_of(group, column) if math.isfinite(value)]
    if not values:
        return Cell()
    s = summary(values, group.first.count)
    spread = None if math.isnan(s.std) else 100 * s.std
    detail = _detail(s, group)
    if column.label == WORST and column.attack is None:
        detail += f"; wrong on the natural image or after any of {len(attacks_of(group))} attacks counts as wrong"
    if column.label == CORRUPTED and column.attack is None:
        detail += "; mean over 15 common corruptions of 5 severities"
    return Cell(100 * s.mean, spread, s.n, detail, 100 * s.low, 100 * s.high)


def _detail(s: Summary, group: Group) -> str:
    over = f"t over {s.n} seeds" if s.over == "seeds" else f"over {group.first.count:,} images, one run"
    return f"95 % interval {100 * s.low:.2f} to {100 * s.high:.2f} ({over})"


def _published(group: Group, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The papers' rows, from the record's notes or else from the experiment's settings."""
    for record in group.records:
        noted = [paper for paper in _papers(record.notes) if isinstance(paper.get("columns"), Mapping)]
        if noted:
            return [{"spread": {}, **{name: value for name, value in paper.items() if value is not None}} for paper in noted]
    for run in runs:
        if any(record.group == group.key for record in run.records.values()) and (found := _papers(run.experiment)):
            return [_by_column(paper) for paper in found]
    return []


def _papers(told: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The row of a record's notes or of settings, then those of further tables."""
    further = told.get("also_published")
    return [paper for paper in (told.get("published"), *(further if isinstance(further, list) else ())) if isinstance(paper, Mapping)]


def _by_column(paper: Mapping[str, Any]) -> dict[str, Any]:
    """A row of settings, which lists columns, values and spreads."""
    named = {part: dict(zip(paper.get("columns", []), paper.get(part, []), strict=False)) for part in ("values", "spread")}
    return {**paper, "columns": named["values"], "spread": named["spread"]}


def _simple(name: str) -> str:
    letters = "".join(letter for letter in str(name).lower() if letter.isalnum())
    return _ALIASES.get(letters, letters).replace(" ", "")


def _place(name: str, columns: Sequence[Column], group: Group, paper: Mapping[str, Any]) -> str:
    """Label of the column that a paper's column `name` means; what was measured at another epsilon than it states is another column."""
    wanted, stated = _simple(name), re.search(r"epsilon (\d*\.?\d+)\b", str(paper.get("table", "")))

    def fits(settings: Mapping[str, Any] | None) -> bool:
        measured = ((settings or {}).get("threat") or {}).get("epsilon")
        return stated is None or measured is None or math.isclose(measured, float(stated[1]), rel_tol=1e-3)

    for column in columns:
        if wanted in (_simple(column.label), _simple(column.attack or column.label)) and fits(column.settings):
            return column.label
    protocol = group.first.protocol  # may end in its epsilon
    whole = (wanted == "autoattack" and _simple(protocol).startswith("autoattack")) or name in (protocol, protocol.rpartition("-")[0])
    labels = [column.label for column in columns]
    if whole and WORST in labels and all(fits(attack.settings) for attack in group.first.attacks):
        return WORST
    return f"{name} (epsilon {stated[1]})" if name in labels and stated is not None else str(name)


def _columns_of_papers(columns: Sequence[Column], groups: Sequence[Group], printed: Mapping[str, list[dict[str, Any]]]) -> list[Column]:
    papers = [(group, paper) for group in groups for paper in printed[group.key]]
    labels = dict.fromkeys(_place(name, columns, group, paper) for group, paper in papers for name in paper["columns"])
    return [Column(label) for label in labels if label not in {column.label for column in columns}]


def _paper_label(label: str, paper: Mapping[str, Any]) -> str:
    where = ", ".join(str(paper[name]) for name in ("table", "row") if paper.get(name))
    return f"{label}, published" + (f" ({where})" if where else "")


def _paper_cells(paper: Mapping[str, Any], columns: Sequence[Column], group: Group) -> list[Cell]:
    cells = {column.label: Cell() for column in columns}
    for name, value in paper["columns"].items():
        if isinstance(value, int | float):
            spread = paper["spread"].get(name)
            spread = float(spread) if isinstance(spread, int | float) else None
            n = runs if isinstance(runs := paper.get("runs"), int) else 0
            cells[_place(name, columns, group, paper)] = Cell(float(value), spread, n, "as printed in the paper, not measured here")
    return list(cells.values())


def _mark(columns: list[Column], rows: list[Row]) -> Table:
    """Mark the best and second best distinct printed value of each column among the measured rows of a block."""
    notes: list[str] = []
    marks: dict[tuple[int, int], Literal["best", "second"]] = {}
    for block in dict.fromkeys(row.block for row in rows):
        places = [place for place, row in enumerate(rows) if row.block == block and row.group is not None]
        attacks = {attacks_of(group) for place in places if (group := rows[place].group)}
        for number, column in enumerate(columns):
            if column.label == WORST and column.attack is None and len(attacks) > 1:
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
    return Table(columns, marked, list(dict.fromkeys(notes)))
