"""What many runs say together: the cost of not tuning on a data set, and whether regret goes with error across
settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from poise.core.errors import RunError
from poise.core.records import EvaluationRecord
from poise.reports.collect import Run
from poise.reports.statistics import NATURAL, WORST, PairedInterval, examples_of, key_of, paired_interval

LEAST = " least"
Measured = Mapping[str, Sequence[EvaluationRecord]]
"""By choice of parameters, the records of its runs (seeds)."""


def score(records: Sequence[EvaluationRecord]) -> float:
    """Natural plus worst-case accuracy, mean over the runs, in [0, 2]: what Generalist's parameters are chosen by."""
    return sum(record.natural_accuracy + record.worst_case_accuracy for record in records) / len(records)


@dataclass(frozen=True)
class Untuned:
    """What it costs on a target to take over the choice made on a source; scores are natural plus worst-case
    accuracy.
    """

    chosen: str
    """The best choice on the source."""
    best: str
    """The best choice on the target, known only afterwards."""
    regret: float
    """Score of the best choice on the target minus that of the chosen one. Never negative; 0 where they are the same.
    """
    spread: float
    """Largest minus smallest score on the target: what the worst choice would have cost."""
    natural: PairedInterval | None
    """Best minus chosen in natural accuracy; None where they are the same."""
    worst: PairedInterval | None
    """Best minus chosen in worst-case accuracy. The best is picked on these very images, so both lean upwards."""


def untuned(source: Measured, target: Measured) -> Untuned:
    """The regret of not tuning (Generalist, rebuttal R6).

    Raises: RunError where the two were not measured for the same choices, or one of them not by the same attacks on the
    same images.
    """
    if set(source) != set(target) or not source:
        raise RunError(
            f"the choices measured on the source ({_listed(source)}) and on the target ({_listed(target)}) must be the"
            " same"
        )
    if empty := [f"{name!r}" for name in source if not source[name] or not target[name]]:
        raise RunError(f"{', '.join(empty)}: no record; evaluate at least one run of every choice")
    for measurements in (source, target):
        _same_attacks([record for records in measurements.values() for record in records])
    best_chosen, best = (
        max(measurements, key=lambda name: score(measurements[name])) for measurements in (source, target)
    )
    scores = {name: score(records) for name, records in target.items()}
    if scores[best_chosen] == scores[best]:
        best = best_chosen
    pair = [
        None if best == best_chosen else paired_interval(target[best], target[best_chosen], column)
        for column in (NATURAL, WORST)
    ]
    spread = max(scores.values()) - min(scores.values())
    return Untuned(best_chosen, best, scores[best] - scores[best_chosen], spread, pair[0], pair[1])


def _same_attacks(records: Sequence[EvaluationRecord]) -> None:
    """Raises: RunError for worst cases over other attacks or images, which are other quantities."""
    if len({(examples_of(record), frozenset(map(key_of, record.attacks))) for record in records}) > 1:
        raise RunError("the records are of different attacks or images, so that their worst cases cannot be compared")


def _listed(measured: Measured) -> str:
    return ", ".join(sorted(measured)) or "none"


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau-b between the tradeoff regrets of settings and the errors of their global learners."""

    tau: float
    """In [-1, 1]; above 0 lower regret goes with lower error, as Theorem 1 lets one hope."""
    p: float
    """Probability of a tau at least as far from 0 if there were no relation."""
    settings: int

    @property
    def text(self) -> str:
        """In one sentence."""
        tau_text = f"tau = {self.tau:+.2f}, p = {self.p:.2g}, {self.settings} settings"
        if self.p >= 0.05:
            return f"no relation between R_T and the global learner's error is shown ({tau_text})"
        return f"lower R_T goes with {'lower' if self.tau > 0 else 'higher'} error of the global learner ({tau_text})"


def agreement(regrets: Mapping[str, float], errors: Mapping[str, float]) -> Agreement:
    """Whether settings of lower regret have lower error. Raises: RunError for fewer than three settings, or where all
    are alike.
    """
    if set(regrets) != set(errors) or len(regrets) < 3:
        raise RunError(
            f"regrets of {len(regrets)} settings and errors of {len(errors)}: must be of the same settings, at least"
            " three"
        )
    from scipy.stats import kendalltau

    names = sorted(regrets)
    pairs = [[values[name] for name in names] for values in (regrets, errors)]
    if any(len(set(values)) == 1 for values in pairs):
        raise RunError("all regrets, or all errors, are the same: there is no order to compare")
    tau, p = cast(tuple[float, float], kendalltau(*pairs))
    return Agreement(float(tau), float(p), len(names))


@dataclass(frozen=True)
class Regretted:
    """Of diagnosed runs, by experiment, means over seeds: regrets at the end of training, and the error on the test
    set.
    """

    own: dict[str, float]
    """R_T / T, each run against the best networks that it has seen itself: a run that never gets good has little to
    regret.
    """
    common: dict[str, float]
    """The same against the best networks that any of the runs has seen, nearer to Definition 1's infimum over all
    weights.
    """
    errors: dict[str, float]
    """1 minus the mean of natural and worst-case accuracy: the global learner's mean 0-1 loss over both tasks."""


def regretted(runs: Sequence[Run], checkpoint: str = "last") -> Regretted:
    """Regrets and errors of diagnosed runs; errors are those of the record of `checkpoint`.

    Raises: RunError for a run that was not diagnosed or has no such record.
    """
    _same_attacks([run.records[checkpoint] for run in runs if checkpoint in run.records])
    last = {
        str(run.path): {name: points[-1][1] for name, points in run.curves().items() if name.startswith("regret/")}
        for run in runs
    }
    least: dict[str, float] = {}
    for regrets in last.values():
        for name, value in regrets.items():
            if name.endswith(LEAST):
                least[name] = min(value, least.get(name, value))
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for run in runs:
        regrets, rounds = last[str(run.path)], len(run.curves().get("regret/tradeoff", []))
        learners = [name.removesuffix(LEAST) for name in regrets if name.endswith(LEAST)]
        if not learners or checkpoint not in run.records:
            missing = "is not diagnosed (diagnosis=Diagnosis)" if not learners else f"has no record of {checkpoint!r}"
            raise RunError(f"{run.path} {missing}, so its regret cannot be held against its error")
        common = sum(regrets[f"{name} suffered"] - least[f"{name}{LEAST}"] for name in learners) / len(learners)
        rows.setdefault(run.name, []).append(
            (regrets["regret/tradeoff"] / rounds, common, 1 - score([run.records[checkpoint]]) / 2)
        )
    means = {
        name: [sum(column) / len(column) for column in zip(*triples, strict=True)] for name, triples in rows.items()
    }
    own_regret, common_to_all, errors = ({name: mean[place] for name, mean in means.items()} for place in range(3))
    return Regretted(own_regret, common_to_all, errors)
