"""The straightforward steps of benchmarks/reference move the weights where Poise's do, so that timing them is fair
(float64).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from benchmarks.reference import GeneralistTrainer, at_step, mart_step, nt_step, trades_step
from benchmarks.reference.attacks import Noise
from torch import Tensor, nn

from poise.core.batches import Batch, Now
from poise.learners import SGD, Learner, Policy
from poise.methods import Generalist
from poise.models import ResNet20
from poise.objectives import AT, MART, NT, TRADES, Objective

STEPS, PER_EPOCH = 4, 2


def network() -> nn.Module:
    return ResNet20(width=4).build((3, 8, 8), 5, seed=3).double()


def batch(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    return Batch.of(
        torch.rand(6, 3, 8, 8, generator=generator, dtype=torch.float64), torch.randint(5, (6,), generator=generator)
    )


def moment(step: int) -> Now:
    return Now(step // PER_EPOCH + 1, step, STEPS // PER_EPOCH, PER_EPOCH, seed=7)


def noise_of(step: int, learner: str, start: str) -> Noise:
    """The displacement that Poise draws for this learner at this step."""
    draw = moment(step).within(learner).draw("craft", batch(step)).within("start")
    shape = (3, 8, 8)
    if start == "gaussian":
        return lambda x: 0.001 * draw.normal(*shape, dtype=x.dtype)
    return lambda x: (2 * draw.uniform(*shape, dtype=x.dtype) - 1) * 8 / 255


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(
            tensor, theirs[name], atol=1e-9, rtol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


Step = Callable[[nn.Module, torch.optim.Optimizer, Tensor, Tensor, Noise], float]
PAIRS: list[tuple[Objective, Step, str]] = [
    (NT(), lambda model, optimizer, x, y, noise: nt_step(model, optimizer, x, y), "uniform"),
    (AT(), at_step, "uniform"),
    (TRADES(), trades_step, "gaussian"),
    (MART(), mart_step, "gaussian"),
]


@pytest.mark.parametrize(("objective", "reference", "start"), PAIRS, ids=["NT", "AT", "TRADES", "MART"])
def test_one_learner_goes_the_same_way(objective, reference, start):
    learner = Learner("joint", Policy(objective=objective, optimizer=SGD(learning_rate=0.05)), network())
    theirs = network()
    before = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for step in range(STEPS):
        learner.descend(objective, batch(step), moment(step))
        reference(theirs, optimizer, batch(step).x, batch(step).y, noise_of(step, "joint", start))
    assert_same(dict(learner.weights), dict(theirs.state_dict()))
    assert not torch.allclose(before["conv1.weight"], theirs.state_dict()["conv1.weight"], atol=1e-4)


def test_generalist_goes_the_same_way_through_a_redistribution():
    method = Generalist(redistribute_from=0.9, redistribute_every=1)  # epoch 2 of 2
    learners = method.learners(lambda name, policy: Learner(name, policy, network()))
    trainer = GeneralistTrainer(network())
    for step in range(STEPS):
        now = moment(step)
        method.step(learners, {name: batch(step) for name in learners}, now)
        for optimizer, policy in zip(trainer.optimizers, (method.natural, method.robust), strict=True):
            optimizer.param_groups[0]["lr"] = policy.optimizer.learning_rate * policy.schedule.value(now)
        noise = noise_of(step, "robust", "uniform")
        trainer.step(batch(step).x, batch(step).y, noise, method.gamma.value(now), redistribute=step == PER_EPOCH)
    assert method.gamma.value(moment(STEPS - 1)) < 1  # so that the natural learner counts
    assert_same(dict(method.global_weights(learners)), trainer.whole.values)
    assert_same(dict(learners["natural"].weights), dict(trainer.natural.state_dict()))
    assert_same(dict(learners["robust"].weights), dict(trainer.robust.state_dict()))
