"""What repeated runs and paired examples let one say: means with t-intervals, and paired bootstrap intervals of differences."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from poise.core.errors import RunError
from poise.core.identity import identity
from poise.core.records import AttackRecord, EvaluationRecord

NATURAL, WORST, CORRUPTED, SUM = "natural", "worst case", "corruptions", "natural + worst case"
_Z = 1.959963984540054  # 97.5 % point of the normal distribution


@dataclass(frozen=True)
class Summary:
    """Mean and spread of one accuracy over the runs of a group; all in [0, 1]."""

    n: int
    mean: float
    std: float
    """Sample standard deviation (divisor n - 1); nan for a single run."""
    low: float
    high: float
    """95 % interval: Student's t over runs, or Wilson's over images for a single run (see `over`)."""
    over: str
    """What the interval covers: "seeds" or "images"."""


@functools.cache
def t_quantile(n: int) -> float:
    """97.5 % point of Student's t with n - 1 degrees of freedom."""
    from scipy.special import stdtrit  # scipy.stats gives the same number but takes over a second to import

    return float(stdtrit(n - 1, 0.975))


def summary(values: Sequence[float], images: int) -> Summary:
    """Summary of one accuracy [n] in [0, 1], each measured on `images` images."""
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return Summary(1, mean, math.nan, *_wilson(mean, images), "images")
    std = float(np.std(values, ddof=1))
    half = t_quantile(n) * std / math.sqrt(n)
    return Summary(n, mean, std, mean - half, mean + half, "seeds")


def _wilson(share: float, n: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927)."""
    if n == 0:
        return math.nan, math.nan
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


TRANSFERRED = "Saved"
"""Type of the attack that shows a target what was made on a surrogate."""
AttackKey = tuple[str, str]
"""An attack's name and its settings (see `key_of`)."""


@dataclass(frozen=True)
class Group:
    """Evaluations of one checkpoint of runs that differ only by their seed; one record per run."""

    key: str
    checkpoint: str
    records: list[EvaluationRecord]
    transferred: tuple[tuple[str, frozenset[AttackKey]], ...] = ()
    """The protocols of nothing but images made on other networks, with their attacks: all-or-nothing, each by itself."""
    within: dict[str, frozenset[AttackKey]] = field(default_factory=dict)
    """The attacks of records by the threats they are within, such as "Linf 0.03": worst cases of others are other quantities."""

    @property
    def first(self) -> EvaluationRecord:
        return self.records[0]


def group_records(records: Iterable[EvaluationRecord]) -> list[Group]:
    """Groups by `group`, `checkpoint` and the images evaluated, in order of appearance.

    Records of the same weights on the same images under different protocols become one record with all attacks.
    """
    groups: dict[tuple[Any, ...], dict[tuple[Any, ...], EvaluationRecord]] = {}
    transferred: dict[tuple[Any, ...], dict[tuple[str, frozenset[AttackKey]], None]] = {}
    within: dict[tuple[Any, ...], dict[str, frozenset[AttackKey]]] = {}
    for record in records:
        key = record.group or f"{record.model} {record.run}".strip()
        place = (key, record.checkpoint, examples_of(record))
        members = groups.setdefault(place, {})
        if len(record.attacks) > 1 and all(attack.settings.get("type") == TRANSFERRED for attack in record.attacks):
            transferred.setdefault(place, {})[record.protocol, frozenset(map(key_of, record.attacks))] = None
        if record.attacks:
            known, threats = within.setdefault(place, {}), _threats(record)
            known[threats] = known.get(threats, frozenset()) | set(map(key_of, record.attacks))
        weights = (record.run, record.seed, record.model_digest)
        members[weights] = _merge(members[weights], record) if weights in members else record
    return [
        Group(place[0], place[1], list(members.values()), tuple(transferred.get(place, ())), within.get(place, {}))
        for place, members in groups.items()
    ]


def _threats(record: EvaluationRecord) -> str:
    """What a record's attacks are within, in words."""
    given = [attack.settings.get("threat") or {} for attack in record.attacks]
    return ", ".join(sorted({f"{threat.get('type', 'threat')} {threat.get('epsilon', 0):.4g}" for threat in given}))


