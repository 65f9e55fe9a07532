"""The page of a cross-validation: what was measured, and each claim beside what was seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from experiments.suites import AUTOATTACK, Claim, Suite
from poise.core.records import EvaluationRecord
from poise.reports import paired_interval
from poise.reports.experts import COLUMNS, experts_cells
from poise.reports.statistics import NATURAL, SUM, WORST, correct

Found = dict[str, list[EvaluationRecord]]
"""By recipe, one record per seed, of all tested images."""


@dataclass(frozen=True)
class Difference:
    """In points, with its paired 95 % interval, over so many seeds."""

    points: float
    low: float
    high: float
    seeds: int

    @property
    def seen(self) -> str:
        """Whether a is above b; one seed judges these networks only."""
        word = "yes" if self.low > 0 else "the opposite" if self.high < 0 else UNDECIDED
        return word if self.seeds > 1 else f"{word} (one seed)"


UNDECIDED = "not told apart"


@dataclass(frozen=True)
class Table:
    """What was measured; a column is looked up in the records that have it."""

    main: Found
    second: Found = field(default_factory=dict)
    """Under the suite's second protocol."""

    def looked_up(self, column: str) -> tuple[Found, str]:
        """The records that have a column, and its name there."""
        return (self.second, WORST) if column == AUTOATTACK and self.second else (self.main, column)

    def records(self, recipe: str, column: str) -> list[EvaluationRecord]:
        found, name = self.looked_up(column)
        there = found.get(recipe, [])
        return there if name in (NATURAL, WORST, SUM) else [record for record in there if name in record.attack_names]

    def common(self, recipes: Iterable[str], column: str) -> dict[str, list[EvaluationRecord]]:
        """By recipe that has the column at all, its records of the seeds that all of these have."""
        there = {recipe: records for recipe in recipes if (records := self.records(recipe, column))}
        seeds = [{record.seed for record in records} for records in there.values()]
        shared = set.intersection(*seeds) if seeds else set()
        return {recipe: [record for record in records if record.seed in shared] for recipe, records in there.items()}

    def mean(self, records: Sequence[EvaluationRecord], column: str) -> float:
        """In percent, over seeds."""
        parts = (NATURAL, WORST) if column == SUM else (self.looked_up(column)[1],)
        return sum(100 * fmean(fmean(correct(record, part)) for record in records) for part in parts)

    def difference(self, a: str, b: str, column: str) -> Difference | None:
        """a - b over the seeds that both have; None where there is none."""
        shared = self.common((a, b), column)
        return self.between(shared[a], shared[b], column) if len(shared) == 2 and shared[a] else None

    def between(self, a: Sequence[EvaluationRecord], b: Sequence[EvaluationRecord], column: str) -> Difference:
        """a - b, of as many seeds each."""
        found = paired_interval(a, b, self.looked_up(column)[1])
        return Difference(100 * found.difference, 100 * found.low, 100 * found.high, len(a))


