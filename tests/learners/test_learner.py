"""The Learner: one order, one reduction, and a state that resumes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from poise.core.batches import Batch, Now
from poise.core.errors import CheckpointError, NumericalError, SettingsError
from poise.core.settings import registered
from poise.learners import AWP, EMA, RWP, SGD, Adam, AdamW, Constant, Learner, OneCycle, Policy
from poise.learners.averages import accumulate, copied, weights_of
from poise.methods import Joint
from poise.objectives import AT, MART, NT, TRADES, Objective

NOW = Now(epoch=2, step=3, epochs=4, steps_per_epoch=3, seed=0)


def plain_network(seed: int = 0) -> nn.Module:
    """Without BatchNorm, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.Softplus(), nn.Flatten(), nn.Linear(4 * 16, 5)).double()


def normed_network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 5)
        ).double()


def batch(size: int = 10) -> Batch:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(size, 1, 8, 8, generator=generator, dtype=torch.float64)
    return Batch.of(x, torch.randint(5, (size,), generator=generator))


def stepped(policy: Policy, network: nn.Module, steps: int = 2) -> dict[str, torch.Tensor]:
    learner = Learner("joint", policy, network)
    for step in range(steps):
        learner.descend(policy.objective, batch(), dataclasses.replace(NOW, step=3 + step))
    return learner.state()


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


OBJECTIVES: list[Objective] = [NT(), AT(), AT(beta=0.5), TRADES(), TRADES(divergence="js"), MART()]


@pytest.mark.parametrize("perturbation", [None, AWP(), RWP(steps=2)], ids=["plain", "AWP", "RWP"])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_microbatches_equal_one_batch(objective, perturbation):
    whole = Policy(objective=objective, perturbation=perturbation)
    parts = dataclasses.replace(whole, microbatch=3)  # 3 + 3 + 3 + 1
    one, several = stepped(whole, plain_network()), stepped(parts, plain_network())
    for name in one:
        torch.testing.assert_close(several[name], one[name], atol=1e-12, rtol=1e-10)


def test_nt_step_is_textbook_sgd():
    network, reference = plain_network(), plain_network()
    policy = Policy(
        objective=NT(), optimizer=SGD(learning_rate=0.1, momentum=0.9, weight_decay=0.01), schedule=Constant(at=0.5)
    )
    Learner("joint", policy, network).descend(policy.objective, batch(), NOW)
    loss = nn.functional.cross_entropy(reference(batch().x), batch().y)
    gradients = torch.autograd.grad(loss, list(reference.parameters()))
    with torch.no_grad():
        for parameter, gradient, moved in zip(reference.parameters(), gradients, network.parameters(), strict=True):
            torch.testing.assert_close(moved, parameter - 0.05 * (gradient + 0.01 * parameter))


def test_metrics_are_the_terms_of_the_loss():
    policy = Policy(objective=TRADES(beta=2))
    metrics = Learner("joint", policy, plain_network()).descend(policy.objective, batch(), NOW)
    assert {name for name in metrics if name.startswith("loss/")} == {"loss/joint/natural", "loss/joint/robust"}
    assert all(value.dim() == 0 and not value.requires_grad for value in metrics.values())


def test_the_network_comes_back_in_its_mode_with_its_parameters_thawed():
    network = normed_network().eval()
    policy = Policy(objective=AT())
    Learner("joint", policy, network).descend(policy.objective, batch(), NOW)
    assert not network.training
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_clipping_bounds_the_gradient():
    network = plain_network()
    before = copied(weights_of(network))
    policy = Policy(objective=NT(), optimizer=SGD(learning_rate=1.0, momentum=0, weight_decay=0), clip=1e-3)
    Learner("joint", policy, network).descend(policy.objective, batch(), NOW)
    moved = torch.cat([(after - before[name]).flatten() for name, after in weights_of(network).items()])
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-4)


@pytest.mark.parametrize("optimizer", [SGD(), SGD(nesterov=True), Adam(), AdamW()], ids=repr)
@pytest.mark.parametrize(
    "average", [None, EMA(decay=0.9), EMA(decay=0.9, buffers="copy")], ids=["raw", "ema", "ema-copied-buffers"]
)
def test_a_learner_resumes_bit_for_bit(optimizer, average):
    policy = Policy(objective=AT(), optimizer=optimizer, average=average, perturbation=AWP())

    def descend(learner: Learner, steps: range) -> None:
        for step in steps:
            learner.descend(policy.objective, batch(), dataclasses.replace(NOW, step=step))
            learner.accumulate("global", 0.9, learner.averaged, 0.5)

    unbroken = Learner("joint", policy, normed_network())
    unbroken.begin("global", share=1.0)
    descend(unbroken, range(2))
    saved = {name: tensor.clone() for name, tensor in unbroken.state().items()}
    descend(unbroken, range(2, 5))
    again = Learner("joint", policy, normed_network(seed=9))
    again.begin("global", share=1.0)
    again.load_state(saved)
    descend(again, range(2, 5))
    assert equal(unbroken.state(), again.state())


