"""The columns of the table of results, and what a group of runs has in each: natural accuracy, attacks, whole
protocols, worst case.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from poise.core.records import AttackRecord, EvaluationRecord
from poise.core.wording import flatten
from poise.reports.statistics import (
    CORRUPTED,
    NATURAL,
    UNION,
    WORST,
    AttackKey,
    Group,
    examples_of,
    key_of,
    settings_key,
)

SpreadKind = Literal["std", "95 %", "not stated"]


@dataclass(frozen=True)
class Column:
    """`attack` and `settings` are None for "natural", "worst case", whole protocols and columns that only a paper
    has.
    """

    label: str
    attack: str | None = None
    settings: Mapping[str, Any] | None = field(default=None, hash=False)
    whole: frozenset[AttackKey] = frozenset()
    """The attacks of a protocol of images made elsewhere: the column is the worst case over them."""
    within: str | None = None
    """For a worst case: over the attacks within these threats only, where there are attacks within others too."""
    forms: frozenset[str] = frozenset()
    """The settings (`settings_key`) of an attack's forms: the column is the lowest accuracy that one of them leaves, as
    a whole.
    """
    among: Mapping[tuple[str, str, int, int], frozenset[AttackKey]] = field(default_factory=dict, hash=False)
    """For a worst case: all attacks that the table shows on these images, which it must be over."""

    @property
    def worst(self) -> bool:
        """Whether this is a worst case over all attacks, or over all those within its threats."""
        return self.attack is None and (self.within is not None or self.label == WORST)

    @property
    def judged(self) -> str:
        """What `paired_interval` is to judge in the records that `records_of` gives."""
        return self.attack or (WORST if self.worst or self.whole or self.forms else self.label)

    def of(self, record: EvaluationRecord) -> AttackRecord | None:
        """The record's attack of this name with these settings."""
        return next(
            (a for a in record.attacks if a.name == self.attack and settings_key(a.settings) == self._key), None
        )

    @functools.cached_property
    def _key(self) -> str:
        return settings_key(self.settings or {})


@dataclass(frozen=True)
class Cell:
    """One accuracy in percent; `value` is None where it was not measured."""

    value: float | None = None
    spread: float | None = None
    """Plus-minus, of the kind that `kind` says: over the runs, or as the paper prints it."""
    n: int = 0
    detail: str = ""
    """The interval, in words."""
    low: float | None = None
    high: float | None = None
    mark: Literal["", "best", "second"] = ""
    kind: SpreadKind = "std"
    of: int = 0
    """The number of runs of the row, of which this cell may have fewer."""
    gap: bool = False
    """Whether it is a difference of two accuracies, which is shown with its sign and interval."""

    @property
    def around(self) -> str:
        """What stands after the number: ` ± 0.21 (std, 3)`, with the number of runs; ` (1)` in a row of more; empty
        where nothing does.
        """
        runs = str(self.n) if max(self.n, self.of) > 1 else ""
        if self.spread is None:
            return f" ({runs})" if runs else ""
        kind = {"std": "std", "95 %": "95 %", "not stated": "of a kind not stated"}[self.kind]
        return f" ± {self.spread:.2f} ({', '.join(filter(None, (kind, runs)))})"

    @property
    def text(self) -> str:
        """`84.32`, `84.32 ± 0.21 (std, 3)` with the number of runs, or `-`."""
        if self.value is None:
            return "-"
        if self.gap:
            return f"{self.value:+.2f}" + (
                "" if self.low is None or self.high is None else f" ({self.low:+.2f} to {self.high:+.2f})"
            )
        return f"{self.value:.2f}{self.around}"


def columns_of(groups: Sequence[Group], printed: Iterable[tuple[str, Mapping[str, Any]]] = ()) -> list[Column]:
    """All columns of these groups. printed: names and settings of further attacks, which only papers have numbers
    of.
    """
    columns: dict[AttackKey, tuple[str, Mapping[str, Any]]] = {}
    for group in groups:
        for record in group.records:
            for attack in record.attacks:
                columns.setdefault(key_of(attack), (attack.name, attack.settings))
    for name, settings in printed:
        columns.setdefault((name, settings_key(settings)), (name, settings))
    names = [name for name, _ in columns]
    attacks = []
    for name, settings in columns.values():
        same = [label for called, label in columns.values() if called == name]
        extra = "" if names.count(name) == 1 else f" [{settings_told_apart(settings, same)}]"
        attacks.append(Column(name + extra, name, settings))
    has_corruptions = any(record.corruption_accuracy is not None for group in groups for record in group.records)
    ends = (
        [*_strongest(groups), *_transfers(groups), *_worst_cases(groups)]
        if any(group.within for group in groups)
        else []
    )
    return [Column(NATURAL), *([Column(CORRUPTED)] if has_corruptions else []), *attacks, *ends]


def _transfers(groups: Sequence[Group]) -> list[Column]:
    wholes = dict.fromkeys((name, whole) for group in groups for name, whole in group.transferred)
    labels = [name for name, _ in wholes]
    return [
        Column(name if labels.count(name) == 1 else f"{name} [images {place}]", whole=whole)
        for place, (name, whole) in enumerate(wholes, start=1)
    ]


