"""An item's table: each of the paper's rows, ours beside it, and what lies between."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

from poise.core.verdicts import summary as said
from poise.recipes import experiment
from poise.recipes.items import Item, Line
from poise.reports.across import untuned
from poise.reports.collect import Run, read_runs
from poise.reports.columns import Cell, Column, records_of, settings_told_apart
from poise.reports.printed import Paper, attacks_of_papers, columns_of_papers, notes_of, paper_cells, paper_in
from poise.reports.statistics import NATURAL, Group, paired_interval, settings_key, summary
from poise.reports.tables import Row, Table, table
from poise.reproduce.plan import Plan
from poise.reproduce.scales import SAID

MINUTES, GAIN = "minutes of training", "gain over one expert fewer"
NOBODY = Group("", "", [])
"""Where no run is evaluated yet."""


@dataclass(frozen=True)
class Made:
    """A line with its runs, as far as they are evaluated, and their rows in `Sheet.measured`."""

    line: Line
    runs: list[Run]
    groups: dict[str, Group]
    """By checkpoint: "selected", "last", and "held-out" for the one that was chosen on held-out images."""


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
    runs_of_line = {
        (line, is_held_out): _read(plan, line, is_held_out) for line in _lines(plan) for is_held_out in (False, True)
    }
    runs = list({run.path: run for runs in runs_of_line.values() for run in runs}.values())
    of_scale = SAID[plan.scale] if item.lines else ""
    title = f"{item.title} ({item.paper})" + (f": {of_scale}" if of_scale else "")
    measured_table = _measured(table(runs, "both")) if runs else Table([Column(NATURAL)], [], [])
    results = [
        Made(
            line,
            runs_of_line[line, False],
            _groups(measured_table, runs_of_line[line, False]) | _held_out(measured_table, runs_of_line[line, True]),
        )
        for line in _lines(plan)
    ]
    papers = {result.line: papers_of(item, result.line) if printing else [] for result in results}
    beside = [
        (next(iter(result.groups.values()), NOBODY), papers[result.line]) for result in results if papers[result.line]
    ]
    columns = _columns(measured_table.columns, beside) + ([Column(MINUTES)] if item.minutes else [])
    rows = {result.line: _rows(item, result, papers[result.line], measured_table, columns) for result in results}
    places_shown = _gained(Table(columns, [], []), results, rows) if item.gains else Table(columns, [], [])
    places_shown = _across(item.across, places_shown, rows) if item.across and printing else places_shown
    every = places_shown.rows or [row for result in rows.values() for row in result]
    there = [
        place
        for place, _ in enumerate(places_shown.columns)
        if any(row.cells[place].value is not None for row in every)
    ]
    rows_shown = [dataclasses.replace(row, cells=[row.cells[place] for place in there]) for row in every]
    notes = [*(note for note in measured_table.notes if not note.startswith("Published in"))]
    notes += notes_of(paper for papers_of_line in papers.values() for paper in papers_of_line)
    if any(row.kind == "difference" for row in rows_shown):
        notes.append(
            "Differences are ours minus the paper's; the interval is that of ours alone, over runs, or over images of"
            " one run."
        )
    notes += _inspected(results) if item.sanity else []
    notes += _untuned(results) if item.untuned else []
    return Sheet(
        title, Table([places_shown.columns[place] for place in there], rows_shown, notes), results, measured_table
    )


def _read(plan: Plan, line: Line, held_out: bool) -> list[Run]:
    """The line's runs that are evaluated."""
    folders = dict.fromkeys(work.folder for work in plan.works if work.line == line and work.held_out == held_out)
    return [read_runs(folder)[0] for folder in folders if any((folder / "records").glob("*.json"))]


def _held_out(measured: Table, runs: Sequence[Run]) -> dict[str, Group]:
    groups_selected = _groups(measured, runs).get("selected")
    return {} if groups_selected is None else {"held-out": groups_selected}