def _merge(first: EvaluationRecord, second: EvaluationRecord) -> EvaluationRecord:
    known = {key_of(attack) for attack in first.attacks}
    added = [attack for attack in second.attacks if key_of(attack) not in known]
    if not added:
        return dataclasses.replace(first, notes={**second.notes, **first.notes})
    protocol = first.protocol if first.protocol == second.protocol else f"{first.protocol} + {second.protocol}"
    notes = {**second.notes, **first.notes}
    return dataclasses.replace(
        first, attacks=[*first.attacks, *added], protocol=protocol, seconds=first.seconds + second.seconds, notes=notes
    )


def examples_of(record: EvaluationRecord) -> tuple[str, str, int, int]:
    """The same for two records exactly when they were evaluated on the same images, as far as a record can tell."""
    return record.dataset, record.split, record.count, hash(tuple(record.labels))


def key_of(attack: AttackRecord) -> AttackKey:
    return attack.name, settings_key(attack.settings)


def settings_key(settings: dict[str, Any]) -> str:
    return json.dumps(identity(settings), sort_keys=True, default=str)


def correct(record: EvaluationRecord, column: str) -> list[bool]:
    """Per example: correct in `column`, which is "natural", "worst case" or an attack's name. Raises: RunError when absent."""
    if column == NATURAL:
        return record.natural_correct()
    if column == WORST:
        return record.worst_case()
    try:
        return record.correct_under(column)
    except KeyError as error:
        raise RunError(str(error.args[0])) from None


@dataclass(frozen=True)
class PairedInterval:
    """Accuracy of a minus accuracy of b, in [-1, 1], with its 95 % bootstrap interval."""

    difference: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def paired_interval(
    records_a: Sequence[EvaluationRecord], records_b: Sequence[EvaluationRecord], column: str, draws: int = 2000, seed: int = 0
) -> PairedInterval:
    """95 % percentile bootstrap interval of the difference in accuracy between two groups of runs, paired by image.

    Each draw resamples the images (the same for both groups) and, independently, each group's runs. With one run in a group,
    the interval speaks about that network only, not about other seeds. `column`: "natural", "worst case", "natural + worst case" or
    an attack's name.

    Raises: RunError when the records are not of the same images, or the attack is absent or not the same.
    """
    records = [*records_a, *records_b]
    if not records_a or not records_b or not records[0].count:
        raise RunError("a paired interval needs at least one record with examples on each side")
    if len({examples_of(record) for record in records}) > 1:
        raise RunError("the records cannot be paired: they are not of the same data set, split and labels")
    _same_attack(records, column)
    rng = np.random.default_rng(seed)
    parts = (NATURAL, WORST) if column == SUM else (column,)
    flags = np.array([correct(record, part) for part in parts for record in records], dtype=bool)
    # Images on which all runs agree are exchangeable, so drawing counts of such patterns is drawing images, at far less cost.
    packed, counts = np.unique(np.packbits(flags, axis=0), axis=1, return_counts=True)
    patterns = np.unpackbits(packed, axis=0, count=len(flags)).astype(np.float64)
    n, runs_a = flags.shape[1], len(records_a)
    images = (rng.multinomial(n, counts / n, size=draws) @ patterns.T / n).reshape(draws, len(parts), len(records)).sum(1)
    weights_a = rng.multinomial(runs_a, np.full(runs_a, 1 / runs_a), size=draws) / runs_a
    runs_b = len(records_b)
    weights_b = rng.multinomial(runs_b, np.full(runs_b, 1 / runs_b), size=draws) / runs_b
    drawn = (weights_a * images[:, :runs_a]).sum(1) - (weights_b * images[:, runs_a:]).sum(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    shares = flags.mean(1).reshape(len(parts), len(records)).sum(0)
    difference = shares[:runs_a].mean() - shares[runs_a:].mean()
    return PairedInterval(float(difference), float(low), float(high))


def _same_attack(records: Sequence[EvaluationRecord], column: str) -> None:
    if column == NATURAL:
        return
    used = [
        sorted((attack.name, settings_key(attack.settings)) for attack in record.attacks if column in (WORST, SUM, attack.name))
        for record in records
    ]
    if any(attacks != used[0] for attacks in used):
        raise RunError(f"the records cannot be paired on {column!r}: their attacks are not the same")
