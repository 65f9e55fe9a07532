"""Successive halving: who goes on is a function of the runs, not of when they arrive."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest

import poise
from poise.core.errors import RunError, SettingsError
from poise.engine import Experiment, Monitor, Run, finished, train
from poise.sweeps.halving import Decision, decided, read
from poise.sweeps.ledger import Halving, Point
from poise.sweeps.planning import halving_of, planned

RATE = "method.optimizer.learning_rate"
GRID = {RATE: [1e-6, 0.02, 0.05, 0.1]}
HOW: dict[str, Any] = {"rungs": [1, 2], "keep": "1/2", "by": "natural"}


def test_two_shuffled_sweeps_decide_alike_and_who_goes_on_has_the_bits_of_an_unbroken_run(
    tmp_path: Path, tiny: Experiment, here: Any, fingerprint_of: Any
) -> None:
    def shuffled(seed: int) -> Any:
        return here(random.Random(seed).shuffle)

    engines = [shuffled(1), shuffled(2)]
    swept = [
        poise.sweep(tiny, GRID, out=tmp_path / str(place), on=engine, evaluate=False, **HOW)
        for place, engine in enumerate(engines)
    ]
    assert engines[0].seen[:4] != engines[1].seen[:4]
    for rung, before, after in ((1, 4, 2), (2, 2, 1)):
        first, second = (read(one.path, rung) for one in swept)
        assert first == second
        assert first is not None
        assert (len(first.values), len(first.kept)) == (before, after)
        assert min(first.values[name] for name in first.kept) >= max(first.values[name] for name in first.dropped)
    (best,) = swept[0].runs
    assert set(swept[0].stopped.values()) == {1, 2}
    assert [len(Run(tmp_path / "0" / name).metrics()) for name, _ in sorted(swept[0].stopped.items())] == [
        rung for _, rung in sorted(swept[0].stopped.items())
    ]
    (point,) = (point for point in swept[0].plan.points if point.name == best.name)
    assert fingerprint_of(best)["metrics"] == fingerprint_of(swept[1].runs[0])["metrics"]
    unbroken = train(poise.from_json(Experiment, point.experiment), tmp_path / "unbroken")
    assert fingerprint_of(best) == fingerprint_of(unbroken.path)


def test_a_sweep_that_goes_on_keeps_its_decisions_and_trains_nothing_again(
    tmp_path: Path, tiny: Experiment, here: Any
) -> None:
    first = poise.sweep(tiny, GRID, out=tmp_path / "s", on=here(), evaluate=False, **HOW)
    again = here()
    assert poise.sweep(out=tmp_path / "s", on=again).stopped == first.stopped
    assert again.seen == [run.name for run in first.runs]
    assert all(finished(Run(run)) for run in first.runs)


def points(count: int, seeds: int = 1) -> list[Point]:
    return [Point(f"c{n}/seed-{seed}", f"c{n}", {}, seed, 9, {}) for n in range(count) for seed in range(seeds)]


@pytest.mark.parametrize(
    ("keep", "count", "kept"), [("1/3", 9, 3), ("1/3", 10, 4), ("1/3", 1, 1), ("0.5", 5, 3), ("1/100", 5, 1)]
)
def test_the_share_that_goes_on_and_ties_by_the_plan(
    monkeypatch: pytest.MonkeyPatch, keep: str, count: int, kept: int
) -> None:
    monkeypatch.setattr("poise.sweeps.halving.measured", lambda run, rung, by: 0.5)
    decision = decided(halving_of("3", keep, "pgd"), 3, points(count), {}, Path())
    assert decision.kept == [f"c{n}" for n in range(kept)]
    assert len(decision.kept) + len(decision.dropped) == count


def test_configurations_are_judged_by_the_mean_of_their_seeds_and_not_at_all_where_one_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = {"c0/seed-0": 0.9, "c0/seed-1": 0.1, "c1/seed-0": 0.6, "c1/seed-1": 0.6, "c2/seed-1": 1.0}
    monkeypatch.setattr("poise.sweeps.halving.measured", lambda run, rung, by: values[str(run)])
    decision = decided(Halving([3], "1/3", "pgd"), 3, points(3, 2), {"c2/seed-0": "NaN"}, Path())
    assert decision == Decision(3, "pgd", {"c0": 0.5, "c1": 0.6}, ["c1"], ["c0"], ["c2"])


@pytest.mark.parametrize(
    ("changes", "how", "sentence"),
    [
        ({"selection": "test"}, {}, "measured on test images, by which no settings may be chosen; set selection=held"),
        ({"selection": "test"}, {"by": "pgd"}, "measured on test images"),
        (
            {"monitors": (Monitor(), Monitor(name="pgd", split="test"))},
            {"by": "pgd"},
            "measured on test images, by which no settings may be chosen; measure it on held-out images",
        ),
        ({}, {"by": "pgd-1O"}, "it has no such monitor"),
        ({}, {"rungs": [1, 3]}, "rung 3 must be below its epochs = 3"),
        ({"monitor_every": 2, "epochs": 4}, {"rungs": [1]}, "nothing is measured at rung 1, as monitor_every = 2"),
        ({}, {"rungs": [2, 1]}, "must be epochs one after the other"),
        ({}, {"rungs": "1,x"}, "must be epochs, such as 5,15"),
        ({}, {"rungs": [0]}, "must be epochs, such as 5,15"),
        ({}, {"keep": "1"}, "must be above 0 and below 1"),
        ({}, {"keep": "1/0"}, "must be a share such as 1/3"),
    ],
)
def test_halving_that_could_not_be_right_is_refused_before_work(
    tmp_path: Path, tiny: Experiment, here: Any, changes: Any, how: Any, sentence: str
) -> None:
    engine = here()
    with pytest.raises(SettingsError, match=sentence):
        poise.sweep(dataclasses.replace(tiny, **changes), GRID, out=tmp_path / "s", on=engine, **{**HOW, **how})
    assert not engine.seen
    assert not (tmp_path / "s").exists()


def test_one_configuration_is_nothing_to_choose_among(tiny: Experiment) -> None:
    with pytest.raises(SettingsError, match="at least two configurations"):
        planned([tiny], {}, 3, halving=Halving([1], "1/2", "pgd"))


def test_a_run_that_did_not_measure_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="c0/seed-0 has not measured pgd at epoch 3"):
        decided(Halving([3], "1/2", "pgd"), 3, points(2), {}, tmp_path)
