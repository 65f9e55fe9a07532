"""How often a step of each objective asks the network: forwards and backward passes, K = 10, against the floors counted
by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from poise.attacks import Ascent
from poise.core.batches import Batch, Now
from poise.core.errors import SettingsError
from poise.core.settings import settings
from poise.learners import AWP, RWP, Learner, Policy, WeightPerturbation
from poise.learners.costs import forwards
from poise.methods import Generalist
from poise.objectives import (
    ADR,
    AT,
    BAT,
    FAT,
    FGSMPGI,
    GAIRAT,
    GAIRRST,
    IAT,
    MART,
    NFGSM,
    NT,
    RPAT,
    RST,
    TRADES,
    CollaborativeTraining,
    Objective,
    ReBAT,
    SqueezeTraining,
    TwoExamples,
    WeightedRST,
    squeeze,
)

LATE = Now(epoch=200, step=199, epochs=200, steps_per_epoch=1, seed=0)
"""Every schedule has begun."""
ADVERSARIAL_FIRST = TRADES(outer_order="adversarial_first")


@dataclass
class Counts:
    """Passes of one batch: forwards; backwards that reach images; backwards that reach weights."""

    forwards: int = 0
    to_images: int = 0
    to_weights: int = 0

    def reset(self) -> None:
        self.forwards = self.to_images = self.to_weights = 0

    @property
    def total(self) -> int:
        """In forwards: a backward pass to images is one, one to weights, which passes through activations too, two."""
        return self.forwards + self.to_images + 2 * self.to_weights


class _Watch(torch.autograd.Function):
    """The identity, which notes that a gradient passed."""

    @staticmethod
    def forward(ctx, z: Tensor, counts: Counts, kind: str) -> Tensor:  # type: ignore[override]
        ctx.counts, ctx.kind = counts, kind
        return z.view_as(z)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        setattr(ctx.counts, ctx.kind, getattr(ctx.counts, ctx.kind) + 1)
        return gradient, None, None


class Counted(nn.Module):
    """A linear network with batch normalisation whose passes are counted; a backward to weights counts the pass through
    activations too.
    """

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(5, 64, generator=generator))
        self.norm = nn.BatchNorm1d(5)
        counts = Counts()
        self.known = lambda: counts  # a function: what an attribute holds, copies of the network depend on

    @property
    def counts(self) -> Counts:
        return self.known()

    def forward(self, x: Tensor) -> Tensor:
        self.counts.forwards += 1
        return self.norm(
            _Watch.apply(x, self.counts, "to_images").flatten(1)
            @ _Watch.apply(self.weight, self.counts, "to_weights").T
        )


def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch.of(torch.rand(8, 1, 8, 8, generator=generator), torch.randint(5, (8,), generator=generator))


def counted(objective: Objective, perturbation: WeightPerturbation | None = None) -> Counts:
    """Of the second step; in the first one the Learner gets to know the network."""
    network = Counted()
    learner = Learner("joint", Policy(objective=objective, perturbation=perturbation), network)
    learner.descend(objective, batch(), LATE)
    network.counts.reset()
    learner.descend(objective, batch(), LATE)
    return network.counts


# objective, forwards, backward passes to images, backward passes to weights
TABLE: list[tuple[Objective, int, int, int]] = [
    (NT(), 1, 0, 1),
    (AT(), 11, 10, 1),
    (AT(beta=0.5), 12, 10, 2),
    (AT(beta=0.5, joint_batch=True), 11, 10, 1),
    (TRADES(), 14, 10, 2),
    (ADVERSARIAL_FIRST, 14, 10, 2),
    (MART(), 12, 10, 2),
    (FAT(), 11, 10, 1),
    (FAT(objective=TRADES()), 14, 10, 2),
    (FAT(objective=MART()), 12, 10, 2),
    (FAT(objective=RST()), 13, 10, 2),
    (IAT(), 12, 10, 2),
    (NFGSM(), 2, 1, 1),
    (FGSMPGI(), 3, 1, 2),
    (RPAT(), 13, 10, 3),
    (ReBAT(), 12, 10, 1),
    (ADR(), 12, 10, 1),
    (RST(), 13, 10, 2),
    (WeightedRST(), 12, 10, 2),
    (GAIRAT(), 11, 10, 1),
    (GAIRRST(), 24, 20, 3),
    (BAT(), 13, 10, 3),
    (CollaborativeTraining(), 12, 10, 2),
    (SqueezeTraining(), 24, 30, 3),
    (TwoExamples(objective=AT()), 22, 20, 2),
    (TwoExamples(objective=TRADES()), 28, 20, 4),
]


@pytest.fixture(autouse=True)
def somebody_chooses_the_natural_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Squeeze Training's full price: where no example does, it goes without that backward pass."""
    monkeypatch.setattr(squeeze, "_idle", lambda *_: False)


