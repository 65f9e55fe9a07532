"""Learners whose work cannot reach the global learner are left idle, and the global learner's bits stay the same."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poise.core.batches import Batch, Now
from poise.learners import EMA, SGD, Constant, Learner, PiecewiseLinear, Policy
from poise.learners.costs import forwards
from poise.methods import Generalist
from poise.methods.idle import idle_epochs
from poise.objectives import AT, NT
from poise.recipes import experiment, recipes

EPOCHS, PER_EPOCH = 16, 2
SMALL = Generalist(
    natural=Policy(objective=NT(), optimizer=SGD(learning_rate=0.05)),
    robust=Policy(objective=AT(), optimizer=SGD(learning_rate=0.05)),
    decay=0.5,
    redistribute_every=2,
    momentum="reset",
)


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 3, 3, 2, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 4))


def batch(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    return Batch.of(torch.rand(8, 1, 8, 8, generator=generator), torch.randint(4, (8,), generator=generator))


def trained(method: Generalist) -> tuple[list[dict[str, Tensor]], set[int]]:
    """The global learner after every step, and the epochs in which the natural learner moved."""
    learners = method.learners(lambda name, policy: Learner(name, policy, network()))
    path, moved = [], set()
    for step in range(EPOCHS * PER_EPOCH):
        now = Now(step // PER_EPOCH + 1, step, EPOCHS, PER_EPOCH, seed=0)
        metrics = method.step(learners, dict.fromkeys(learners, batch(step)), now)
        moved |= {now.epoch for name in metrics if "natural/" in name}
        path.append({name: tensor.clone() for name, tensor in method.global_weights(learners).items()})
    return path, moved


def same(left: list[dict[str, Tensor]], right: list[dict[str, Tensor]]) -> bool:
    return all(torch.equal(a[name], b[name]) for a, b in zip(left, right, strict=True) for name in a)


NESTED = dataclasses.replace(
    SMALL, natural=dataclasses.replace(SMALL.natural, average=EMA(decay=0.5)), averages="reset"
)


@pytest.mark.parametrize("when", ["epoch_start", "after_first_step", "every_step"])
@pytest.mark.parametrize("method", [SMALL, NESTED], ids=["single", "nested, reset"])
def test_the_global_learner_is_the_same_bit_for_bit(method, when):
    method = dataclasses.replace(method, redistribute=when)
    lazy, moved = trained(method)
    eager, always = trained(method.diagnosed())
    assert same(lazy, eager)
    assert always == set(range(1, EPOCHS + 1)) and len(moved) < EPOCHS
    if when == "epoch_start":
        assert moved == set(range(10, EPOCHS + 1)), (
            "gamma leaves 1 in epoch 11; what precedes 10 is overwritten at its start"
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"momentum": "kept"},
        {"natural": dataclasses.replace(SMALL.natural, average=EMA(decay=0.5))},
        {"natural": Policy(objective=NT(), optimizer="Adam"), "momentum": "kept"},  # type: ignore[arg-type]
        {"redistribute": "never"},
        {"idle": False},
    ],
    ids=["momentum kept", "own average kept", "Adam kept", "never overwritten", "off"],
)
def test_a_learner_whose_past_is_kept_is_trained_throughout(changes):
    method = dataclasses.replace(SMALL, **changes)
    first = Now(1, 0, EPOCHS, PER_EPOCH, seed=0)
    assert not any(method.is_idle("natural", dataclasses.replace(first, epoch=epoch)) for epoch in range(1, EPOCHS + 1))


def test_kept_momentum_would_not_give_the_same_bits():
    """Why the saving is refused there: leaving the learner idle all the same changes the global learner."""

    kept = dataclasses.replace(SMALL, momentum="kept")

    class Careless(Generalist):
        def forgets(self, name: str) -> bool:
            return True

    fields: dict[str, Any] = {field.name: getattr(kept, field.name) for field in dataclasses.fields(kept)}
    assert not same(trained(Careless(**fields))[0], trained(kept)[0])


def test_kept_momentum_of_zero_is_no_past():
    plain = dataclasses.replace(SMALL.natural, optimizer=SGD(momentum=0.0))
    assert dataclasses.replace(SMALL, natural=plain, momentum="kept").forgets("natural")


def test_a_learner_that_never_counts_is_never_trained():
    method = dataclasses.replace(SMALL, gamma=Constant(at=1.0), redistribute="never", momentum="kept")
    assert trained(method)[1] == set()


def test_idle_epochs_at_the_papers_schedule():
    """gamma leaves 1 after epoch 80; redistribution at 75 and 80: of 120 epochs the natural learner is needed in the
    last 41.
    """
    paper = Generalist()
    single = dataclasses.replace(
        paper,
        natural=dataclasses.replace(paper.natural, average=None),
        momentum="reset",
        robust=dataclasses.replace(paper.robust, average=None),
    )
    idle = [epoch for epoch in range(1, 121) if single.is_idle("natural", Now(epoch, 0, 120, 3, 0))]
    assert idle == list(range(1, 80))
    assert not any(single.is_idle("robust", Now(epoch, 0, 120, 3, 0)) for epoch in range(1, 121))
    assert round(23 + 3 * 41 / 120, 1) == 24.0


def test_schedules_that_change_within_an_epoch_count_by_step():
    gamma = PiecewiseLinear(at=(0, 1), values=(0, 1))
    now = Now(1, 0, 4, 3, 0)
    late = idle_epochs(
        now,
        weight=lambda moment: float(moment.step == 7),
        before=lambda moment: moment.step == 6,
        after=lambda moment: False,
    )
    assert late == {1, 2, 4}
    assert idle_epochs(now, weight=gamma.value, before=lambda moment: False, after=lambda moment: False) == frozenset()


def test_a_recipe_idles_and_says_what_it_then_costs() -> None:
    made = experiment("generalist_cifar10_resnet18_idle")
    method = made.method
    assert isinstance(method, Generalist)
    costs = {name: forwards(policy) for name, policy in method.policies().items()}
    nows = [Now(epoch, 391 * (epoch - 1), made.epochs, 391, 0) for epoch in range(1, made.epochs + 1)]
    idle = [now.epoch for now in nows if method.is_idle("natural", now)]
    assert idle == list(range(1, 80)) and not any(method.is_idle("robust", now) for now in nows)
    mean = sum(cost for now in nows for name, cost in costs.items() if not method.is_idle(name, now)) / len(nows)
    assert (
        f"Cost: {mean:.1f} forwards an image on average, {sum(costs.values())} without idling"
        in recipes()[made.name].text
    )
    row = experiment("generalist_cifar10_resnet18").method
    assert isinstance(row, Generalist) and not any(row.is_idle(name, now) for name in costs for now in nows), (
        "the row's settings never do"
    )