def page(chosen: Suite, measured: Table) -> list[str]:
    """A row per recipe, what was not run, the best of every column, the experts inside, the verdict on every claim, and
    every trend.
    """
    found = measured.main
    columns = [
        NATURAL,
        WORST,
        *chosen.columns,
        *([AUTOATTACK] if measured.records(chosen.baseline, AUTOATTACK) else []),
    ]
    judged = [NATURAL, *columns[-1:]] if AUTOATTACK in columns else [NATURAL, WORST]
    names = ["recipe", "seeds", *columns, *(f"{column} minus {chosen.baseline}" for column in judged)]
    lines = [f"| {' | '.join(names)} |", "|---" + "|---:" * (len(columns) + 1) + "|---|---|"]
    for recipe, records in found.items():
        cells = [recipe, str(len(records))]
        shown = [measured.records(recipe, column) for column in columns]
        cells += [
            f"{measured.mean(there, column):.2f}" if there else "–"
            for there, column in zip(shown, columns, strict=True)
        ]
        cells += [
            "" if recipe == chosen.baseline else interval(measured.difference(recipe, chosen.baseline, column))
            for column in judged
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if measured.second and chosen.second is not None:
        images = next(iter(measured.second.values()))[0].count
        lines += ["", f"The column {AUTOATTACK} is of {chosen.second.name}: {images} images a seed."]
    missing = [recipe for recipe in chosen.recipes if recipe not in found]
    if missing:
        lines += ["", f"Not run: {', '.join(missing)}."]
    lines += ["", best(measured, columns), *experts(chosen, measured)]
    return [*lines, "", *verdicts(chosen.claims, measured), *trends(chosen, measured)]


def best(measured: Table, columns: Sequence[str]) -> str:
    """Which recipe has the largest mean in each column, over the seeds that all have."""
    winners = []
    for column in columns:
        shared = {recipe: records for recipe, records in measured.common(measured.main, column).items() if records}
        means = {recipe: measured.mean(records, column) for recipe, records in shared.items()}
        if means:
            winner = max(means, key=means.__getitem__)
            winners.append(f"{column} {winner} ({means[winner]:.2f}, {len(shared[winner])} seed(s))")
    return f"The largest in each column, over the seeds that all have: {', '.join(winners)}."


def experts(chosen: Suite, measured: Table) -> list[str]:
    """What the records say of the experts inside each network, in percent; nothing where the suite asks for nothing."""
    lines: list[str] = []
    fewest = []
    for name in chosen.experts:
        fooled: dict[str, float] = {}
        for recipe, records in measured.main.items():
            notes = [_notes(record, name).get("experts") for record in records]
            if inside := [each for each in notes if each is not None]:
                lines.append(f"| {' | '.join([name, recipe, *experts_cells(inside)])} |")
                fooled[recipe] = 100 * fmean(each["overlap"] for each in inside)
        if fooled:
            fewest.append(f"{name} {min(fooled, key=fooled.__getitem__)} ({min(fooled.values()):.2f})")
    if not lines:
        return []
    heads = ["images", "recipe", *COLUMNS[1:]]
    said = (
        "The experts inside, in percent. All fooled: no choice among the experts could be right; missed: a right one"
        " was not chosen."
    )
    smallest = f"The fewest images on which all experts are fooled: {', '.join(fewest)}."
    return [
        "",
        said,
        "",
        f"| {' | '.join(heads)} |",
        "|---|---" + "|---:" * (len(heads) - 2) + "|",
        *lines,
        "",
        smallest,
    ]


def _notes(record: EvaluationRecord, name: str) -> Mapping[str, Any]:
    if name == NATURAL:
        return record.notes
    return next((attack.notes for attack in record.attacks if attack.name == name), {})


def interval(difference: Difference | None) -> str:
    return "–" if difference is None else f"{difference.points:+.2f} ({difference.low:+.2f} to {difference.high:+.2f})"


def verdicts(claims: Sequence[Claim], measured: Table) -> list[str]:
    """Each claimed ordering with what was seen: it holds, the opposite holds, or neither (the interval includes
    zero).
    """
    lines = ["| claimed | column | source | seen | 95 % interval |", "|---|---|---|---|---|"] if claims else []
    for claim in claims:
        difference = measured.difference(claim.better, claim.worse, claim.column)
        if difference is not None:
            ordering = f"{claim.better} above {claim.worse}"
            lines.append(
                f"| {ordering} | {claim.column} | {claim.source} | {difference.seen} | {interval(difference)} |"
            )
    return lines


def trends(chosen: Suite, measured: Table) -> list[str]:
    """Each setting over the seeds that all its recipes have: what is claimed, the values seen in the setting's order,
    the best of them.
    """
    names = ["setting", "claimed", "source", "column", "seeds", "seen", "best", "not told apart from the best"]
    lines = ["", f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"] if chosen.trends else []
    for trend in chosen.trends:
        shared = {
            recipe: records for recipe, records in measured.common(trend.recipes, trend.column).items() if records
        }
        if len(shared) < 2:
            continue
        means = {recipe: measured.mean(records, trend.column) for recipe, records in shared.items()}
        best = max(means, key=means.__getitem__)
        behind = {
            recipe: measured.between(shared[best], shared[recipe], trend.column) for recipe in means if recipe != best
        }
        level = ", ".join(recipe for recipe, difference in behind.items() if difference.low <= 0) or "–"
        seen = ", ".join(f"{recipe} {mean:.2f}" for recipe, mean in means.items())
        seeds = str(len(shared[best]))
        lines.append(
            f"| {' | '.join([trend.name, trend.claim or '–', trend.source, trend.column, seeds, seen, best, level])} |"
        )
    return lines
