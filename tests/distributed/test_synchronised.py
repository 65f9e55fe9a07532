"""Batch normalisation over ranks: as one rank does it, forwards, backwards and while examples are crafted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poise.attacks import PGD
from poise.core.distributed import ALONE, World
from poise.core.errors import SettingsError
from poise.engine import Diagnosis, Experiment, train
from poise.engine.checkpoints import read_tensors
from poise.engine.placement import Placement, check_shares, placed, shares_changed
from poise.learners import Learner, Policy
from poise.learners.synchronised import SynchronisedBatchNorm2d, synchronise
from poise.methods import Generalist, Joint
from poise.models.folding import foldable
from poise.objectives import AT, SqueezeTraining
from poise.threats import Linf

Make = Callable[..., Experiment]


def synchronised(experiment: Experiment) -> Experiment:
    """Batches of 33 so that parts differ; one learner crafts in the batch's statistics, the other in the running
    ones.
    """
    method = experiment.method
    assert isinstance(method, Generalist) and isinstance(method.robust.objective, AT)
    frozen = replace(method.robust.objective, craft_mode="frozen_statistics")
    method = replace(method, natural=replace(method.natural, objective=method.robust.objective), batch_size=33)
    method = replace(method, robust=replace(method.robust, objective=frozen))
    return replace(
        experiment, method=method, precision="float64", statistics="synchronised", placement="by-data", epochs=3
    )


def joint(experiment: Experiment) -> Experiment:
    inner = experiment.method.policies()["robust"].objective.inner  # type: ignore[attr-defined]
    method = Joint(policy=Policy(objective=SqueezeTraining(inner=replace(inner, start="gaussian"))), batch_size=45)
    return replace(experiment, method=method, precision="float64", statistics="synchronised", epochs=2)


def diagnosed(experiment: Experiment) -> Experiment:
    """Learners compared after every epoch, for which all ranks attack, sum and measure together."""
    attack = PGD(threat=Linf(epsilon=0.2), step_size=0.1, steps=2)
    return replace(synchronised(experiment), diagnosis=Diagnosis(attack=attack, images=40), epochs=2)


MADE: dict[str, Callable[[Experiment], Experiment]] = {
    "generalist": synchronised,
    "joint": joint,
    "diagnosed": diagnosed,
}


@pytest.fixture(scope="module")
def done(ranks: Any, tiny: Make) -> dict[str, Path]:
    outs = {
        "normed": ranks.folder / "normed",
        **{name: ranks.train(name, make(tiny())) for name, make in MADE.items()},
        "local": ranks.train("local", tiny(statistics="local", placement="by-data", epochs=1)),
        "averaged": ranks.train("averaged", tiny(statistics="averaged", placement="by-data", epochs=1)),
    }
    settings = ranks.folder / "generalist.settings.json"
    ranks.jobs.append({"do": "normed", "settings": str(settings), "out": str(outs["normed"])})
    assert ranks.start(2) == [(0, ""), (0, "")]
    return outs


def test_forwards_gradients_and_attacks_are_those_of_one_rank(done: Any, worker: Any) -> None:
    """Of parts of 4 and 3 examples: logits, gradients of images, of weights and through gradients, running statistics,
    x_adv.
    """
    parts = [read_tensors(Path(f"{done['normed']}-{rank}"))[0] for rank in range(2)]
    alone: dict[str, Tensor] = worker.normed(ALONE)
    assert alone.keys() == parts[0].keys() == parts[1].keys() and len(alone) > 15
    for name, wanted in alone.items():
        if name.startswith("part/"):
            assert (len(parts[0][name]), len(parts[1][name])) == (4, 3)
            torch.testing.assert_close(torch.cat([part[name] for part in parts]), wanted, rtol=0, atol=1e-9)
        else:
            assert torch.equal(parts[0][name], parts[1][name]), name
            torch.testing.assert_close(parts[0][name], wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", MADE)
def test_training_on_two_ranks_equals_one_with_batch_normalisation(
    done: Any, tmp_path: Path, tiny: Make, distance: Any, metrics: Any, name: str
) -> None:
    serial = train(MADE[name](tiny()), tmp_path / "run").path
    assert 0 < distance(done[name], serial) < 1e-9
    for found, wanted in zip(metrics(done[name]), metrics(serial), strict=True):
        assert found.pop("diagnosis/attack", None) == wanted.pop("diagnosis/attack", None)
        assert found == pytest.approx(wanted, abs=1e-9)
        if name == "diagnosed":
            assert {"regret/tradeoff", "diagnosis/cosine/natural-robust", "diagnosis/distance/natural-robust"} <= set(
                wanted
            )


def test_local_statistics_are_the_first_ranks_and_averaged_ones_the_mean(done: Any) -> None:
    """After one epoch the weights are the same; only what is kept of the ranks' running statistics differs."""
    local, averaged = (read_tensors(done[name] / "checkpoints" / "last")[0] for name in ("local", "averaged"))
    differing = {name for name in local if not torch.equal(local[name], averaged[name])}
    assert differing == {name for name in local if name.endswith(("running_mean", "running_var"))}


