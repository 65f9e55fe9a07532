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
    read = {(line, held): _read(plan, line, held) for line in _lines(plan) for held in (False, True)}
    runs = list({run.path: run for runs in read.values() for run in runs}.values())
    of_scale = SAID[plan.scale] if item.lines else ""
    title = f"{item.title} ({item.paper})" + (f": {of_scale}" if of_scale else "")
    measured = _measured(table(runs, "both")) if runs else Table([Column(NATURAL)], [], [])
    made = [
        Made(line, read[line, False], _groups(measured, read[line, False]) | _held_out(measured, read[line, True]))
        for line in _lines(plan)
    ]
    papers = {each.line: papers_of(item, each.line) if printing else [] for each in made}
    beside = [(next(iter(each.groups.values()), NOBODY), papers[each.line]) for each in made if papers[each.line]]
    columns = _columns(measured.columns, beside) + ([Column(MINUTES)] if item.minutes else [])
    rows = {each.line: _rows(item, each, papers[each.line], measured, columns) for each in made}
    shown = _gained(Table(columns, [], []), made, rows) if item.gains else Table(columns, [], [])
    shown = _across(item.across, shown, rows) if item.across and printing else shown
    every = shown.rows or [row for each in rows.values() for row in each]
    there = [place for place, _ in enumerate(shown.columns) if any(row.cells[place].value is not None for row in every)]
    kept = [dataclasses.replace(row, cells=[row.cells[place] for place in there]) for row in every]
    notes = [*(note for note in measured.notes if not note.startswith("Published in"))]
    notes += notes_of(paper for found in papers.values() for paper in found)
    if any(row.kind == "difference" for row in kept):
        notes.append(
            "Differences are ours minus the paper's; the interval is that of ours alone, over runs, or over images of"
            " one run."
        )
    notes += _inspected(made) if item.sanity else []
    notes += _untuned(made) if item.untuned else []
    return Sheet(title, Table([shown.columns[place] for place in there], kept, notes), made, measured)


def _read(plan: Plan, line: Line, held_out: bool) -> list[Run]:
    """The line's runs that are evaluated."""
    folders = dict.fromkeys(work.folder for work in plan.works if work.line == line and work.held_out == held_out)
    return [read_runs(folder)[0] for folder in folders if any((folder / "records").glob("*.json"))]


def _held_out(measured: Table, runs: Sequence[Run]) -> dict[str, Group]:
    chosen = _groups(measured, runs).get("selected")
    return {} if chosen is None else {"held-out": chosen}


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


def papers_of(item: Item, line: Line) -> list[Paper]:
    """What the item's table prints of the line, then what another version of the paper does: the recipe's row of that
    table, of several the one that the line names; none of a recipe that the line changes.
    """
    name, *changed = line.recipe.split()
    made = experiment(name)
    rows = [row for row in made.rows if item.table and row.table.startswith(item.table) and row.columns]
    row = next((row for row in rows if row.row == line.row), rows[0] if rows and not line.row else None)
    printed = [line.instead or (None if changed else row), line.beside]
    return [paper_in(row.told(made.protocol)) for row in printed if row is not None]


def _rows(item: Item, made: Made, papers: Sequence[Paper], measured: Table, columns: Sequence[Column]) -> list[Row]:
    """The papers' rows, ours of each checkpoint, and what lies between the first paper's and the selected one."""
    rows = []
    for place, paper in enumerate(papers):
        cells = paper_cells(paper, columns, next(iter(made.groups.values()), NOBODY))
        if item.minutes and made.line.minutes is not None:
            cells[-1] = Cell(made.line.minutes, n=paper.runs, detail="as printed in the paper, not measured here")
        which = f" ({paper.table.partition(',')[0]})" if place else ""
        rows.append(Row(f"{made.line.label}, paper{which}", "selected", "", cells, "published", source=paper.label))
    for checkpoint, group in made.groups.items():
        own = next(row for row in measured.rows if row.group is group)
        cells = [*own.cells, *([Cell()] * (len(columns) - len(own.cells)))]
        if item.minutes:
            cells[-1] = _minutes(group)
        rows.append(dataclasses.replace(own, label=made.line.label, checkpoint=checkpoint, cells=cells))
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
    for line, own in rows.items():
        for row in own:
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
    shown = [
        Row(f"{family}, {name}{kind}", checkpoint, "", [found.get(x, Cell()) for x in places], sort)  # type: ignore[arg-type]
        for (family, name, kind, checkpoint, sort), found in sorted(
            cells.items(), key=lambda pair: (order.index(pair[0][0]), names.index(pair[0][1]))
        )
    ]
    return Table([Column(f"epsilon {x:g}") for x in places], shown, [])


def _gained(whole: Table, made: Sequence[Made], rows: dict[Line, list[Row]]) -> Table:
    """The table with what each line gains under transfer over the one before it of its family, paired by image."""
    place = next((place for place, column in enumerate(whole.columns) if column.whole), None)
    before: dict[str, Group] = {}
    for each in made:
        group = each.groups.get("selected")
        last = before.get(each.line.family)
        cell = Cell() if place is None or group is None or last is None else _gain(group, last, whole.columns[place])
        rows[each.line] = [
            dataclasses.replace(row, cells=[*row.cells, cell if row.group is group and group is not None else Cell()])
            for row in rows[each.line]
        ]
        before |= {each.line.family: group} if group is not None else {}
    return Table([*whole.columns, Column(GAIN)], [], [])


def _gain(group: Group, before: Group, column: Column) -> Cell:
    pair = [records_of(each, column) for each in (group, before)]
    if not all(pair):
        return Cell()
    found = paired_interval(pair[0], pair[1], column.judged)
    return Cell(100 * found.difference, low=100 * found.low, high=100 * found.high, n=len(pair[0]), gap=True)


def _inspected(made: Sequence[Made]) -> list[str]:
    """What `poise sanity` found of each run."""
    return [
        f"{each.line.label}, {run.path.name}: {said(verdict.findings)}"
        for each in made
        for run in each.runs
        for verdict in run.verdicts[:1]
    ]


def _untuned(made: Sequence[Made]) -> list[str]:
    """What it costs to take a choice over, once every line is there."""
    records = {
        family: {
            each.line.label.partition(", on ")[0]: each.groups["selected"].records
            for each in made
            if each.line.family == family and "selected" in each.groups
        }
        for family in ("source", "target")
    }
    if not records["target"] or any(each.line.family in records and not each.groups for each in made):
        return []
    found = untuned(records["source"], records["target"])
    return [
        f"Chosen on the source: {found.chosen}; best on the target: {found.best}, by {100 * found.regret:.2f} points of"
        f" natural plus worst-case accuracy, where the worst choice would have cost {100 * found.spread:.2f}."
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
    for own, printed in zip(ours.cells, paper.cells, strict=True):
        if own.value is None or printed.value is None:
            cells.append(Cell())
            continue
        low, high = (None if end is None else end - printed.value for end in (own.low, own.high))
        cells.append(Cell(own.value - printed.value, low=low, high=high, gap=True))
    return Row(f"{ours.label}, difference", ours.checkpoint, ours.data, cells, "difference")
