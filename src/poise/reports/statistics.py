"""What repeated runs and paired examples let one say: means with t-intervals, and paired intervals of differences."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from poise.core.errors import RunError
from poise.core.identity import identity
from poise.core.records import AttackRecord, EvaluationRecord
from poise.core.settings import spelled

NATURAL, WORST, CORRUPTED, SUM = "natural", "worst case", "corruptions", "natural + worst case"
UNION = "union of"
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
def t_quantile(n: float) -> float:
    """97.5 % point of Student's t with n - 1 degrees of freedom, of which there may be a fraction."""
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
    """The protocols of nothing but images made on other networks, with their attacks: all-or-nothing, each by itself.
    """
    within: dict[str, frozenset[AttackKey]] = field(default_factory=dict)
    """The attacks of records by the threats they are within, such as "Linf 0.03": worst cases of others are other
    quantities.
    """

    @property
    def first(self) -> EvaluationRecord:
        return self.records[0]


def group_records(records: Iterable[EvaluationRecord]) -> list[Group]:
    """Groups by `group`, `checkpoint` and the images evaluated, in order of appearance.

    Records of the same weights on the same images under different protocols become one record with all attacks.
    """
    groups: dict[tuple[Any, ...], dict[tuple[Any, ...], EvaluationRecord]] = {}
    transfers: dict[tuple[Any, ...], dict[tuple[str, frozenset[AttackKey]], None]] = {}
    within: dict[tuple[Any, ...], dict[str, frozenset[AttackKey]]] = {}
    for record in records:
        key = record.group or f"{record.model} {record.run}".strip()
        place = (key, record.checkpoint, examples_of(record))
        members = groups.setdefault(place, {})
        if len(record.attacks) > 1 and all(attack.settings.get("type") == TRANSFERRED for attack in record.attacks):
            transfers.setdefault(place, {})[record.protocol, frozenset(map(key_of, record.attacks))] = None
        if record.attacks:
            attacks_here = within.setdefault(place, {})
            for threats, keys in _by_threats(record).items():
                attacks_here[threats] = attacks_here.get(threats, frozenset()) | keys
        weights = (record.run, record.seed, record.model_digest)
        members[weights] = _merge(members[weights], record) if weights in members else record
    return [
        Group(place[0], place[1], list(members.values()), tuple(transfers.get(place, ())), within.get(place, {}))
        for place, members in groups.items()
    ]


def _by_threats(record: EvaluationRecord) -> dict[str, frozenset[AttackKey]]:
    """A record's attacks by what they are within, in words: all of them and, where these are several norms, those of
    each threat that has several, whose worst case is none of their columns.
    """
    by_threat: dict[str, set[AttackKey]] = {}
    norms = set()
    for attack in record.attacks:
        threat = attack.settings.get("threat") or {}
        norms.add(threat.get("type", "threat"))
        name = f"{threat.get('type', 'threat')} {spelled(threat.get('epsilon', 0))}"
        by_threat.setdefault(name, set()).add(key_of(attack))
    whole = ", ".join(sorted(by_threat))
    together = {f"{UNION} {whole}" if len(norms) > 1 else whole: frozenset(map(key_of, record.attacks))}
    alone = {name: frozenset(keys) for name, keys in by_threat.items() if len(keys) > 1} if len(norms) > 1 else {}
    return together | alone


def _merge(first: EvaluationRecord, second: EvaluationRecord) -> EvaluationRecord:
    keys = {key_of(attack) for attack in first.attacks}
    attacks_new = [attack for attack in second.attacks if key_of(attack) not in keys]
    if not attacks_new:
        return dataclasses.replace(first, notes={**second.notes, **first.notes})
    protocol = first.protocol if first.protocol == second.protocol else f"{first.protocol} + {second.protocol}"
    notes = {**second.notes, **first.notes}
    return dataclasses.replace(
        first,
        attacks=[*first.attacks, *attacks_new],
        protocol=protocol,
        seconds=first.seconds + second.seconds,
        notes=notes,
    )


def examples_of(record: EvaluationRecord) -> tuple[str, str, int, int]:
    """The same for two records exactly when they were evaluated on the same images, as far as a record can tell."""
    return record.dataset, record.split, record.count, hash(tuple(record.labels))


def key_of(attack: AttackRecord) -> AttackKey:
    return attack.name, settings_key(attack.settings)


def settings_key(settings: Mapping[str, Any]) -> str:
    """The same for settings that differ in the last bits of their numbers only, as epsilon / 5 and .2 epsilon may."""
    return json.dumps(_rounded(identity(settings)), sort_keys=True, default=str)


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.12g}") if isinstance(value, float) else value