def _worst_cases(groups: Sequence[Group]) -> list[Column]:
    """One, or one for each of several threats."""
    threats = dict.fromkeys(name for group in groups for name in group.within)

    def among(name: str | None) -> dict[tuple[str, str, int, int], frozenset[AttackKey]]:
        attacks_shown: dict[tuple[str, str, int, int], frozenset[AttackKey]] = {}
        for group in groups:
            images, inside = examples_of(group.first), group.within.get(name, frozenset()) if name else _all_of(group)
            attacks_shown[images] = attacks_shown.get(images, frozenset()) | inside
        return attacks_shown

    if len(threats) > 1 or any(name.startswith(UNION) for name in threats):
        return [Column(f"{WORST} [{name}]", within=name, among=among(name)) for name in threats]
    return [Column(WORST, among=among(None))]


def _all_of(group: Group) -> frozenset[AttackKey]:
    return frozenset(key_of(attack) for record in group.records for attack in record.attacks)


def _strongest(groups: Sequence[Group]) -> list[Column]:
    """A column for each adaptive attack that was made in several forms, for both of its aims: the strongest as a whole,
    as papers say.
    """
    columns: dict[frozenset[str], str] = {}
    for group in groups:
        for record in group.records:
            forms: dict[str, list[AttackRecord]] = {}
            for attack in record.attacks:
                if attack.settings.get("type") == "AdaptivePGD" and len(attack.settings.get("aims", ())) == 1:
                    rest = {name: value for name, value in attack.settings.items() if name not in ("aims", "lambdas")}
                    forms.setdefault(settings_key(rest), []).append(attack)
            for same in forms.values():
                if len({str(attack.settings["aims"]) for attack in same}) > 1:
                    stem = same[0].name.partition(f"-{same[0].settings['aims'][0]}")[0]
                    columns.setdefault(
                        frozenset(settings_key(attack.settings) for attack in same), strongest_label(stem)
                    )
    labels = list(columns.values())
    return [
        Column(label if labels.count(label) == 1 else f"{label} [{place}]", forms=forms)
        for place, (forms, label) in enumerate(columns.items(), start=1)
    ]


def strongest_label(name: str) -> str:
    return f"{name}, the stronger one as a whole"


def settings_told_apart(settings: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    flat = [flatten(settings_other) for settings_other in others]
    flat_own = flatten(settings)
    names = dict.fromkeys(name for settings_flat in flat for name in settings_flat)
    return (
        ", ".join(
            f"{name}={flat_own.get(name, '-')}"
            for name in names
            if len({settings_other.get(name) for settings_other in flat}) > 1
        )
        or "other settings"
    )


def values_of(group: Group, column: Column) -> list[float]:
    """The accuracy [n] in [0, 1] of each record of the group that has this column."""
    records = records_of(group, column)
    if column.attack is not None:
        return [record.accuracy(column.attack) for record in records]
    if column.forms:
        return [record.accuracy(record.attacks[0].name) for record in records]
    if column.whole or column.worst:
        return [record.worst_case_accuracy for record in records]
    if column.label == NATURAL:
        return [record.natural_accuracy for record in records]
    if column.label == CORRUPTED:
        return [mean for record in records if (mean := record.corruption_accuracy) is not None]
    return []


def records_of(group: Group, column: Column) -> list[EvaluationRecord]:
    """The group's records that have this column, with the attacks that it is about and no others.

    A worst case is over all attacks that are shown on its images, by every run of the group, or there is none.
    """
    if column.attack is not None:
        return [
            dataclasses.replace(record, attacks=[attack]) for record in group.records if (attack := column.of(record))
        ]
    if column.forms:
        return [strongest for record in group.records if (strongest := _strongest_of(record, column.forms)) is not None]
    if column.worst:
        keys = column.among.get(examples_of(group.first), frozenset())
        records = _only(group.records, keys)
        return records if len(records) == len(group.records) else []
    return _only(group.records, column.whole) if column.whole else group.records


def _strongest_of(record: EvaluationRecord, forms: frozenset[str]) -> EvaluationRecord | None:
    """The record with the form alone under which the network is right least often; None where it lacks one."""
    attacks = {settings_key(attack.settings): attack for attack in record.attacks}
    if not forms <= set(attacks):
        return None
    alone = [dataclasses.replace(record, attacks=[attacks[form]]) for form in sorted(forms)]
    return min(alone, key=lambda each: each.accuracy(each.attacks[0].name))


def _only(records: Sequence[EvaluationRecord], wanted: frozenset[AttackKey]) -> list[EvaluationRecord]:
    """The records that have all these attacks, with no others, so that their worst cases mean the same; none for
    none.
    """
    records_kept = [
        dataclasses.replace(part, attacks=[attack for attack in part.attacks if key_of(attack) in wanted])
        for part in records
    ]
    return [record for record in records_kept if len(record.attacks) == len(wanted)] if wanted else []
