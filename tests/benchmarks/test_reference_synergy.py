"""The straightforward step of Synergy-of-Experts moves the weights where Poise's does, in both phases (float64)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from benchmarks.reference.attacks import Noise
from benchmarks.reference.synergy import SynergyTrainer
from benchmarks.synergy_steps import EPSILON, OBJECTIVE, QUICK, main

from poise.core.batches import Batch, Now
from poise.learners import SGD, Learner, Policy
from poise.models import Collaboration, CollaborationModule, ResNet20

SHAPE = (3, 8, 8)
RATE = 0.05


def experts() -> CollaborationModule:
    made = Collaboration(member=ResNet20(width=2), members=3).build(SHAPE, 5, seed=3).double()
    assert isinstance(made, CollaborationModule)
    return made


def batch(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    return Batch.of(
        torch.rand(6, *SHAPE, generator=generator, dtype=torch.float64), torch.randint(5, (6,), generator=generator)
    )


def noise_of(now: Now, step: int, source: int | str) -> Noise:
    """The displacement that Poise draws for this source at this step."""
    draw = now.within("joint").draw("craft", batch(step)).within("source", source).within("start")
    return lambda x: (2 * draw.uniform(*SHAPE, dtype=x.dtype) - 1) * EPSILON


def test_the_reference_takes_poises_step_in_both_phases():
    policy = Policy(objective=OBJECTIVE, optimizer=SGD(learning_rate=RATE, weight_decay=1e-4))
    learner, theirs = Learner("joint", policy, experts()), experts()
    trainer = SynergyTrainer(list(theirs.members), RATE)
    before = theirs.state_dict()["members.0.backbone.conv1.weight"].clone()
    for step in range(3):
        now = Now(step + 1, step, 3, 1, seed=7)
        phase = OBJECTIVE.phase(now)
        assert phase == (2 if step == 2 else 1)
        learner.descend(OBJECTIVE, batch(step), now)
        noises = [noise_of(now, step, source) for source in ((0, 1, 2) if phase == 1 else ("collaboration",))]
        trainer.step(batch(step).x, batch(step).y, noises, EPSILON, EPSILON / 4, phase)
        for name, tensor in learner.weights.items():
            message = lambda text, name=name, step=step: f"step {step}, {name}: {text}"  # noqa: E731
            torch.testing.assert_close(tensor, theirs.state_dict()[name], atol=1e-9, rtol=1e-9, msg=message)
    assert not torch.allclose(before, theirs.state_dict()["members.0.backbone.conv1.weight"], atol=1e-4)


@pytest.mark.parametrize(("members", "phase", "each"), [(3, 1, 32), (5, 1, 38), (3, 2, 26)])
def test_floors_are_the_counted_ones(members, phase, each):
    assert sum(replace(QUICK[0], members=members).floor(phase)) == each * members


def test_the_benchmark_runs():
    text = main(quick=True, rounds=1)
    assert "phase I, 3 x DigitsCNN" in text
    assert "phase II, 3 x DigitsCNN" in text
