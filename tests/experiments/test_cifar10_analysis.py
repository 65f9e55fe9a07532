"""The primary figure of the study on synthetic verdicts whose answer is known, and from records on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments.cifar10 import analysis
from experiments.cifar10.analysis import SCOPE, Point, primary

from poise.core.errors import RunError
from poise.core.records import AttackRecord, EvaluationRecord

IMAGES = 4000


def point(natural: float, robust: float, seeds: int = 3, start: int = 0) -> Point:
    """Verdicts with exactly these accuracies; robust images are naturally right, and seeds are wrong on other
    images.
    """
    places = [np.roll(np.arange(IMAGES), start + 37 * seed) for seed in range(seeds)]
    return Point(
        *(
            np.array([place < round(accuracy * IMAGES) for place in places], dtype=float)
            for accuracy in (natural, robust)
        )
    )


CURVE = {1.0: point(0.76, 0.44, seeds=2), 0.75: point(0.80, 0.42, start=11), 0.5: point(0.84, 0.38, start=23)}


@pytest.mark.parametrize(
    ("robust", "conclusion", "difference"),
    [(0.44, "above", 4.0), (0.36, "below", -4.0), (0.4, "equivalent within 1 point", 0.0)],
)
def test_the_figure_is_robust_accuracy_minus_the_curve_at_the_same_natural_accuracy(
    robust: float, conclusion: str, difference: float
) -> None:
    figure = primary(CURVE, point(0.82, robust, start=7), draws=400)
    assert figure.difference == pytest.approx(difference, abs=0.06)
    assert figure.bracket == (0.5, 0.75)
    # images are resampled too: only methods that err on the same ones are so close
    if conclusion.startswith("equivalent"):
        twins = {
            beta: point(*means) for beta, means in {1.0: (0.76, 0.44), 0.75: (0.80, 0.42), 0.5: (0.84, 0.38)}.items()
        }
        figure = primary(twins, point(0.82, robust), draws=400)
    assert figure.conclusion == conclusion
    assert figure.low <= figure.difference <= figure.high
    assert figure.text.startswith(f"{conclusion}: ") and figure.text.endswith(SCOPE)


def test_a_difference_within_the_noise_is_undecided() -> None:
    random = np.random.default_rng(0)
    curve = {beta: _drawn(random, *means) for beta, means in {0.75: (0.74, 0.42), 0.5: (0.9, 0.38)}.items()}
    figure = primary(curve, _drawn(random, 0.82, 0.41), draws=400)
    assert figure.conclusion == "undecided"
    assert figure.low < 0 < figure.high and figure.high - figure.low > 2


def _drawn(random: np.random.Generator, natural: float, robust: float) -> Point:
    right = random.random((3, 400)) < natural
    return Point(right.astype(float), (right & (random.random((3, 400)) < robust / natural)).astype(float))


def test_beside_at_the_curve_ends_at_beta_1() -> None:
    figure = primary(CURVE, point(0.78, 0.43), draws=50)
    assert (figure.bracket, figure.difference) == ((0.75, 1.0), pytest.approx(0, abs=0.06))


@pytest.mark.parametrize("natural", [0.7, 0.9])
def test_the_curve_is_never_extrapolated(natural: float) -> None:
    with pytest.raises(
        RunError,
        match=rf"natural accuracy {100 * natural:.2f} % is not bracketed by the half-half curve \(beta 0.5: 84.00 %",
    ):
        primary(CURVE, point(natural, 0.4))


def test_where_many_draws_leave_the_curve_nothing_is_concluded() -> None:
    random = np.random.default_rng(1)
    edge = {1.0: _drawn(random, 0.6, 0.5), 0.5: _drawn(random, 0.8, 0.2)}
    ours = Point(edge[0.5].natural, edge[0.5].natural * (random.random((3, 400)) < 0.9))
    figure = primary(edge, ours, draws=200)
    assert figure.difference > 10
    assert figure.lost > analysis.LOST
    assert figure.conclusion == "undecided"


def record(name: str, seed: int, natural: float, robust: float, images: int = 200, **notes: str) -> EvaluationRecord:
    labels = [place % 10 for place in range(images)]

    def predicted(accuracy: float) -> list[int]:
        return [label if place < accuracy * images else (label + 1) % 10 for place, label in enumerate(labels)]

    attacks = [AttackRecord("AutoAttack-custom", {"type": "AutoAttack"}, predicted(robust), 1.0)]
    return EvaluationRecord(
        model=name,
        checkpoint="last",
        model_digest=f"{name}{seed}",
        run=f"{name}-s{seed}",
        group=name,
        seed=seed,
        evaluation_seed=0,
        dataset="CIFAR10",
        split="test",
        classes=[str(label) for label in range(10)],
        protocol="pair",
        labels=labels,
        natural=predicted(natural),
        attacks=attacks,
        seconds=1.0,
        started="2026-11-29T00:00:00+00:00",
        device="cpu",
        versions={},
        notes={"trained_in": "bfloat16", **notes},
    )


ROWS = {"at": (0.76, 0.44, 2), "half-0.75": (0.8, 0.42, 3), "half-0.5": (0.84, 0.38, 3), "generalist": (0.82, 0.45, 3)}


def written(results: Path, leave_out: str = "", **notes: Any) -> None:
    for name, (natural, robust, seeds) in ROWS.items():
        for seed in range(seeds):
            if f"{name}-s{seed}" != leave_out:
                folder = results / "rows" / f"{name}-s{seed}"
                folder.mkdir(parents=True)
                record(name, seed, natural, robust, **(notes if name == "at" else {})).write(folder / "last-pair.json")


def test_committed_records_alone_give_the_figure(tmp_path: Path) -> None:
    written(tmp_path)
    curve, generalist, remarks = analysis.read(tmp_path)
    assert sorted(curve) == [0.5, 0.75, 1.0] and remarks == []
    assert primary(curve, generalist, draws=50).text.startswith("above: +5.00 points")
    assert analysis.rows(tmp_path).count("\n") == 1 + sum(seeds for *_, seeds in ROWS.values())


@pytest.mark.parametrize("missing", ["generalist-s2", "half-0.5-s1"])
def test_fewer_seeds_give_no_figure(tmp_path: Path, missing: str) -> None:
    written(tmp_path, missing)
    with pytest.raises(RunError, match="needs 3 seeds of Generalist and of two betas"):
        analysis.read(tmp_path)


def test_rows_of_different_arithmetics_are_said(tmp_path: Path) -> None:
    written(tmp_path, trained_in="float32")
    assert analysis.read(tmp_path)[2] == ["rows were trained in different arithmetics: bfloat16, float32"]


def test_records_of_other_images_are_refused(tmp_path: Path) -> None:
    written(tmp_path, "at-s0")
    (tmp_path / "rows" / "at-s0").mkdir()
    record("at", 0, 0.76, 0.44, images=100).write(tmp_path / "rows" / "at-s0" / "last-pair.json")
    with pytest.raises(RunError, match="not of the same images"):
        analysis.read(tmp_path)