def test_a_state_of_another_network_is_refused():
    learner = Learner("joint", Policy(), plain_network())
    state = learner.state()
    state["network/3.weight"] = torch.zeros(2, 2)
    with pytest.raises(
        CheckpointError, match=r"'joint': network/3\.weight is of shape \[2, 2\], must be of shape \[5, 64\]"
    ):
        learner.load_state(state)


def test_exploded_weights_are_named():
    learner = Learner("joint", Policy(), plain_network())
    with torch.no_grad():
        next(learner.network.parameters()).fill_(torch.inf)
    with pytest.raises(NumericalError, match=r"0\.weight is no longer finite"):
        learner.check_finite()


def test_ema_follows_its_recurrence_and_its_buffers_obey():
    first = {"w": torch.tensor([0.0]), "bn.running_mean": torch.tensor([0.0]), "count": torch.tensor(1)}
    then = {"w": torch.tensor([1.0]), "bn.running_mean": torch.tensor([2.0]), "count": torch.tensor(7)}
    late = dataclasses.replace(NOW, step=10**6)
    averaged, copied_buffers = copied(first), copied(first)
    EMA(decay=0.75).update(averaged, then, late)
    EMA(decay=0.75, buffers="copy").update(copied_buffers, then, late)
    assert averaged["w"].item() == 0.25 and averaged["bn.running_mean"].item() == 0.5 and averaged["count"].item() == 7
    assert copied_buffers["w"].item() == 0.25 and copied_buffers["bn.running_mean"].item() == 2.0


def test_shares_of_weight_zero_leave_integers_alone():
    total = {"w": torch.tensor([4.0]), "count": torch.tensor(3)}
    accumulate(total, 0.5, {"w": torch.tensor([9.0]), "count": torch.tensor(8)}, weight=0.0)
    assert total["w"].item() == 2.0 and total["count"].item() == 3


def test_one_cycle_rises_and_falls():
    schedule = OneCycle(rise=0.5)
    values = [schedule.value(Now(1, step, 1, 10, 0)) for step in range(10)]
    assert max(values) == values[4] == 1.0
    assert values[-1] == 0.0
    assert values[:5] == sorted(values[:5]) and values[4:] == sorted(values[4:], reverse=True)


def test_awp_moves_each_layer_by_gamma_times_its_norm_and_back():
    network = plain_network()
    policy = Policy(
        objective=NT(), optimizer=SGD(learning_rate=1e-12, momentum=0, weight_decay=0), perturbation=AWP(gamma=0.1)
    )
    before = copied(weights_of(network))
    moves = AWP(gamma=0.1).move([network[0].weight], lambda keep: [torch.ones_like(network[0].weight)])  # type: ignore[index]
    assert float(moves[0].detach().norm()) == pytest.approx(0.1 * float(network[0].weight.detach().norm()))  # type: ignore[index]
    Learner("joint", policy, network).descend(policy.objective, batch(), NOW)
    for name, tensor in weights_of(network).items():
        torch.testing.assert_close(tensor, before[name], atol=1e-10, rtol=0)


def test_perturbations_wait_for_their_epoch():
    assert not AWP(from_epoch=3).active(NOW)
    assert AWP(from_epoch=2).active(NOW)


def test_sgd_refuses_nesterov_without_momentum():
    with pytest.raises(SettingsError, match="needs momentum"):
        SGD(nesterov=True, momentum=0)


def test_every_objective_is_registered_once():
    assert {"NT", "AT", "TRADES", "MART"} <= set(registered(Objective))


class Keeping(nn.Module):
    """Keeps an activation, has a head that no loss asks, and a frozen layer."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.last, self.aside = nn.Conv2d(1, 3, 3), nn.Linear(3 * 36, 4), nn.Linear(2, 2)
            self.frozen = nn.Conv2d(3, 3, 1).requires_grad_(False)
        self.seen: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.seen = self.frozen(self.first(x)).relu()
        return self.last(found.flatten(1))


@pytest.mark.parametrize("perturbation", [AWP(), RWP()], ids=["AWP", "RWP"])
def test_weights_that_are_frozen_or_in_no_loss_stay_where_they_are(perturbation):
    network = Keeping()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    policy = Policy(objective=AT(), optimizer=SGD(weight_decay=0), perturbation=perturbation)
    images = Batch.of(torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(3)), torch.arange(6) % 4)
    Learner("net", policy, network).descend(policy.objective, images, NOW)
    moved = {
        name for name, tensor in network.state_dict().items() if not torch.allclose(tensor, before[name], atol=1e-7)
    }
    assert moved == {"first.weight", "first.bias", "last.weight", "last.bias"}


def test_a_network_that_keeps_an_activation_can_be_deployed():
    network = Keeping()
    learner = Learner("joint", Policy(objective=NT()), network)
    images = Batch.of(torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(3)), torch.arange(6) % 4)
    learner.descend(NT(), images, NOW)
    deployed = Joint(policy=learner.policy).deployed({"joint": learner})
    assert (
        equal(dict(deployed.state_dict()), learner.weights)
        and deployed.get_parameter("last.weight") is not network.last.weight
    )
    assert isinstance(network.seen, torch.Tensor) and network.seen.requires_grad
