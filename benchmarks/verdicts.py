"""The page of a cross-validation: what was measured, and each claim beside what was seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from benchmarks.suites import AUTOATTACK, Claim, Suite
from poise.core.records import EvaluationRecord
from poise.reports import paired_interval
from poise.reports.experts import COLUMNS, experts_cells
from poise.reports.statistics import NATURAL, SUM, WORST, correct

Found = dict[str, list[EvaluationRecord]]
"""By recipe, one record per seed, of all tested images."""


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

    def mean(self, recipe: str, column: str) -> float:
        """In percent, over seeds."""
        parts = (NATURAL, WORST) if column == SUM else (self.looked_up(column)[1],)
        return sum(100 * fmean(fmean(correct(record, part)) for record in self.records(recipe, column)) for part in parts)

    def difference(self, a: str, b: str, column: str) -> tuple[float, float, float] | None:
        """a - b in points over the seeds that both have, and its paired 95 % interval; None where one has none."""
        ours, theirs = self.records(a, column), self.records(b, column)
        pairs = min(len(ours), len(theirs))
        if not pairs:
            return None
        found = paired_interval(ours[:pairs], theirs[:pairs], self.looked_up(column)[1])
        return 100 * found.difference, 100 * found.low, 100 * found.high


def page(chosen: Suite, measured: Table) -> list[str]:
    """A row per recipe, what was not run, the best of every column, the experts inside, the verdict on every claim, and every trend."""
    found = measured.main
    columns = [NATURAL, WORST, *chosen.columns, *([AUTOATTACK] if measured.records(chosen.baseline, AUTOATTACK) else [])]
    judged = [NATURAL, *columns[-1:]] if AUTOATTACK in columns else [NATURAL, WORST]
    names = ["recipe", "seeds", *columns, *(f"{column} minus {chosen.baseline}" for column in judged)]
    lines = [f"| {' | '.join(names)} |", "|---" + "|---:" * (len(columns) + 1) + "|---|---|"]
    for recipe, records in found.items():
        cells = [recipe, str(len(records))]
        cells += [f"{measured.mean(recipe, column):.2f}" if measured.records(recipe, column) else "–" for column in columns]
        cells += ["" if recipe == chosen.baseline else interval(measured.difference(recipe, chosen.baseline, column)) for column in judged]
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
    """Which recipe has the largest mean in each column."""
    winners = []
    for column in columns:
        means = {recipe: measured.mean(recipe, column) for recipe in measured.main if measured.records(recipe, column)}
        winner = max(means, key=means.__getitem__)
        winners.append(f"{column} {winner} ({means[winner]:.2f})")
    return f"The largest in each column: {', '.join(winners)}."


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
    said = "The experts inside, in percent. All fooled: no choice among the experts could be right; missed: a right one was not chosen."
    smallest = f"The fewest images on which all experts are fooled: {', '.join(fewest)}."
    return ["", said, "", f"| {' | '.join(heads)} |", "|---|---" + "|---:" * (len(heads) - 2) + "|", *lines, "", smallest]


def _notes(record: EvaluationRecord, name: str) -> Mapping[str, Any]:
    if name == NATURAL:
        return record.notes
    return next((attack.notes for attack in record.attacks if attack.name == name), {})


def interval(difference: tuple[float, float, float] | None) -> str:
    return "–" if difference is None else "{:+.2f} ({:+.2f} to {:+.2f})".format(*difference)


def verdicts(claims: Sequence[Claim], measured: Table) -> list[str]:
    """Each claimed ordering with what was seen: it holds, the opposite holds, or neither (the interval includes zero)."""
    lines = ["| claimed | column | source | seen | 95 % interval |", "|---|---|---|---|---|"] if claims else []
    for claim in claims:
        difference = measured.difference(claim.better, claim.worse, claim.column)
        if difference is not None:
            _, low, high = difference
            seen = "yes" if low > 0 else "the opposite" if high < 0 else "no difference"
            ordering = f"{claim.better} above {claim.worse}"
            lines.append(f"| {ordering} | {claim.column} | {claim.source} | {seen} | {interval(difference)} |")
    return lines


def trends(chosen: Suite, measured: Table) -> list[str]:
    """Each setting: what is claimed, the values seen in the setting's order, and the best against the baseline."""
    names = ["setting", "claimed", "source", "column", "seen", "best", f"best minus {chosen.baseline}"]
    lines = ["", f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"] if chosen.trends else []
    for trend in chosen.trends:
        there = [recipe for recipe in trend.recipes if measured.records(recipe, trend.column)]
        if len(there) < 2:
            continue
        best = max(there, key=lambda recipe: measured.mean(recipe, trend.column))
        seen = ", ".join(f"{recipe} {measured.mean(recipe, trend.column):.2f}" for recipe in there)
        over = "" if best == chosen.baseline else interval(measured.difference(best, chosen.baseline, trend.column))
        lines.append(f"| {' | '.join([trend.name, trend.claim or '–', trend.source, trend.column, seen, best, over])} |")
    return lines