def test_local_statistics_are_taken_from_the_first_rank() -> None:
    class Other(World):
        """The first rank's tensors are all 3."""

        def sum_(self, tensors: Any) -> None:
            for tensor in tensors:
                tensor.add_(3)

    learner = Learner("joint", Policy(), nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))
    learner.world, learner.statistics = Other(1, 2), "local"
    learner.agree()
    assert torch.equal(learner.weights["1.running_mean"], torch.full((2,), 3.0))
    learner.statistics = "synchronised"
    learner.agree()
    assert torch.equal(learner.weights["1.running_mean"], torch.full((2,), 3.0)), (
        "they are the same on every rank already"
    )


def test_a_copy_is_plain_batch_normalisation_that_shares_what_it_is_told_to() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).double()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    held = network[1].weight
    synchronise(network, World(0, 2))
    assert type(network[1]) is SynchronisedBatchNorm2d and network[1].weight is held, (
        "the optimizer goes on with the same tensors"
    )
    assert any(held is parameter for parameter in optimizer.param_groups[0]["params"])
    copied = copy.deepcopy(network)
    assert type(copied[1]) is nn.BatchNorm2d and copied[1].weight is not held and copied[1].training
    assert list(copied.state_dict()) == list(network.state_dict())
    shared = copy.deepcopy(network, {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())})
    assert shared[1].weight is held and foldable(network) == [("0", "1")]
    x = torch.rand(3, 1, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network.eval()(x), copied.eval()(x)), "evaluation asks no other rank"


def test_a_norm_that_stands_in_two_places_stays_one() -> None:
    norm = nn.BatchNorm1d(3)
    network = nn.Sequential(norm, nn.Linear(3, 3), norm, nn.InstanceNorm1d(3))
    synchronise(network, World(0, 2))
    assert network[0] is network[2] and network[0] is not norm and type(network[3]) is nn.InstanceNorm1d


def test_alone_nothing_is_replaced() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3))
    synchronise(network, ALONE)
    assert type(network[0]) is nn.BatchNorm1d


def test_refusals(tiny: Make) -> None:
    with pytest.raises(
        SettingsError, match="statistics = 'synchronised': '0' is a BatchNorm3d; must be BatchNorm1d or BatchNorm2d"
    ):
        synchronise(nn.Sequential(nn.BatchNorm3d(2)), World(0, 2))
    both = Placement(World(0, 2), {"joint": World(0, 2)}, False, {"joint": 2}, "synchronised")
    with pytest.raises(
        SettingsError, match="learner 'joint': microbatch = 7: must be none with statistics = 'synchronised'"
    ):
        check_shares(both, Joint(policy=Policy(microbatch=7)), {})
    check_shares(replace(both, statistics="averaged"), Joint(policy=Policy(microbatch=7)), {})
    with pytest.raises(SettingsError, match=r"Experiment\.statistics = 'global'"):
        tiny(statistics="global")


def test_synchronised_statistics_make_it_the_same_run_on_any_number_of_ranks(tiny: Make) -> None:
    method = tiny().method
    learners = method.learners(lambda name, policy: Learner(name, policy, tiny().model.build((1, 8, 8), 10, 0)))
    before = {"natural": 2, "robust": 2}
    assert shares_changed(before, placed("auto", method, ALONE, statistics="averaged"), learners)
    assert not shares_changed(before, placed("auto", method, ALONE, statistics="synchronised"), learners)
