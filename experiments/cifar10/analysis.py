"""The primary figure, from committed records alone: Generalist's robust accuracy minus the half-half curve's at its
natural accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from experiments.cifar10.design import STUDY, Scale
from poise.core.errors import RunError
from poise.core.records import EvaluationRecord
from poise.reports.statistics import examples_of, settings_key

BOUND = 1.0
"""Points within which two methods are held for equivalent."""
SEEDS = 3
LOST = 0.025
"""Share of draws outside of the curve above which nothing is concluded: so much lies beyond each end of a 95 %
interval.
"""
SCOPE = "for a 0.7 M-parameter ResNet-18, 20 epochs, Linf 8/255; neither confirms nor refutes Table 1"


@dataclass(frozen=True)
class Point:
    """One method's networks on the same images: correct on natural images, and in the worst case, bool [seeds, N]."""

    natural: np.ndarray
    robust: np.ndarray


@dataclass(frozen=True)
class Primary:
    """difference, low, high: in points; bracket: the betas between which the curve was read; lost: share of draws
    outside of it.
    """

    difference: float
    low: float
    high: float
    bracket: tuple[float, float]
    natural: float
    lost: float

    @property
    def conclusion(self) -> str:
        if self.lost > LOST:
            return "undecided"
        if self.low > 0 or self.high < 0:
            return "above" if self.low > 0 else "below"
        return "equivalent within 1 point" if self.low > -BOUND and self.high < BOUND else "undecided"

    @property
    def text(self) -> str:
        interval = f"{self.difference:+.2f} points, 95 % {self.low:+.2f} to {self.high:+.2f}"
        where = f"at {self.natural:.2f} % natural accuracy, between beta {self.bracket[0]:g} and {self.bracket[1]:g}"
        lost = f"; {100 * self.lost:.1f} % of the draws left the curve" if self.lost else ""
        return f"{self.conclusion}: {interval} {where}{lost}; {SCOPE}"


def primary(curve: Mapping[float, Point], generalist: Point, draws: int = 4000, seed: int = 0) -> Primary:
    """The figure with its interval: a bootstrap over images, the same for all methods, and over the seeds of each.

    curve: the points of joint training by beta. Raises: RunError where no two of them that lie beside each other in
    natural accuracy bracket Generalist: the curve is never extrapolated.
    """
    methods = {**curve, None: generalist}
    images = generalist.natural.shape[1]
    if any(side.shape[1] != images for point in methods.values() for side in (point.natural, point.robust)):
        raise RunError("the records are not of the same images")
    means = {beta: (point.natural.mean(), point.robust.mean()) for beta, point in methods.items()}
    natural, robust = means.pop(None)
    found = _read(means, natural)
    if found is None:
        known = ", ".join(f"beta {beta:g}: {100 * mean[0]:.2f} %" for beta, mean in sorted(means.items()))
        raise RunError(
            f"Generalist's natural accuracy {100 * natural:.2f} % is not bracketed by the half-half curve ({known})"
        )
    bracket, there = found
    random, differences = np.random.default_rng(seed), []
    for _ in range(draws):
        weights = random.multinomial(images, np.full(images, 1 / images)) / images
        drawn = {}
        for beta, point in methods.items():
            rows = random.integers(len(point.natural), size=len(point.natural))
            drawn[beta] = ((point.natural[rows] @ weights).mean(), (point.robust[rows] @ weights).mean())
        ours = drawn.pop(None)
        read = _read(drawn, ours[0])
        if read is not None:
            differences.append(ours[1] - read[1])
    lost = 1 - len(differences) / draws
    low, high = np.percentile(differences, [2.5, 97.5]) if differences else (-np.inf, np.inf)
    return Primary(100 * (robust - there), 100 * float(low), 100 * float(high), bracket, 100 * natural, lost)


def _read(curve: Mapping[float, tuple[float, float]], natural: float) -> tuple[tuple[float, float], float] | None:
    """(the two betas, robust accuracy) where the curve through the points (natural, robust) passes `natural`; None
    beyond its ends.
    """
    for (low, left), (high, right) in pairwise(sorted(curve.items(), key=lambda item: item[1][0])):
        if left[0] <= natural <= right[0]:
            share = (natural - left[0]) / (right[0] - left[0]) if right[0] > left[0] else 0.5
            return (min(low, high), max(low, high)), left[1] + share * (right[1] - left[1])
    return None


def read(results: Path, scale: Scale = STUDY) -> tuple[dict[float, Point], Point, list[str]]:
    """(the curve, Generalist, remarks) from results/rows. Raises: RunError for missing seeds or records that do not
    belong together.
    """
    groups: dict[str, list[EvaluationRecord]] = {}
    for path in sorted((results / "rows").glob("*/last-pair.json")):
        groups.setdefault(path.parent.name.rpartition("-s")[0], []).append(EvaluationRecord.read(path))
    named = {1.0: "at"} | {float(name.removeprefix("half-")): name for name in groups if name.startswith("half-")}
    halves = {beta: name for beta, name in named.items() if name != "at" and len(groups[name]) >= SEEDS}
    few = [f"{name} {len(groups.get(name, []))}" for name in ("generalist",) if len(groups.get(name, [])) < SEEDS]
    few += [f"half-half {len(halves)} betas"] if len(halves) < 2 else []
    if few:
        raise RunError(
            f"the primary figure needs {SEEDS} seeds of Generalist and of two betas; there are: {', '.join(few)}"
        )
    used = [
        *groups["generalist"],
        *(record for name in halves.values() for record in groups[name]),
        *groups.get("at", []),
    ]
    if len({examples_of(record) for record in used}) > 1:
        raise RunError("the records of the primary rows are not of the same images")
    if len({tuple(settings_key(attack.settings) for attack in record.attacks) for record in used}) > 1:
        raise RunError("the records of the primary rows are not of the same attacks")
    arithmetics = {str(record.notes.get("trained_in")) for record in used}
    remarks = (
        [f"rows were trained in different arithmetics: {', '.join(sorted(arithmetics))}"]
        if len(arithmetics) > 1
        else []
    )
    curve = {
        beta: point_of(groups[name]) for beta, name in {**halves, **({1.0: "at"} if "at" in groups else {})}.items()
    }
    return curve, point_of(groups["generalist"]), remarks


def point_of(records: Sequence[EvaluationRecord]) -> Point:
    return Point(
        np.array([record.natural_correct() for record in records], dtype=float),
        np.array([record.worst_case() for record in records], dtype=float),
    )


def rows(results: Path) -> str:
    """All records as a Markdown table: nothing is ranked, as most rows have one seed."""
    lines = ["| run | readout | images | attacks | natural % | robust % |", "|---|---|---:|---|---:|---:|"]
    for path in sorted((results / "rows").glob("*/*-*.json")):
        record = EvaluationRecord.read(path)
        attacks = path.stem.removeprefix(f"{record.checkpoint}-")
        accuracies = f"{100 * record.natural_accuracy:.2f} | {100 * record.worst_case_accuracy:.2f}"
        lines.append(f"| {record.run} | {record.checkpoint} | {record.count:,} | {attacks} | {accuracies} |")
    return "\n".join(lines)
