"""What papers print beside what was measured: their rows, and the column that each of their numbers belongs to."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from poise.reports.collect import Run
from poise.reports.columns import Cell, Column
from poise.reports.statistics import CORRUPTED, NATURAL, WORST, Group, key_of

_ALIASES = {"clean": NATURAL, "nat": NATURAL, "standard": NATURAL, "worst": WORST, "aa": "autoattack", "nrob": CORRUPTED}


def papers_beside(groups: Sequence[Group], runs: Sequence[Run]) -> list[tuple[Group, list[dict[str, Any]]]]:
    """Each group with the papers' rows that stand below it: below the first of those of one key that has any."""
    found, shown = [], set[str]()
    for group in groups:
        papers = [] if group.key in shown else rows_of_papers(group, runs)
        shown |= {group.key} if papers else set()
        found.append((group, papers))
    return found


def rows_of_papers(group: Group, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The papers' rows, from the record's notes or else from the experiment's settings; none beside measurements on other data."""
    if any("tested_on" in record.notes for record in group.records):
        return []
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
        named = name in (column.label, column.label.rpartition("-")[0])  # a protocol's name may end in its epsilon
        if column.whole and named and all(fits(attack.settings) for attack in group.first.attacks if key_of(attack) in column.whole):
            return column.label
    labels = [column.label for column in columns]
    whole = wanted == "autoattack" and _simple(group.first.protocol).startswith("autoattack")
    if whole and WORST in labels and all(fits(attack.settings) for attack in group.first.attacks):
        return WORST
    return f"{name} (epsilon {stated[1]})" if name in labels and stated is not None else str(name)


def columns_of_papers(columns: Sequence[Column], printed: Sequence[tuple[Group, list[dict[str, Any]]]]) -> list[Column]:
    rows = [(group, paper) for group, papers in printed for paper in papers]
    labels = dict.fromkeys(_place(name, columns, group, paper) for group, paper in rows for name in paper["columns"])
    return [Column(label) for label in labels if label not in {column.label for column in columns}]


def notes_of(printed: Sequence[tuple[Group, list[dict[str, Any]]]]) -> list[str]:
    """What is to be known of the papers' rows that are shown, a sentence for each note with the rows, or tables, that it is about."""
    where: dict[str, dict[str, list[str]]] = {}
    for paper in (paper for _, papers in printed for paper in papers if paper["columns"] and paper.get("note")):
        where.setdefault(str(paper["note"]), {}).setdefault(str(paper.get("table", "")), []).append(str(paper.get("row", "")))

    def place(table: str, rows: list[str]) -> str:
        return f"{table}, {rows[0]}" if len(rows) == 1 and rows[0] else table

    return [f"Published in {'; '.join(place(*each) for each in tables.items())}: {note}." for note, tables in where.items()]


def paper_label(label: str, paper: Mapping[str, Any]) -> str:
    where = ", ".join(str(paper[name]) for name in ("table", "row") if paper.get(name))
    return f"{label}, published" + (f" ({where})" if where else "")


def paper_cells(paper: Mapping[str, Any], columns: Sequence[Column], group: Group) -> list[Cell]:
    cells = {column.label: Cell() for column in columns}
    for name, value in paper["columns"].items():
        if isinstance(value, int | float):
            spread = paper["spread"].get(name)
            spread = float(spread) if isinstance(spread, int | float) else None
            n = runs if isinstance(runs := paper.get("runs"), int) else 0
            cells[_place(name, columns, group, paper)] = Cell(float(value), spread, n, "as printed in the paper, not measured here")
    return list(cells.values())
