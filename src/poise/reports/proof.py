"""What is proven: differences between methods by paired intervals, corrected for as many as are shown (Holm 1979).

comparisons(table(read_runs(["runs"])))                    # each method against the best other one
comparisons(table(read_runs(["runs"])), baseline="AT")     # each method against this one
comparisons(table(read_runs(["runs"])), baseline="all")    # all pairs
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from poise.core.errors import RunError, did_you_mean
from poise.reports.columns import Column, records_of, values_of
from poise.reports.statistics import Group, PairedInterval, answers, check_paired, interval_of
from poise.reports.tables import Table

LEVEL = 0.05
ALL = "all"
"""The baseline that asks for all pairs."""


@dataclass(frozen=True)
class Comparison:
    """Accuracy of a minus accuracy of b in one column, with the paired 95 % interval of this difference by itself."""

    a: str
    b: str
    column: str
    interval: PairedInterval
    p: float
    """Corrected by Holm's method for all comparisons that it was made with."""

    @property
    def proven(self) -> bool:
        """Whether the interval excludes zero and the corrected p is below .05: in all that is shown, at most once in
        twenty by chance.
        """
        return self.interval.excludes_zero and self.p < LEVEL


@dataclass(frozen=True)
class Proof:
    comparisons: list[Comparison]
    """In the order of the table's rows, then of its columns; all pairs once each, a above b in the table."""
    baseline: str | None
    """The one that was named, "all", or None: each method against the best other one of its column."""
    cautions: list[str]

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(comparison.column for comparison in self.comparisons))

    def matrix(self, column: str) -> dict[tuple[str, str], Comparison]:
        """{(a, b): a minus b} both ways, of all pairs that were compared in a column."""
        cells = {}
        for comparison in self.comparisons:
            if comparison.column == column:
                interval = comparison.interval
                back = replace(interval, difference=-interval.difference, low=-interval.high, high=-interval.low)
                cells[comparison.a, comparison.b] = comparison
                cells[comparison.b, comparison.a] = replace(comparison, a=comparison.b, b=comparison.a, interval=back)
        return cells


def comparisons(table: Table, baseline: str | None = None) -> Proof:
    """The comparisons of a table's first block, corrected together.

    baseline: a row's label; "all" for all pairs; by default each method is held against the best other one of its
    column.
    Raises: RunError for a baseline that is no row of the block.
    """
    rows = [row for row in table.rows if row.group is not None and row.block == table.rows[0].block]
    groups = {row.label: row.group for row in rows if row.group is not None}
    if baseline not in (None, ALL, *groups):
        raise RunError(
            f"baseline = {baseline!r}: must be {ALL!r} or one of"
            f" {', '.join(map(repr, groups))}{did_you_mean(str(baseline), groups)}"
        )
    result = [comparison for column in table.columns for comparison in _compared(groups, column, baseline)]
    order = {label: place for place, label in enumerate(groups)}
    labels = [column.label for column in table.columns]
    result.sort(key=lambda each: (order[each.a], order[each.b], labels.index(each.column)))
    return Proof(_corrected(result), baseline, _cautions(groups, result))


def _compared(groups: Mapping[str, Group], column: Column, baseline: str | None) -> list[Comparison]:
    """The comparisons of a column, but for those that were not measured in the same way in both."""
    accuracies = {name: values for name, group in groups.items() if (values := values_of(group, column))}
    records = {name: records_of(groups[name], column) for name in accuracies}
    right = functools.cache(lambda name: answers(records[name], column.judged))
    found = []
    for a, b in _pairs(accuracies, baseline):
        try:
            check_paired(records[a], records[b], column.judged)
            interval = interval_of(right(a), right(b))
        except RunError:
            continue
        found.append(Comparison(a, b, column.label, interval, interval.p))
    return found


def _pairs(accuracies: Mapping[str, Sequence[float]], baseline: str | None) -> list[tuple[str, str]]:
    """The pairs that are compared in a column, each once."""
    names = list(accuracies)
    if baseline == ALL:
        return [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
    if baseline is not None:
        return [(name, baseline) for name in names if name != baseline and baseline in names]
    means = {name: sum(values) / len(values) for name, values in accuracies.items()}
    pairs: list[tuple[str, str]] = []
    for name in names:
        rivals = [other for other in names if other != name]
        if rivals:
            best = max(rivals, key=lambda other: means[other])
            pairs += [(name, best)] if (best, name) not in pairs else []
    return pairs


def _corrected(found: Sequence[Comparison]) -> list[Comparison]:
    """Holm's step-down method: the smallest p times their number, the next times one less, and none smaller than the
    one before.
    """
    ps, least = {}, 0.0
    for rank, place in enumerate(sorted(range(len(found)), key=lambda place: found[place].p)):
        least = max(least, min(1.0, found[place].p * (len(found) - rank)))
        ps[place] = least
    return [replace(comparison, p=ps[place]) for place, comparison in enumerate(found)]


def _cautions(groups: dict[str, Group], found: Sequence[Comparison]) -> list[str]:
    alone = [
        name
        for name, group in groups.items()
        if len(group.records) == 1 and any(name in (comparison.a, comparison.b) for comparison in found)
    ]
    cautions = []
    if alone:
        comparison = " each" * (len(alone) > 1)
        cautions.append(
            f"{' and '.join(alone)}: one run{comparison}, so this speaks of these trained weights, not of other seeds."
        )
    if len(found) > 1:
        cautions.append(
            f"Corrected for {len(found)} comparisons by Holm's method; each interval is of its own difference alone."
        )
    return cautions
