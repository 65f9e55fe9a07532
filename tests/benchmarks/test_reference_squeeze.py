"""The straightforward step of Squeeze Training moves the weights where Poise's does, so that timing them is fair
(float64).
"""

from __future__ import annotations

import torch
from benchmarks.reference.attacks import Noise
from benchmarks.reference.squeeze import squeeze_step
from torch import nn

from poise.core.batches import Batch, Now
from poise.learners import SGD, Learner, Policy
from poise.models import ResNet20
from poise.objectives import SqueezeTraining

STEPS = 3


def network() -> nn.Module:
    return ResNet20(width=4).build((3, 8, 8), 5, seed=3).double()


def batch(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    return Batch.of(
        torch.rand(6, 3, 8, 8, generator=generator, dtype=torch.float64), torch.randint(5, (6,), generator=generator)
    )


def moment(step: int) -> Now:
    return Now(1, step, 1, STEPS, seed=7)


def noises(step: int) -> tuple[Noise, Noise]:
    """The displacements that Poise draws for the adversarial and the collaborative start."""
    draw = moment(step).within("joint").draw("craft", batch(step))
    starts = [
        0.001 * draw.within(role).within("start").normal(3, 8, 8, dtype=torch.float64)
        for role in ("adversarial", "collaborative")
    ]
    return lambda x: starts[0], lambda x: starts[1]


def test_squeeze_training_goes_the_same_way():
    learner = Learner("joint", Policy(objective=SqueezeTraining(), optimizer=SGD(learning_rate=0.05)), network())
    theirs = network()
    before = theirs.state_dict()["conv1.weight"].clone()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for step in range(STEPS):
        learner.descend(SqueezeTraining(), batch(step), moment(step))
        squeeze_step(theirs, optimizer, batch(step).x, batch(step).y, noises(step))
    ours = dict(learner.weights)
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-9, rtol=1e-9)
    assert not torch.allclose(before, theirs.state_dict()["conv1.weight"], atol=1e-4)
