"""What papers print beside what was measured. A printed number stands in a column only where that is what it was
measured by:
the attack with its settings and threat, or the protocol; under no column because of its name."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from poise.core.records import AttackRecord
from poise.reports.collect import Run
from poise.reports.columns import Cell, Column, SpreadKind, strongest_label
from poise.reports.statistics import CORRUPTED, NATURAL, Group, key_of, settings_key

_KINDS: dict[str, SpreadKind] = {"standard deviation": "std", "95 % interval": "95 %"}


@dataclass(frozen=True)
class Paper:
    """A row of a paper beside a group of runs. `forms`: by column, the settings of the attacks that its number is the
    lowest under.
    """

    label: str
    table: str
    columns: Mapping[str, float]
    spread: Mapping[str, float]
    kind: SpreadKind
    runs: int
    note: str
    forms: Mapping[str, Sequence[Mapping[str, Any]]]


def papers_beside(groups: Sequence[Group], runs: Sequence[Run]) -> tuple[list[tuple[Group, list[Paper]]], list[str]]:
    """Each group with the papers' rows that stand below it, below the first of those of one key that has any; and what
    is to be known.
    """
    rows_found, keys_shown, apart = [], set[str](), list[str]()
    for group in groups:
        papers = [] if group.key in keys_shown else rows_of_papers(group, runs)
        beside = [paper for paper in papers if _fits(paper, group)]
        apart += [paper.label for paper in papers if paper not in beside]
        keys_shown |= {group.key} if beside else set()
        rows_found.append((group, beside))
    left_out = dict.fromkeys(
        f"Published in {label}, by other attacks, threats or settings than any here: not shown." for label in apart
    )
    return rows_found, [*notes_of(paper for _, papers in rows_found for paper in papers), *left_out]


def rows_of_papers(group: Group, runs: Sequence[Run]) -> list[Paper]:
    """The papers' rows with numbers, from the record's notes or else from the settings; none beside measurements on
    other data.
    """
    if any("tested_on" in record.notes for record in group.records):
        return []
    settings = next(
        (run.experiment for run in runs for record in run.records.values() if record.group == group.key), {}
    )
    attack_keys = {settings_key(attack) for attack in (settings.get("protocol") or {}).get("attacks", ())}
    for record in group.records:
        papers_noted = [paper for paper in _papers(record.notes) if isinstance(paper.get("columns"), Mapping)]
        if papers_noted:
            return [_paper(paper, group, attack_keys) for paper in papers_noted if paper["columns"]]
    # else the record would have it
    papers_listed = [paper for paper in _papers(settings) if paper.get("columns") and not paper.get("of")]
    return [_paper(_by_column(paper), group, attack_keys) for paper in papers_listed]


def _papers(told: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The row of a record's notes or of settings, then those of further tables."""
    further = told.get("also_published")
    return [
        paper
        for paper in (told.get("published"), *(further if isinstance(further, list) else ()))
        if isinstance(paper, Mapping)
    ]


def _by_column(paper: Mapping[str, Any]) -> dict[str, Any]:
    """A row of settings, which lists columns, values and spreads."""
    columns = {
        part: dict(zip(paper.get("columns", []), paper.get(part, []), strict=False)) for part in ("values", "spread")
    }
    return {**paper, "columns": columns["values"], "spread": columns["spread"]}


def _paper(told: Mapping[str, Any], group: Group, own: set[str]) -> Paper:
    """The row as records tell it. own: the attacks that the experiment is evaluated by, for records that name none."""
    if isinstance(told.get("measured"), Mapping):
        return paper_in(told)
    by_name = {name: _named(name, group, own) for name in told["columns"]}
    return paper_in(
        {**told, "measured": {name: [attack.settings] for name, attack in by_name.items() if attack is not None}}
    )


def paper_in(told: Mapping[str, Any]) -> Paper:
    """A row as new records tell it."""
    numbers = {name: float(value) for name, value in told["columns"].items() if isinstance(value, int | float)}
    spread = {
        name: float(value) for name, value in (told.get("spread") or {}).items() if isinstance(value, int | float)
    }
    label = ", ".join(str(told[part]) for part in ("table", "row") if told.get(part))
    kind: SpreadKind = _KINDS.get(str(told.get("plus_minus") or "standard deviation"), "not stated")
    runs = told.get("runs") if isinstance(told.get("runs"), int) else 0
    return Paper(
        label,
        str(told.get("table") or ""),
        numbers,
        spread,
        kind,
        runs or 0,
        str(told.get("note") or ""),
        told["measured"],
    )


def _named(column: str, group: Group, own: set[str]) -> AttackRecord | None:
    """The attack of this name that the experiment itself is evaluated by; of the attacks of any other protocol none is
    meant.
    """
    for record in group.records:
        for attack in record.attacks:
            if settings_key(attack.settings) in own and _simple(column) == _simple(attack.name):
                return attack
    return None


