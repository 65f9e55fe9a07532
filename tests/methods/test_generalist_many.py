"""More than two base learners: the mixing vector, and that settings reach every one of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from poise.attacks import Ascent
from poise.core.batches import Batch, Now
from poise.core.errors import SettingsError
from poise.core.overrides import override
from poise.core.settings import from_json, to_json
from poise.engine import Experiment
from poise.learners import EMA, SGD, Adam, Constant, Learner, PiecewiseLinear, Policy, Step
from poise.learners.averages import weights_of
from poise.methods import BaseLearner, Generalist
from poise.objectives import AT, NT, TRADES
from poise.threats import L2

FLAT = Policy(
    objective=AT(inner=Ascent(threat=L2(epsilon=0.5), step_size=0.1, steps=3)), optimizer=SGD(learning_rate=0.03)
)
THREE = Generalist(
    natural=Policy(objective=NT(), optimizer=SGD(learning_rate=0.05)),
    robust=Policy(objective=AT(), optimizer=SGD(learning_rate=0.05)),
    others=(BaseLearner(name="l2", policy=FLAT, share=Constant(at=0.2)),),
    gamma=Constant(at=0.5),
    decay=0.5,
    decay_warmup=False,
)


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3, 2, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 4)
        ).double()


def build(name: str, policy: Policy) -> Learner:
    return Learner(name, policy, network())


def batch(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    return Batch.of(
        torch.rand(8, 1, 8, 8, generator=generator, dtype=torch.float64), torch.randint(4, (8,), generator=generator)
    )


def test_the_global_learner_is_the_ema_of_the_three_way_mix_and_redistribution_reaches_all():
    method = dataclasses.replace(THREE, redistribute="after_first_step", redistribute_from=1.0, redistribute_every=2)
    learners = method.learners(build)
    assert list(learners) == ["natural", "robust", "l2"] == list(method.streams())
    theta = {name: tensor.clone() for name, tensor in weights_of(network()).items() if tensor.is_floating_point()}
    for step in range(3):
        method.step(learners, dict.fromkeys(learners, batch(step)), Now(1, step, 2, 3, seed=0))
        for name in theta:
            parts = {key: learner.weights[name] for key, learner in learners.items()}
            theta[name] = 0.5 * theta[name] + 0.5 * (0.4 * parts["natural"] + 0.4 * parts["robust"] + 0.2 * parts["l2"])
    found = method.global_weights(learners)
    assert not torch.equal(learners["l2"].weights["4.weight"], learners["robust"].weights["4.weight"])
    for name, tensor in theta.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-12, rtol=1e-12)
    assert found["1.num_batches_tracked"] == 3

    method.step(learners, dict.fromkeys(learners, batch(3)), Now(2, 3, 2, 3, seed=0))
    for learner in learners.values():
        assert torch.equal(learner.weights["4.weight"], learners["robust"].weights["4.weight"])


def test_integer_buffers_are_the_robust_learners_whatever_its_share_is():
    """Counters of batches are no weighted sum: a share of zero must not stop them, nor leave the robust learner
    idle.
    """
    method = dataclasses.replace(
        THREE, gamma=Constant(at=0.0), momentum="reset", redistribute="after_first_step", redistribute_from=1.0
    )
    method = dataclasses.replace(method, redistribute_every=2)
    learners = method.learners(build)
    for step in range(4):
        method.step(learners, dict.fromkeys(learners, batch(step)), Now(step // 3 + 1, step, 2, 3, seed=0))
        assert method.global_weights(learners)["1.num_batches_tracked"] == step + 1
    assert {int(learner.weights["1.num_batches_tracked"]) for learner in learners.values()} == {4}


def test_shares_leave_the_rest_to_gamma_and_add_up_to_one():
    assert THREE.mixing(Now(1, 0, 4, 3, 0)) == {"natural": 0.4, "robust": 0.4, "l2": 0.2}
    ramp = dataclasses.replace(THREE.others[0], share=PiecewiseLinear(at=(0, 1), values=(0, 0.3)))
    fourth = BaseLearner(name="fourth", policy=Policy(), share=Constant(at=0.1))
    method = dataclasses.replace(THREE, others=(ramp, fourth), gamma=PiecewiseLinear(values=(1, 1, 1, 0.5)))
    mixes = [method.mixing(Now(epoch, 0, 120, 1, 0)) for epoch in range(1, 121)]
    assert all(min(mix.values()) >= 0 and sum(mix.values()) == pytest.approx(1) for mix in mixes)
    assert mixes[-1] == pytest.approx({"natural": 0.3, "robust": 0.3, "l2": 0.3, "fourth": 0.1})


def test_without_others_the_mix_is_exactly_gamma():
    method = Generalist()
    for epoch in (1, 81, 97, 120):
        now = Now(epoch, 0, 120, 1, 0)
        gamma = method.gamma.value(now)
        assert method.mixing(now) == {"natural": 1 - gamma, "robust": gamma}


def test_settings_of_every_learner_survive_json_and_can_be_overridden():
    assert from_json(Generalist, to_json(THREE)) == THREE
    changed = override(
        THREE,
        [
            "others.0.objective=TRADES",
            "others.0.beta=2",
            "others.0.optimizer=Adam",
            "others.0.average=EMA",
            "others.0.share.at=0.1",
        ],
    )
    assert isinstance(changed.others[0].policy.objective, TRADES) and changed.others[0].policy.objective.beta == 2
    assert isinstance(changed.others[0].policy.optimizer, Adam) and changed.others[0].policy.average == EMA()
    assert changed.mixing(Now(1, 0, 1, 1, 0))["l2"] == 0.1
    added = override(Generalist(), ['others=[{"name": "l2", "policy": "TRADES"}]'])
    assert isinstance(added.others[0].policy.objective, TRADES)


def test_a_learner_state_goes_on_where_it_was():
    """Resume: three learners, stopped in the middle of the averages, give the bits of the unbroken run."""
    unbroken, broken = THREE.learners(build), THREE.learners(build)
    for step in range(6):
        now = Now(step // 3 + 1, step, 2, 3, seed=0)
        if step == 4:
            saved = {
                name: {key: tensor.clone() for key, tensor in learner.state().items()}
                for name, learner in broken.items()
            }
            broken = THREE.learners(build)
            for name, learner in broken.items():
                learner.load_state(saved[name])
        for learners in (unbroken, broken):
            THREE.step(learners, dict.fromkeys(learners, batch(step)), now)
    for name, tensor in THREE.global_weights(unbroken).items():
        assert torch.equal(tensor, THREE.global_weights(broken)[name])


def trained(epochs: int, **settings: Any) -> Experiment:
    return Experiment(method=Generalist(**settings), epochs=epochs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BaseLearner(name="robust"), r"BaseLearner\.name = 'robust': must be one word other than"),
        (lambda: BaseLearner(name="global"), r"BaseLearner\.name = 'global': must be one word other than .*'global'"),
        (lambda: BaseLearner(name="bound"), r"BaseLearner\.name = 'bound'"),
        (lambda: BaseLearner(name="l 2"), r"BaseLearner\.name = 'l 2'"),
        (lambda: Generalist(others=(BaseLearner(), BaseLearner())), r"Generalist\.others = \['third', 'third'\]"),
        (
            lambda: trained(120, gamma=Constant(at=1.2)),
            r"Generalist\.gamma: at epoch 1 of 120 the mix is .*must be in \[0, 1\]",
        ),
        (lambda: trained(120, others=(BaseLearner(share=Constant(at=1.1)),)), "the mix is"),
        (lambda: trained(400, gamma=Step(at=(300,), factors=(1.5,))), "at epoch 300 of 400 the mix is"),
    ],
)
def test_refusals(make, message):
    assert trained(299, gamma=Step(at=(300,), factors=(1.5,)))
    with pytest.raises(SettingsError, match=message):
        make()
