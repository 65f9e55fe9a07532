"""Two evaluations side by side: settings that differ, accuracies with paired intervals, and examples whose verdict
changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from poise.core.errors import RunError
from poise.core.printing import printable
from poise.core.records import EvaluationRecord
from poise.core.wording import flatten
from poise.reports.statistics import NATURAL, WORST, PairedInterval, correct, examples_of, paired_interval
from poise.reports.terminal import Numbers

if TYPE_CHECKING:
    from rich.console import Group as RichGroup

_COMPARED = ("model", "checkpoint", "model_digest", "seed", "evaluation_seed", "dataset", "split", "protocol", "device")


@dataclass(frozen=True)
class ColumnDifference:
    """Accuracies in [0, 1]; None where a record lacks the attack. `paired` is a minus b, None where they cannot be
    paired.
    """

    column: str
    a: float | None
    b: float | None
    paired: PairedInterval | None
    only_a: int | None
    """Examples that a gets right and b gets wrong; None where the examples are not the same or an attack is absent."""
    only_b: int | None

    @property
    def changed(self) -> int | None:
        """Number of examples whose verdict changed."""
        return None if self.only_a is None or self.only_b is None else self.only_a + self.only_b


@dataclass(frozen=True)
class Difference:
    a: EvaluationRecord
    b: EvaluationRecord
    settings: dict[str, tuple[str, str]]
    """{setting: (in a, in b)} for those that differ; "-" where absent."""
    columns: list[ColumnDifference]
    same_examples: bool


def diff(
    record_a: EvaluationRecord,
    record_b: EvaluationRecord,
    experiment_a: Mapping[str, Any] | None = None,
    experiment_b: Mapping[str, Any] | None = None,
) -> Difference:
    """Compare two records and, where given, the settings (`experiment.json`) of the runs they come from."""
    same = examples_of(record_a) == examples_of(record_b)
    names = dict.fromkeys([*record_a.attack_names, *record_b.attack_names])
    columns = [NATURAL, *names, *([WORST] if record_a.attacks and record_b.attacks else [])]
    described_a, described_b = _described(record_a, experiment_a), _described(record_b, experiment_b)
    keys = dict.fromkeys([*described_a, *described_b])
    values = {key: (described_a.get(key, "-"), described_b.get(key, "-")) for key in keys}
    return Difference(
        record_a,
        record_b,
        {key: pair for key, pair in values.items() if pair[0] != pair[1]},
        [_column(record_a, record_b, column, same) for column in columns],
        same,
    )


def _described(record: EvaluationRecord, experiment: Mapping[str, Any] | None) -> dict[str, str]:
    flat = {name: str(getattr(record, name)) for name in _COMPARED}
    flat["images"] = str(record.count)
    flat |= {f"versions.{name}": str(version) for name, version in record.versions.items()}
    for attack in record.attacks:
        flat |= flatten(attack.settings, f"attack {attack.name}")
    return flat | (flatten(experiment, "experiment") if experiment else {})


def _column(a: EvaluationRecord, b: EvaluationRecord, column: str, same: bool) -> ColumnDifference:
    flags = [_flags(record, column) for record in (a, b)]
    shares = [sum(flag) / len(flag) if flag else None for flag in flags]
    if not same or not flags[0] or not flags[1]:
        return ColumnDifference(column, shares[0], shares[1], None, None, None)
    pairs = list(zip(flags[0], flags[1], strict=True))
    try:
        interval = paired_interval([a], [b], column)
    except RunError:  # the attack has other settings; the counts still say what changed
        interval = None
    only_a, only_b = sum(x and not y for x, y in pairs), sum(y and not x for x, y in pairs)
    return ColumnDifference(column, shares[0], shares[1], interval, only_a, only_b)


def _flags(record: EvaluationRecord, column: str) -> list[bool]:
    try:
        return correct(record, column)
    except RunError:
        return []


def to_terminal(difference: Difference) -> RichGroup:
    """The difference as rich tables."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    names = ("a", "b", "a - b", "95 % interval, paired", "only a right", "only b right", "changed")
    accuracies = Numbers(("",), names, title="accuracy in percent")
    for column in difference.columns:
        paired_value = column.paired
        gap = "-" if column.a is None or column.b is None else f"{100 * (column.a - column.b):+.2f}"
        interval = f"{100 * paired_value.low:+.2f} to {100 * paired_value.high:+.2f}" if paired_value else "-"
        style = "bold" if paired_value and paired_value.excludes_zero else ""
        counts = ["-" if count is None else str(count) for count in (column.only_a, column.only_b, column.changed)]
        numbers = [
            Text(_percent(column.a)),
            Text(_percent(column.b)),
            Text(gap),
            Text(interval, style=style),
            *map(Text, counts),
        ]
        accuracies.lines.append(((column.column,), numbers, None))
    settings = Table(box=box.SIMPLE_HEAD, title="settings that differ", title_justify="left")
    for name in ("setting", "a", "b"):
        settings.add_column(name, overflow="fold")
    for name, (a, b) in difference.settings.items():
        settings.add_row(*(Text(printable(text)) for text in (name, a, b)))
    parts: list[Any] = [accuracies, settings if difference.settings else Text("no setting differs")]
    if not difference.same_examples:
        parts.insert(1, Text("The records are not of the same images, so nothing is paired."))
    return Group(*parts)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"