def _simple(name: str) -> str:
    letters = "".join(letter for letter in name.lower() if letter.isalnum())
    return {"aa": "autoattack", "clean": NATURAL, "nat": NATURAL, "standard": NATURAL, "nrob": CORRUPTED}.get(
        letters, letters
    )


def _fits(paper: Paper, group: Group) -> bool:
    """Whether any number of the row is of what was measured; where nothing was attacked, or nothing printed, natural
    accuracy is.
    """
    robust = [name for name in paper.columns if _simple(name) not in (NATURAL, CORRUPTED)]
    has_attacks = any(record.attacks for record in group.records)
    if not robust or not has_attacks:
        return True
    keys_measured = {settings_key(attack.settings) for record in group.records for attack in record.attacks}
    bound = any(
        {settings_key(form) for form in paper.forms.get(name, ())} <= keys_measured and paper.forms.get(name)
        for name in robust
    )
    return bool(bound) or any(
        _transferred(name, paper, group, whole) for name in robust for _, whole in group.transferred
    )


def _transferred(name: str, paper: Paper, group: Group, whole: frozenset[tuple[str, str]]) -> bool:
    """Whether the paper's column is this protocol of images made elsewhere, whose name may end in its epsilon, at the
    row's epsilon.
    """
    epsilon_match = re.search(r"epsilon (\d*\.?\d+)\b", paper.table)
    attacks_named = [
        protocol
        for protocol, attacks in group.transferred
        if attacks == whole and name in (protocol, protocol.rpartition("-")[0])
    ]
    attacks_shown = [attack for record in group.records for attack in record.attacks if key_of(attack) in whole]
    epsilons = [(attack.settings.get("threat") or {}).get("epsilon") for attack in attacks_shown]
    return bool(attacks_named) and (
        epsilon_match is None
        or all(e is None or math.isclose(e, float(epsilon_match[1]), rel_tol=1e-3) for e in epsilons)
    )


def attacks_of_papers(printed: Sequence[tuple[Group, list[Paper]]]) -> list[tuple[str, Mapping[str, Any]]]:
    """The attacks that papers' rows have numbers under, by column and settings, but for those that were measured."""
    attacks_measured = {
        settings_key(attack.settings) for group, _ in printed for record in group.records for attack in record.attacks
    }
    forms = [
        (name, same[0])
        for _, papers in printed
        for paper in papers
        for name, same in paper.forms.items()
        if len(same) == 1
    ]
    return [(name, settings) for name, settings in forms if settings_key(settings) not in attacks_measured]


def columns_of_papers(columns: Sequence[Column], printed: Sequence[tuple[Group, list[Paper]]]) -> list[Column]:
    """The columns that only papers have, and of which they say no settings."""
    rows = [(group, paper) for group, papers in printed for paper in papers]
    labels = dict.fromkeys(_place(name, columns, group, paper) for group, paper in rows for name in paper.columns)
    return [Column(label) for label in labels if label not in {column.label for column in columns}]


def _place(name: str, columns: Sequence[Column], group: Group, paper: Paper) -> str:
    """Label of the column that a paper's column `name` is the same as; else its own, which says that only the paper has
    it.
    """
    simple, forms = _simple(name), frozenset(settings_key(form) for form in paper.forms.get(name, ()))
    if simple in (NATURAL, CORRUPTED):
        return {_simple(column.label): column.label for column in columns}.get(simple, simple)
    same = [column for column in columns if column.settings is not None and forms == {settings_key(column.settings)}]
    same += [column for column in columns if forms and column.forms == forms]
    same += [column for column in columns if column.whole and _transferred(name, paper, group, column.whole)]
    exact = [column for column in same if column.attack is not None and _simple(column.attack) == simple]
    if same:
        return (exact or same)[0].label
    epsilon_match, label_own = (
        re.search(r"epsilon (\d*\.?\d+)\b", paper.table),
        strongest_label(name) if len(forms) > 1 else name,
    )
    return f"{label_own} (epsilon {epsilon_match[1]})" if epsilon_match is not None else f"{label_own} (published)"


def paper_cells(paper: Paper, columns: Sequence[Column], group: Group) -> list[Cell]:
    cells = {column.label: Cell() for column in columns}
    for name, value in paper.columns.items():
        cell = Cell(
            value, paper.spread.get(name), paper.runs, "as printed in the paper, not measured here", kind=paper.kind
        )
        around = cell.spread if cell.kind == "95 %" else None
        ends = {} if around is None else {"low": value - around, "high": value + around}
        cells[_place(name, columns, group, paper)] = dataclasses.replace(cell, **ends)
    return list(cells.values())


def notes_of(papers: Iterable[Paper]) -> list[str]:
    """A sentence for each note, with the rows, or tables, that it is about."""
    where: dict[str, dict[str, list[str]]] = {}
    for paper in papers:
        if paper.note:
            where.setdefault(paper.note, {}).setdefault(paper.table, []).append(paper.label)
    return [
        f"Published in {'; '.join(rows[0] if len(rows) == 1 else table for table, rows in tables.items())}: {note}."
        for note, tables in where.items()
    ]