def correct(record: EvaluationRecord, column: str) -> list[bool]:
    """Per example: correct in `column`, which is "natural", "worst case" or an attack's name. Raises: RunError when
    absent.
    """
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
    """Accuracy of a minus accuracy of b (of 1, or 2 for the sum of two accuracies), with its 95 % interval."""

    difference: float
    low: float
    high: float
    p: float = math.nan
    """Probability of a difference at least as far from zero if there were none; below .05 where the interval excludes
    zero, unless too few images are decided otherwise for a sign test to say so."""

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def paired_interval(
    records_a: Sequence[EvaluationRecord],
    records_b: Sequence[EvaluationRecord],
    column: str,
    draws: int = 2000,
    seed: int = 0,
) -> PairedInterval:
    """95 % interval of the difference in accuracy between two groups of runs, paired by image.

    Images: a percentile bootstrap, each draw resampling the same images for both groups. Runs: Welch's t over the runs'
    accuracies, as to resample two or three runs is to take them for all that there are. The margins add up in squares
    (Zou and Donner 2008), which is conservative, as what is luck of both run and image is in both. With one run in a
    group, the interval speaks about that network only, not about other seeds. A record of cross-validation is one run:
    its networks share a seed.
    `column`: "natural", "worst case", "natural + worst case" or an attack's name.

    Raises: RunError when the records are not of the same images, or the attack is absent or not the same.
    """
    check_paired(records_a, records_b, column)
    return interval_of(answers(records_a, column), answers(records_b, column), draws, seed)


def check_paired(records_a: Sequence[EvaluationRecord], records_b: Sequence[EvaluationRecord], column: str) -> None:
    """Raises: RunError when the records are not of the same images, or the attack is absent or not the same."""
    records = [*records_a, *records_b]
    if not records_a or not records_b or not records[0].count:
        raise RunError("a paired interval needs at least one record with examples on each side")
    if len({examples_of(record) for record in records}) > 1:
        raise RunError("the records cannot be paired: they are not of the same data set, split and labels")
    _same_attack(records, column)


def answers(records: Sequence[EvaluationRecord], column: str) -> np.ndarray:
    """What is right in `column`, [runs, images], 0 or 1 (up to 2 for a sum of two accuracies)."""
    parts = (NATURAL, WORST) if column == SUM else (column,)
    return np.array([[correct(record, part) for record in records] for part in parts], dtype=np.float64).sum(0)


def interval_of(a: np.ndarray, b: np.ndarray, draws: int = 2000, seed: int = 0) -> PairedInterval:
    """The interval of `paired_interval` for two groups' `answers`."""
    gaps = a.mean(0) - b.mean(0)
    difference = float(gaps.mean())
    # so that b - a gets the negated interval, draw by draw
    sign = -1 if gaps[np.flatnonzero(gaps)[:1]].sum() < 0 else 1
    # Images of equal gap are exchangeable, so drawing their counts is drawing images, at far less cost.
    values, counts = np.unique(sign * gaps, return_counts=True)
    resampled = np.random.default_rng(seed).multinomial(len(gaps), counts / len(gaps), size=draws) @ values / len(gaps)
    low, high = sorted(sign * np.percentile(resampled, [2.5, 97.5]))
    deviation, freedom = _welch(a.mean(1), b.mean(1))
    runs = deviation and t_quantile(freedom + 1) * deviation
    towards = difference - low if difference > 0 else high - difference
    p = max(_beyond(abs(difference), towards / _Z, deviation, freedom), min(1.0, 2.0 ** (1 - np.count_nonzero(gaps))))
    low, high = difference - math.hypot(difference - low, runs), difference + math.hypot(high - difference, runs)
    return PairedInterval(difference, low, high, p)


def _beyond(difference: float, images: float, runs: float, freedom: float) -> float:
    """The level at which the two-sided interval just reaches zero, of margins that add up in squares: normal over
    images, t over runs.

    images, runs: standard errors of the difference.
    """
    from scipy.special import ndtri, stdtrit

    if not difference:
        return 1.0
    least, most = 0.0, 1.0
    for _ in range(60):
        p = (least + most) / 2
        margin = math.hypot(float(-ndtri(p / 2)) * images, float(-stdtrit(freedom, p / 2)) * runs if runs else 0.0)
        least, most = (p, most) if margin > difference else (least, p)
    return most


def _welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Standard error of the difference of two means, and its degrees of freedom (Welch); a group of one has no
    variance.
    """
    parts = [
        (float(np.var(values_of, ddof=1)) / len(values_of), len(values_of) - 1)
        for values_of in (a, b)
        if len(values_of) > 1
    ]
    total = sum(variance for variance, _ in parts)
    if not total:
        return 0.0, math.inf
    return math.sqrt(total), total**2 / sum(variance**2 / n for variance, n in parts)


def _same_attack(records: Sequence[EvaluationRecord], column: str) -> None:
    if column == NATURAL:
        return
    used = [
        sorted(
            (attack.name, settings_key(attack.settings))
            for attack in record.attacks
            if column in (WORST, SUM, attack.name)
        )
        for record in records
    ]
    if any(attacks != used[0] for attacks in used):
        raise RunError(f"the records cannot be paired on {column!r}: their attacks are not the same")