def _measured(whole: Table) -> Table:
    """The table without papers' rows and the columns that only these have."""
    rows = [row for row in whole.rows if row.kind == "measured"]
    places_shown = [
        place for place, _ in enumerate(whole.columns) if any(row.cells[place].value is not None for row in rows)
    ]
    rows_shown = [dataclasses.replace(row, cells=[row.cells[place] for place in places_shown]) for row in rows]
    return Table([whole.columns[place] for place in places_shown], rows_shown, whole.notes)


def _columns(measured: Sequence[Column], beside: Sequence[tuple[Group, list[Paper]]]) -> list[Column]:
    """What was measured, then what only papers have: attacks with their settings, and columns of which no settings are
    known.
    """
    further = {(name, settings_key(settings)): (name, settings) for name, settings in attacks_of_papers(beside)}
    columns, labels = list(measured), {column.label for column in measured}
    for name, settings in further.values():
        same = [column_other for called_label, column_other in further.values() if called_label == name]
        label = name if len(same) == 1 else f"{name} [{settings_told_apart(settings, same)}]"
        label = f"{label} (published)" if label in labels else label
        columns.append(Column(label, name, settings))
    return columns + columns_of_papers(columns, beside)


def _lines(plan: Plan) -> list[Line]:
    return list(dict.fromkeys(work.line for work in plan.works))


def _groups(whole: Table, runs: Sequence[Run]) -> dict[str, Group]:
    """The groups of the runs by checkpoint; a group that other lines' runs are in too is cut to these."""
    digests = {record.model_digest for run in runs for record in run.records.values()}
    groups: dict[str, Group] = {}
    for row in whole.rows:
        if row.group is not None and any(record.model_digest in digests for record in row.group.records):
            groups.setdefault(row.checkpoint, row.group)
    return groups


def papers_of(item: Item, line: Line) -> list[Paper]:
    """What the item's table prints of the line, then what another version of the paper does: the recipe's row of that
    table, of several the one that the line names; none of a recipe that the line changes.
    """
    name, *changes = line.recipe.split()
    variant = experiment(name)
    rows = [row for row in variant.rows if item.table and row.table.startswith(item.table) and row.columns]
    row = next((row for row in rows if row.row == line.row), rows[0] if rows and not line.row else None)
    rows_printed = [line.instead or (None if changes else row), line.beside]
    return [paper_in(row.told(variant.protocol)) for row in rows_printed if row is not None]


def _rows(item: Item, made: Made, papers: Sequence[Paper], measured: Table, columns: Sequence[Column]) -> list[Row]:
    """The papers' rows, ours of each checkpoint, and what lies between the first paper's and the selected one."""
    rows = []
    for place, paper in enumerate(papers):
        cells = paper_cells(paper, columns, next(iter(made.groups.values()), NOBODY))
        if item.minutes and made.line.minutes is not None:
            cells[-1] = Cell(made.line.minutes, n=paper.runs, detail="as printed in the paper, not measured here")
        suffix = f" ({paper.table.partition(',')[0]})" if place else ""
        rows.append(Row(f"{made.line.label}, paper{suffix}", "selected", "", cells, "published", source=paper.label))
    for checkpoint, group in made.groups.items():
        row_own = next(row for row in measured.rows if row.group is group)
        cells = [*row_own.cells, *([Cell()] * (len(columns) - len(row_own.cells)))]
        if item.minutes:
            cells[-1] = _minutes(group)
        rows.append(dataclasses.replace(row_own, label=made.line.label, checkpoint=checkpoint, cells=cells))
        if papers and checkpoint == "selected":
            rows.append(_difference(rows[-1], rows[0]))
    return rows


# -- tables of other shapes ------------------------------------------------------------------------------------------


def name_of(column: Column) -> str:
    """A column's name without what tells it apart from others of its name: settings, an epsilon, that only a paper has
    it.
    """
    label = column.attack or column.label.partition(" [")[0].partition(" (")[0]
    return re.sub(r"(-part)?(-compat)?-[\d.]+(-first\d+)?$", "", label) if column.whole else label


