"""Three ranks: by data, and by learner with two ranks that share the robust learner, or with a learner for each
rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poise.attacks import Ascent
from poise.core.errors import Interrupted
from poise.engine import Experiment, train
from poise.learners import SGD, Policy
from poise.methods import DVERGE, Joint
from poise.models import Collaboration, Ensemble
from poise.objectives import SynergyOfExperts
from poise.threats import Linf

Make = Callable[..., Experiment]


def diversified(smooth: Make) -> Experiment:
    """DVERGE in adversarial training: source and target images are distilled apart, on each rank its own part."""
    made = smooth()
    method = DVERGE(
        policy=Policy(optimizer=SGD(learning_rate=0.05), microbatch=5),
        batch_size=32,
        experts=2,
        distillation=Ascent(threat=Linf(epsilon=0.1), step_size=0.05, steps=2, start="zero"),
        adversarial=Ascent(threat=Linf(epsilon=0.2), step_size=0.1, steps=2),
        natural_until=0.4,
    )
    return replace(made, method=method, model=Ensemble(member=made.model, members=2), epochs=3)


def collaborating(smooth: Make) -> Experiment:
    """Synergy-of-Experts with an update after each expert's attack, then its second phase."""
    made = smooth()
    inner = Ascent(threat=Linf(epsilon=0.2), step_size=0.1, steps=2)
    objective = SynergyOfExperts(inner=inner, update="per_source", phase_two_from=0.5)
    method = Joint(policy=Policy(objective=objective, optimizer=SGD(learning_rate=0.05), microbatch=5), batch_size=32)
    return replace(made, method=method, model=Collaboration(member=made.model, members=2), epochs=3)


ENSEMBLES = {"dverge": diversified, "synergy": collaborating}


@pytest.fixture(scope="module")
def done(ranks: Any, smooth: Make, third: Any, worker: Any) -> dict[str, Path]:
    begun = ranks.folder / "begun_by_one"
    with pytest.raises(Interrupted):
        train(smooth(placement="by-data"), begun, progress=worker.Stopping(8))
    outs = {
        "by-data": ranks.train("by-data", smooth(placement="by-data")),
        "by-learner": ranks.train("by-learner", smooth(placement="by-learner")),
        "third": ranks.train("third", third(smooth())),
        "begun": begun,
        **{name: ranks.train(name, made(smooth)) for name, made in ENSEMBLES.items()},
    }
    ranks.resume(begun)
    assert ranks.start(3) == [(0, "")] * 3
    return outs


@pytest.mark.parametrize("placement", ["by-data", "by-learner"])
def test_three_ranks_equal_one(
    done: Any, tmp_path: Path, smooth: Make, distance: Any, metrics: Any, placement: Any
) -> None:
    serial = train(smooth(placement=placement), tmp_path / "run").path
    runs = [done[placement]]
    if placement == "by-data":
        runs.append(done["begun"])  # by one rank, which stopped in the middle of an epoch
    for run in runs:
        assert 0 < distance(run, serial) < 1e-9
        for found, wanted in zip(metrics(run), metrics(serial), strict=True):
            assert found == pytest.approx(wanted, abs=1e-9)


def test_a_learner_for_each_rank_equals_one(done: Any, tmp_path: Path, smooth: Make, third: Any, distance: Any) -> None:
    assert distance(done["third"], train(third(smooth()), tmp_path / "run").path) < 1e-9


@pytest.mark.parametrize("name", ENSEMBLES)
def test_ensembles_on_three_ranks_equal_one(done: Any, tmp_path: Path, smooth: Make, distance: Any, name: str) -> None:
    serial = train(ENSEMBLES[name](smooth), tmp_path / "run").path
    assert 0 < distance(done[name], serial) < 1e-9


def test_ranks_that_share_a_learner_sum_their_gradients_and_no_others_take_part(done: Any, ranks: Any) -> None:
    natural, first, second = ([each for each in sent if each["job"] == 1 and each["step"] >= 0] for sent in ranks.sent)
    assert len(first) == len(second) > len(natural), "the natural learner's rank sums at redistributions only"
    assert {each["step"] for each in natural} == {3, 6, 9, 12}
    assert {each["step"] for each in first} == set(range(15))
