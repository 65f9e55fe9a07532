"""The columns of the table of results, and what a group of runs has in each: natural accuracy, attacks, whole protocols, worst case."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from poise.core.records import AttackRecord, EvaluationRecord
from poise.reports.statistics import CORRUPTED, NATURAL, WORST, AttackKey, Group, key_of, settings_key
from poise.reports.wording import flatten


@dataclass(frozen=True)
class Column:
    """`attack` and `settings` are None for "natural", "worst case", whole protocols and columns that only a paper has."""

    label: str
    attack: str | None = None
    settings: dict[str, Any] | None = field(default=None, hash=False)
    whole: frozenset[AttackKey] = frozenset()
    """The attacks of a protocol of images made elsewhere: the column is the worst case over them."""
    within: str | None = None
    """For a worst case: over the attacks within these threats only, where a row has attacks within others too."""

    @property
    def worst(self) -> bool:
        """Whether this is a worst case over all attacks, or over all those within its threats."""
        return self.attack is None and (self.within is not None or self.label == WORST)

    @property
    def judged(self) -> str:
        """What `paired_interval` is to judge in the records that `records_of` gives."""
        return self.attack or (WORST if self.worst or self.whole else self.label)

    def of(self, record: EvaluationRecord) -> AttackRecord | None:
        """The record's attack of this name with these settings."""
        wanted = settings_key(self.settings or {})
        return next((a for a in record.attacks if a.name == self.attack and settings_key(a.settings) == wanted), None)


@dataclass(frozen=True)
class Cell:
    """One accuracy in percent; `value` is None where it was not measured."""

    value: float | None = None
    spread: float | None = None
    """Sample standard deviation over the runs, or the paper's printed plus-minus."""
    n: int = 0
    detail: str = ""
    """The interval, in words."""
    low: float | None = None
    high: float | None = None
    mark: Literal["", "best", "second"] = ""

    @property
    def text(self) -> str:
        """`84.32`, `84.32 ± 0.21 (3)` with the number of runs, or `-`."""
        if self.value is None:
            return "-"
        spread = "" if self.spread is None else f" ± {self.spread:.2f}"
        return f"{self.value:.2f}{spread}" + (f" ({self.n})" if self.n > 1 else "")


def columns_of(groups: Sequence[Group]) -> list[Column]:
    found: dict[AttackKey, AttackRecord] = {}
    for group in groups:
        for record in group.records:
            for attack in record.attacks:
                found.setdefault(key_of(attack), attack)
    names = [name for name, _ in found]
    attacks = []
    for attack in found.values():
        same = [other.settings for other in found.values() if other.name == attack.name]
        extra = "" if names.count(attack.name) == 1 else f" [{_told_apart(attack.settings, same)}]"
        attacks.append(Column(attack.name + extra, attack.name, attack.settings))
    wholes = dict.fromkeys((name, whole) for group in groups for name, whole in group.transferred)
    labels = [name for name, _ in wholes]
    transfers = [
        Column(name if labels.count(name) == 1 else f"{name} [images {place}]", whole=whole)
        for place, (name, whole) in enumerate(wholes, start=1)
    ]
    corrupted = any(record.corruption_accuracy is not None for group in groups for record in group.records)
    threats = dict.fromkeys(name for group in groups for name in group.within)
    apart = any(len(group.within) > 1 for group in groups)
    worst = [Column(f"{WORST} [{name}]", within=name) for name in threats] if apart else [Column(WORST)]
    ends = [*transfers, *worst] if attacks else []
    return [Column(NATURAL), *([Column(CORRUPTED)] if corrupted else []), *attacks, *ends]


def _told_apart(settings: dict[str, Any], others: Sequence[dict[str, Any]]) -> str:
    flat = [flatten(other) for other in others]
    own = flatten(settings)
    return ", ".join(f"{name}={own.get(name, '-')}" for name in own if len({other.get(name) for other in flat}) > 1) or "other settings"


def values_of(group: Group, column: Column) -> list[float]:
    """The accuracy [n] in [0, 1] of each record of the group that has this column."""
    records = records_of(group, column)
    if column.attack is not None:
        return [record.accuracy(column.attack) for record in records]
    if column.whole or column.worst:
        return [record.worst_case_accuracy for record in records]
    if column.label == NATURAL:
        return [record.natural_accuracy for record in records]
    if column.label == CORRUPTED:
        return [mean for record in records if (mean := record.corruption_accuracy) is not None]
    return []


def records_of(group: Group, column: Column) -> list[EvaluationRecord]:
    """The group's records that have this column, with the attacks that it is about and no others."""
    if column.attack is not None:
        return [dataclasses.replace(record, attacks=[attack]) for record in group.records if (attack := column.of(record))]
    if column.whole or column.worst:
        return _only(group.records, column.whole or attacks_of(group, column.within))
    return group.records


def _only(records: Sequence[EvaluationRecord], wanted: frozenset[AttackKey]) -> list[EvaluationRecord]:
    """The records that have all these attacks, with no others, so that their worst cases mean the same; none for none."""
    kept = [dataclasses.replace(each, attacks=[attack for attack in each.attacks if key_of(attack) in wanted]) for each in records]
    return [record for record in kept if len(record.attacks) == len(wanted)] if wanted else []


def attacks_of(group: Group, within: str | None = None) -> frozenset[AttackKey]:
    """What all records of the group were attacked by, of the attacks within these threats; of all by default."""
    sets = [frozenset(map(key_of, record.attacks)) for record in group.records]
    common = frozenset.intersection(*sets)
    return common if within is None else common & group.within.get(within, frozenset())
