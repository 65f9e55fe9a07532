"""An item's table: each of the paper's rows, ours beside it, and what lies between."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from poise.recipes import experiment
from poise.recipes.items import Item, Line
from poise.reports.collect import Run, read_runs
from poise.reports.columns import Cell, Column, settings_told_apart
from poise.reports.printed import Paper, attacks_of_papers, columns_of_papers, notes_of, paper_cells, paper_in
from poise.reports.statistics import NATURAL, Group, settings_key, summary
from poise.reports.tables import Row, Table, table
from poise.reproduce.plan import Plan
from poise.reproduce.scales import SAID

MINUTES = "minutes of training"
NOBODY = Group("", "", [])
"""Where no run is evaluated yet."""


@dataclass(frozen=True)
class Made:
    """A line with its runs, as far as they are evaluated, and their rows in `Sheet.measured`."""

    line: Line
    runs: list[Run]
    groups: dict[str, Group]
    """By checkpoint: "selected", "last"."""


@dataclass(frozen=True)
class Sheet:
    title: str
    table: Table
    made: list[Made]
    measured: Table
    """All that was measured, without the papers' rows: what pictures are drawn from."""


def sheet(plan: Plan) -> Sheet:
    """The table of what is there; at another scale than the paper's no number of a paper and no difference to one."""
    item, printing = plan.item, plan.scale == "paper"
    folders = {
        line: list(dict.fromkeys(work.folder for work in plan.works if work.line == line)) for line in _lines(plan)
    }
    read = {
        line: [read_runs(folder)[0] for folder in there if any((folder / "records").glob("*.json"))]
        for line, there in folders.items()
    }
    runs = [run for runs in read.values() for run in runs]
    said = SAID[plan.scale]
    title = f"{item.title} ({item.paper})" + (f": {said}" if said else "")
    measured = _measured(table(runs, "both")) if runs else Table([Column(NATURAL)], [], [])
    made = [Made(line, runs, _groups(measured, runs)) for line, runs in read.items()]
    papers = {each.line: paper for each in made if printing and (paper := paper_of(item, each.line)) is not None}
    beside = [(next(iter(each.groups.values()), NOBODY), [papers[each.line]]) for each in made if each.line in papers]
    columns = _columns(measured.columns, beside) + ([Column(MINUTES)] if item.minutes else [])
    rows = [row for each in made for row in _rows(item, each, papers.get(each.line), measured, columns)]
    shown = [place for place, _ in enumerate(columns) if any(row.cells[place].value is not None for row in rows)]
    kept = [dataclasses.replace(row, cells=[row.cells[place] for place in shown]) for row in rows]
    notes = [*(note for note in measured.notes if not note.startswith("Published in")), *notes_of(papers.values())]
    if any(row.kind == "difference" for row in kept):
        notes.append(
            "Differences are ours minus the paper's; the interval is that of ours alone, over runs, or over images of"
            " one run."
        )
    return Sheet(title, Table([columns[place] for place in shown], kept, notes), made, measured)


def _measured(whole: Table) -> Table:
    """The table without papers' rows and the columns that only these have."""
    rows = [row for row in whole.rows if row.kind == "measured"]
    shown = [place for place, _ in enumerate(whole.columns) if any(row.cells[place].value is not None for row in rows)]
    kept = [dataclasses.replace(row, cells=[row.cells[place] for place in shown]) for row in rows]
    return Table([whole.columns[place] for place in shown], kept, whole.notes)


def _columns(measured: Sequence[Column], beside: Sequence[tuple[Group, list[Paper]]]) -> list[Column]:
    """What was measured, then what only papers have: attacks with their settings, and columns of which no settings are
    known.
    """
    further = {(name, settings_key(settings)): (name, settings) for name, settings in attacks_of_papers(beside)}
    columns, labels = list(measured), {column.label for column in measured}
    for name, settings in further.values():
        same = [other for called, other in further.values() if called == name]
        label = name if len(same) == 1 else f"{name} [{settings_told_apart(settings, same)}]"
        label = f"{label} (published)" if label in labels else label
        columns.append(Column(label, name, settings))
    return columns + columns_of_papers(columns, beside)


def _lines(plan: Plan) -> list[Line]:
    return list(dict.fromkeys(work.line for work in plan.works))


def _groups(whole: Table, runs: Sequence[Run]) -> dict[str, Group]:
    """The groups of the runs by checkpoint; a group that other lines' runs are in too is cut to these."""
    digests = {record.model_digest for run in runs for record in run.records.values()}
    found: dict[str, Group] = {}
    for row in whole.rows:
        if row.group is not None and any(record.model_digest in digests for record in row.group.records):
            found.setdefault(row.checkpoint, row.group)
    return found


def paper_of(item: Item, line: Line) -> Paper | None:
    """What the item's table prints of the line: the recipe's row of that table, of several the one that the line
    names.
    """
    made = experiment(line.recipe.split()[0])
    rows = [row for row in made.rows if item.table and row.table.startswith(item.table) and row.columns]
    row = next((row for row in rows if row.row == line.row), rows[0] if rows and not line.row else None)
    return None if row is None else paper_in(row.told(made.protocol))


def _rows(item: Item, made: Made, paper: Paper | None, measured: Table, columns: Sequence[Column]) -> list[Row]:
    """The paper's row, ours of each checkpoint, and what lies between the paper's and the selected one."""
    rows = []
    if paper is not None:
        cells = paper_cells(paper, columns, next(iter(made.groups.values()), NOBODY))
        if item.minutes and made.line.minutes is not None:
            cells[-1] = Cell(made.line.minutes, n=paper.runs, detail="as printed in the paper, not measured here")
        rows.append(Row(f"{made.line.label}, paper", "selected", "", cells, "published", source=paper.label))
    for checkpoint, group in made.groups.items():
        own = next(row for row in measured.rows if row.group is group)
        cells = [*own.cells, *([Cell()] * (len(columns) - len(own.cells)))]
        if item.minutes:
            cells[-1] = _minutes(group)
        rows.append(dataclasses.replace(own, label=made.line.label, cells=cells))
        if paper is not None and checkpoint == "selected":
            rows.append(_difference(rows[-1], rows[0]))
    return rows


def _minutes(group: Group) -> Cell:
    """Mean minutes of training over the runs that say how long it took."""
    minutes = [record.training_seconds / 60 for record in group.records if record.training_seconds is not None]
    if not minutes:
        return Cell()
    s = summary(minutes, 0) if len(minutes) > 1 else None
    mean, devices = sum(minutes) / len(minutes), ", ".join(dict.fromkeys(record.device for record in group.records))
    return Cell(mean, s.std if s else None, len(minutes), f"on {devices}", of=len(group.records))


def _difference(ours: Row, paper: Row) -> Row:
    """Ours minus the paper's; the interval is that of ours, as of the paper's only a spread is known."""
    cells = []
    for own, printed in zip(ours.cells, paper.cells, strict=True):
        if own.value is None or printed.value is None:
            cells.append(Cell())
            continue
        low, high = (None if end is None else end - printed.value for end in (own.low, own.high))
        cells.append(Cell(own.value - printed.value, low=low, high=high, gap=True))
    return Row(f"{ours.label}, difference", ours.checkpoint, ours.data, cells, "difference")