def _across(names: Sequence[str], whole: Table, rows: dict[Line, list[Row]]) -> Table:
    """One column for each place in the sweep; of each family a row for each name of a column, in each kind of row."""
    places = sorted({line.x for line in rows if line.x is not None})
    cells: dict[tuple[str, str, str, str, str], dict[float, Cell]] = {}
    for line, row_own in rows.items():
        for row in row_own:
            kind = row.label.removeprefix(line.label)
            for name in names:
                there = [
                    cell
                    for column, cell in zip(whole.columns, row.cells, strict=True)
                    if name_of(column) == name and cell.value is not None
                ]
                if there and line.x is not None:
                    key = (line.family, name, kind, row.checkpoint, row.kind)
                    cells.setdefault(key, {})[line.x] = there[0]
    order = list(dict.fromkeys(line.family for line in rows))
    cells_visible = [
        Row(f"{family}, {name}{kind}", checkpoint, "", [rows_found.get(x, Cell()) for x in places], sort)  # type: ignore[arg-type]
        for (family, name, kind, checkpoint, sort), rows_found in sorted(
            cells.items(), key=lambda pair: (order.index(pair[0][0]), names.index(pair[0][1]))
        )
    ]
    return Table([Column(f"epsilon {x:g}") for x in places], cells_visible, [])


def _gained(whole: Table, made: Sequence[Made], rows: dict[Line, list[Row]]) -> Table:
    """The table with what each line gains under transfer over the one before it of its family, paired by image."""
    place = next((place for place, column in enumerate(whole.columns) if column.whole), None)
    before: dict[str, Group] = {}
    for line_result in made:
        group = line_result.groups.get("selected")
        last = before.get(line_result.line.family)
        cell = Cell() if place is None or group is None or last is None else _gain(group, last, whole.columns[place])
        rows[line_result.line] = [
            dataclasses.replace(row, cells=[*row.cells, cell if row.group is group and group is not None else Cell()])
            for row in rows[line_result.line]
        ]
        before |= {line_result.line.family: group} if group is not None else {}
    return Table([*whole.columns, Column(GAIN)], [], [])


def _gain(group: Group, before: Group, column: Column) -> Cell:
    pair = [records_of(group_each, column) for group_each in (group, before)]
    if not all(pair):
        return Cell()
    interval = paired_interval(pair[0], pair[1], column.judged)
    return Cell(100 * interval.difference, low=100 * interval.low, high=100 * interval.high, n=len(pair[0]), gap=True)


def _inspected(made: Sequence[Made]) -> list[str]:
    """What `poise sanity` found of each run."""
    return [
        f"{line_result.line.label}, {run.path.name}: {said(verdict.findings)}"
        for line_result in made
        for run in line_result.runs
        for verdict in run.verdicts[:1]
    ]


def _untuned(made: Sequence[Made]) -> list[str]:
    """What it costs to take a choice over, once every line is there."""
    records = {
        family: {
            line_result.line.label.partition(", on ")[0]: line_result.groups["selected"].records
            for line_result in made
            if line_result.line.family == family and "selected" in line_result.groups
        }
        for family in ("source", "target")
    }
    if not records["target"] or any(
        line_result.line.family in records and not line_result.groups for line_result in made
    ):
        return []
    cost = untuned(records["source"], records["target"])
    return [
        f"Chosen on the source: {cost.chosen}; best on the target: {cost.best}, by {100 * cost.regret:.2f} points of"
        f" natural plus worst-case accuracy, where the worst choice would have cost {100 * cost.spread:.2f}."
    ]


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
    for cell, cell_printed in zip(ours.cells, paper.cells, strict=True):
        if cell.value is None or cell_printed.value is None:
            cells.append(Cell())
            continue
        low, high = (None if end is None else end - cell_printed.value for end in (cell.low, cell.high))
        cells.append(Cell(cell.value - cell_printed.value, low=low, high=high, gap=True))
    return Row(f"{ours.label}, difference", ours.checkpoint, ours.data, cells, "difference")
