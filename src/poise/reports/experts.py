"""What records say of the experts inside a network: a table beside that of accuracies, in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from poise.reports.columns import Column, records_of
from poise.reports.formats import escape_markdown
from poise.reports.statistics import NATURAL, Group
from poise.reports.tables import Table
from poise.reports.terminal import Line, Numbers

COLUMNS = (
    "images",
    "whole",
    "best expert",
    "all fooled",
    "choice is best",
    "right one missed",
    "experts",
    "shares won",
)
"""whole, best expert (the one of lowest loss), each expert: accuracy; all fooled: vulnerability overlap; shares won:
chosen how often.
"""


@dataclass(frozen=True)
class ExpertsRow:
    """One method on natural images or on those of one attack; `cells` has a text for each of COLUMNS, "-" where nothing
    is chosen.
    """

    label: str
    checkpoint: str
    cells: tuple[str, ...]


def experts_rows(table: Table) -> list[ExpertsRow]:
    """A row for each group and kind of images of which its records hold measures; means over the group's runs."""
    labels = table.labels
    rows = []
    for group in table.groups:
        for column in table.columns:
            if measurements := _measured(group, column):
                rows.append(
                    ExpertsRow(labels[group.key], group.checkpoint, (column.label, *experts_cells(measurements)))
                )
    return rows


def _measured(group: Group, column: Column) -> list[Mapping[str, Any]]:
    """The measures of every record of the group on natural images or on those of the column's attack."""
    notes: list[Mapping[str, Any]] = []
    if column.attack is not None:
        notes = [record.attacks[0].notes for record in records_of(group, column)]
    elif column.label == NATURAL:
        notes = [record.notes for record in group.records]
    measurements = [note.get("experts") for note in notes]
    return [measures for measures in measurements if isinstance(measures, Mapping) and measures.get("members")]


def experts_cells(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """A text for each of COLUMNS but the first: means over the measures of several runs, in percent.

    Experts of different runs are not the same ones, so theirs are sorted, largest first, before the mean is taken."""
    choices = [measures["choice"] for measures in found if measures.get("choice")]
    accuracies = [[measures[name] for measures in found] for name in ("accuracy", "oracle", "overlap")]
    choice_values = [[choice[name] for choice in choices] for name in ("best", "missed")] if choices else []
    return [
        *_percent(*accuracies),
        *(_percent(*choice_values) if choices else ["-", "-"]),
        " ".join(_percent(*_ranked([measures["members"] for measures in found]))),
        " ".join(_percent(*_ranked([choice["won"] for choice in choices]))) if choices else "-",
    ]


def _ranked(lists: Sequence[Sequence[float]]) -> list[list[float]]:
    """For each rank, the values of all runs; runs with fewer experts end earlier."""
    lists_ordered = [sorted(values, reverse=True) for values in lists]
    return [
        [values[rank] for values in lists_ordered if rank < len(values)] for rank in range(max(map(len, lists_ordered)))
    ]


def _percent(*columns: Sequence[float]) -> list[str]:
    return [f"{100 * sum(values) / len(values):.2f}" for values in columns]


def experts_markdown(table: Table) -> str:
    """GitHub's Markdown; empty where no network has experts."""
    rows = experts_rows(table)
    if not rows:
        return ""
    lines = [
        "| method | checkpoint | " + " | ".join(COLUMNS) + " |",
        "| --- | --- | --- |" + " ---: |" * (len(COLUMNS) - 1),
    ]
    lines += ["| " + " | ".join(map(escape_markdown, (row.label, row.checkpoint, *row.cells))) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def experts_terminal(table: Table) -> Numbers | None:
    """For rich's Console.print; None where no network has experts."""
    from rich.text import Text

    rows = experts_rows(table)
    lines: list[Line] = [((row.label, row.cells[0]), [Text(cell) for cell in row.cells[1:]], None) for row in rows]
    return Numbers(("method", COLUMNS[0]), COLUMNS[1:], lines, caption="experts, in percent") if rows else None
