"""Transfer between networks: the surrogate x target matrix of records, as a table and as a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from poise.core.errors import RunError
from poise.core.files import write_text
from poise.core.records import AttackRecord, EvaluationRecord
from poise.reports.figures.series import Field, Panel
from poise.reports.figures.still import write_still
from poise.reports.formats import escape_markdown
from poise.reports.statistics import NATURAL, TRANSFERRED
from poise.reports.terminal import Line, Numbers

ALL = "all surrogates"


@dataclass(frozen=True)
class Matrix:
    """Accuracy in [0, 1] of targets (rows) under the attacks of surrogates (columns).

    A cell of a surrogate is all-or-nothing: right under every attack made on it; "all surrogates" is right under every
    attack on every one of them; "natural" is on the same images as they are. A column of one attack is that attack
    alone.
    """

    targets: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[float, ...], ...]


def matrix(records: Sequence[EvaluationRecord], every_attack: bool = False) -> Matrix:
    """The matrix of records of different targets under the same transferred attacks.

    every_attack: a column for each attack on each surrogate, in place of one for each surrogate.
    Raises: RunError where a record has no transferred attack, or the records' attacks or images differ.
    """
    attacks_shown = [
        [attack for attack in record.attacks if attack.settings.get("type") == TRANSFERRED] for record in records
    ]
    if not records or not all(attacks_shown):
        raise RunError("the matrix needs records of attacks made on surrogates; make them with: poise transfer")
    sets = [[(attack.name, attack.settings.get("digest")) for attack in row] for row in attacks_shown]
    if any(row != sets[0] for row in sets) or any(record.labels != records[0].labels for record in records):
        raise RunError(
            "the records were made by different attacks or on different images; evaluate all targets with the same sets"
        )
    columns = _columns(attacks_shown[0], every_attack)
    cells = [
        (
            record.natural_accuracy,
            *(_all_right(record, names) for names in columns.values()),
            _all_right(record, [a.name for a in row]),
        )
        for record, row in zip(records, attacks_shown, strict=True)
    ]
    return Matrix(_told_apart(records), (NATURAL, *columns, ALL), tuple(cells))


def _columns(attacks: Sequence[AttackRecord], every_attack: bool) -> dict[str, list[str]]:
    """{column: names of its attacks}."""
    columns: dict[str, list[str]] = {}
    for attack in attacks:
        columns.setdefault(attack.name if every_attack else str(attack.settings["surrogate"]), []).append(attack.name)
    return columns


def _all_right(record: EvaluationRecord, names: Sequence[str]) -> float:
    """Share of the examples that are right under all of these attacks."""
    rows = zip(*(record.correct_under(name) for name in names), strict=True)
    return sum(map(all, rows)) / record.count


def _told_apart(records: Sequence[EvaluationRecord]) -> tuple[str, ...]:
    names = [record.model for record in records]
    runs = [f"{record.model} ({record.run or record.seed})" for record in records]
    whole = [
        f"{run[:-1]} of {record.group})" if runs.count(run) > 1 else run
        for run, record in zip(runs, records, strict=True)
    ]
    return tuple(name if names.count(name) == 1 else long for name, long in zip(names, whole, strict=True))


def matrix_markdown(shown: Matrix) -> str:
    """GitHub's Markdown, in percent."""
    lines = [
        "| target | " + " | ".join(map(escape_markdown, shown.columns)) + " |",
        "| --- |" + " ---: |" * len(shown.columns),
    ]
    for target, row in zip(shown.targets, shown.cells, strict=True):
        lines.append(f"| {escape_markdown(target)} | " + " | ".join(f"{100 * value:.2f}" for value in row) + " |")
    return "\n".join(lines) + "\n"


def matrix_terminal(shown: Matrix) -> Numbers:
    """For rich's Console.print, in percent."""
    from rich.text import Text

    rows = zip(shown.targets, shown.cells, strict=True)
    lines: list[Line] = [((target,), [Text(f"{100 * value:.2f}") for value in row], None) for target, row in rows]
    return Numbers(
        ("target",), shown.columns, lines, caption="accuracy in percent, all-or-nothing over a column's attacks"
    )


def panel(shown: Matrix) -> Panel:
    """The matrix as a picture's numbers, in percent."""
    cells = tuple(tuple(100 * value for value in row) for row in shown.cells)
    places = tuple(tuple(float(k) for k in range(len(names))) for names in (shown.columns, shown.targets))
    field = Field(places[0], places[1], cells, columns=shown.columns, rows=shown.targets)
    return Panel("accuracy of each target under the attacks made on each surrogate", "surrogate", "target", field=field)


def write_heatmap(shown: Matrix, out: Path) -> Path:
    """Write the heat map as a self-contained SVG that follows the viewer's light or dark scheme: the darker the more of
    the images a target gets right; percent inside, full names on hovering.
    """
    return write_text(out, write_still("matrix", panel(shown)))