@pytest.mark.parametrize(
    ("objective", "passes", "to_images", "to_weights"), TABLE, ids=lambda value: type(value).__name__
)
def test_a_step_takes_as_many_passes_as_the_algorithm(
    objective: Objective, passes: int, to_images: int, to_weights: int
) -> None:
    assert counted(objective) == Counts(passes, to_images, to_weights)


@pytest.mark.parametrize(
    "objective",
    [row[0] for row in TABLE if not getattr(row[0], "joint_batch", False)],
    ids=lambda each: type(each).__name__,
)
@pytest.mark.parametrize("perturbation", [None, AWP(), RWP(steps=3)], ids=lambda value: type(value).__name__)
def test_recipes_state_these_costs(objective: Objective, perturbation: WeightPerturbation | None) -> None:
    counts = counted(objective, perturbation)
    assert counts.total == forwards(Policy(objective=objective, perturbation=perturbation))


@pytest.mark.parametrize(
    ("objective", "floor"),
    [(NT(), 3), (AT(), 23), (TRADES(), 28), (SqueezeTraining(), 60)],
    ids=lambda value: str(value)[:6],
)
def test_the_floors_are_reached(objective: Objective, floor: int) -> None:
    counts = counted(objective)
    assert counts.total == floor


@settings
class _Silent(NT):
    """Does not say what it costs."""

    forwards = Objective.forwards


def test_an_objective_that_does_not_say_its_cost_is_an_error_and_not_a_guess() -> None:
    with pytest.raises(SettingsError, match=r"_Silent\.forwards: the objective does not say what a step costs"):
        forwards(Policy(objective=_Silent()))


def test_generalist_costs_its_two_learners() -> None:
    method, networks = Generalist(), {}

    def build(name: str, policy: Policy) -> Learner:
        networks[name] = Counted()
        return Learner(name, policy, networks[name])

    learners = method.learners(build)
    for _ in range(2):
        for each in networks.values():
            each.counts.reset()
        method.step(learners, {name: batch() for name in learners}, replace(LATE, epoch=99, step=98))
    assert sum(each.counts.total for each in networks.values()) == 26


def test_trades_moves_statistics_three_times_and_nothing_else_asks_again() -> None:
    network = Counted()
    learner = Learner("joint", Policy(objective=TRADES(inner=Ascent(start="gaussian", steps=1))), network)
    learner.descend(TRADES(inner=Ascent(start="gaussian", steps=1)), batch(), LATE)
    assert network.norm.num_batches_tracked is not None and int(network.norm.num_batches_tracked) == 3


def test_squeeze_training_crafts_the_same_pair_without_the_gradient_nobody_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, objective = Counted(), SqueezeTraining()
    whole = objective.craft(network.train(), batch(), LATE)
    assert network.counts.to_images == 30
    network.counts.reset()
    monkeypatch.undo()
    spared = objective.craft(network, batch(), LATE)
    assert torch.equal(spared.x_adv, whole.x_adv) and torch.equal(spared.x_col, whole.x_col)
    assert network.counts.to_images < 30
