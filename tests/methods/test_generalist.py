"""Generalist: the global learner, redistribution, and the released code's variants."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from poise.core.batches import Batch, Now
from poise.core.errors import SettingsError
from poise.core.overrides import override
from poise.core.settings import from_json, to_json
from poise.learners import EMA, SGD, Adam, Constant, Learner, PiecewiseLinear, Policy
from poise.learners.averages import weights_of
from poise.methods import Generalist, Joint
from poise.objectives import AT, NT, TRADES


class Three(nn.Module):
    """A three-vector parameter, a two-vector floating buffer and a counter: the network of the averaging vectors."""

    def __init__(self, w: Tensor, running: Tensor, count: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w.clone())
        self.register_buffer("running", running.clone())
        self.register_buffer("count", count.clone())


class Scripted(Learner):
    """A learner whose steps are given: it adds the next update of the vectors."""

    updates: tuple[Tensor, Tensor]

    def descend(self, objective, batch, now):
        w, running = self.updates
        with torch.no_grad():
            self.weights["w"].add_(w[now.step])
            self.weights["running"].add_(running[now.step])
            self.weights["count"].add_(1)
        if self.policy.average is not None and self.average is not None:
            self.policy.average.update(self.average, self.weights, now)
        return {}


VARIANTS = {
    "every_step": "every_step",
    "once_after_first_step": "after_first_step",
    "once_before_first_step": "epoch_start",
    "never": "never",
}


def trajectories(given: dict[str, Tensor]) -> list[tuple[str, str, str, float, str]]:
    """(prefix, nested|single, variant, alpha, gamma key) for each trajectory stored."""
    found = []
    for key in given:
        if key.endswith(".g"):
            prefix = key.removesuffix(".g")
            kind, _, rest = prefix.partition("_")
            if kind in ("nested", "single") and "OFFICIAL_BUG" not in prefix:
                variant = next(name for name in VARIANTS if rest.startswith(name))
                alpha = float(rest.split("alpha")[1].split("_")[0])
                found.append(
                    (
                        prefix,
                        kind,
                        VARIANTS[variant],
                        alpha,
                        "gamma_values_zero_end" if "zero_end" in rest else "gamma_values",
                    )
                )
    return found


def test_averaging_trajectories(vectors):
    given = vectors("generalist_averaging")
    rows = trajectories(given)
    assert len(rows) >= 6
    epochs = int(given["epoch_of_step"].max())
    steps_per_epoch = len(given["epoch_of_step"]) // epochs
    for prefix, kind, variant, alpha, gamma_key in rows:
        average = EMA(decay=alpha) if kind == "nested" else None
        at = tuple(float(epoch) / epochs for epoch in given["gamma_epochs"])
        method = Generalist(
            natural=Policy(objective=NT(), average=average),
            robust=Policy(objective=AT(), average=average),
            gamma=PiecewiseLinear(at=at, values=tuple(given[gamma_key].tolist())),
            decay=alpha,
            redistribute_from=2 / epochs,
            redistribute_every=2,
            redistribute=variant,  # type: ignore[arg-type]
            idle=False,  # the base learners' paths are compared too
        )

        def build(name: str, policy: Policy) -> Learner:
            network = Three(given["init_w"], given["init_running"], given["init_count"])
            learner = Scripted(name, policy, network)
            letter = name[0]
            learner.updates = (given[f"update_{letter}_w"], given[f"update_{letter}_running"])
            return learner

        learners = method.learners(build)
        for step, epoch in enumerate(given["epoch_of_step"].tolist()):
            method.step(learners, {"natural": None, "robust": None}, Now(epoch, step, epochs, steps_per_epoch, 0))  # type: ignore[dict-item]
            theta = method.global_weights(learners)
            ours = {"g": theta["w"], "g_running": theta["running"]}
            ours |= {"r": learners["robust"].weights["w"], "n": learners["natural"].weights["w"]}
            if average is not None:
                ours |= {
                    f"teacher_{letter}": learners[name].averaged["w"]
                    for letter, name in (("n", "natural"), ("r", "robust"))
                }
                ours["teacher_r_running"] = learners["robust"].averaged["running"]
            for name, value in ours.items():
                if f"{prefix}.{name}" in given:
                    assert torch.allclose(value, given[f"{prefix}.{name}"][step], atol=1e-9, rtol=1e-9), (
                        f"{prefix}.{name}, step {step}"
                    )


# -- on a small network -----------------------------------------------------------------------------------------------


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3, 2, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 4)
        ).double()


def batch(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    return Batch.of(
        torch.rand(8, 1, 8, 8, generator=generator, dtype=torch.float64), torch.randint(4, (8,), generator=generator)
    )


def build(name: str, policy: Policy) -> Learner:
    return Learner(name, policy, network())


def run(method: Generalist, epochs: int = 4, per_epoch: int = 3) -> dict[str, Learner]:
    learners = method.learners(build)
    for step in range(epochs * per_epoch):
        now = Now(step // per_epoch + 1, step, epochs, per_epoch, seed=0)
        method.step(learners, {name: batch(step) for name in learners}, now)
    return learners


SMALL = Generalist(
    natural=Policy(objective=NT(), optimizer=SGD(learning_rate=0.05)),
    robust=Policy(objective=AT(), optimizer=SGD(learning_rate=0.05)),
    decay=0.5,
    decay_warmup=False,
    redistribute_every=2,
)


def test_the_accumulators_sum_to_the_initial_weights_before_the_first_step():
    learners = SMALL.learners(build)
    for name, tensor in SMALL.global_weights(learners).items():
        assert torch.equal(tensor, weights_of(network())[name])


def test_global_learner_is_the_ema_of_the_mix():
    """Algorithm 1 line by line, on whole weight vectors instead of accumulators."""
    method = dataclasses.replace(SMALL, redistribute="never", gamma=Constant(at=0.7))
    learners = method.learners(build)
    theta = {name: tensor.clone() for name, tensor in weights_of(network()).items() if tensor.is_floating_point()}
    for step in range(5):
        now = Now(1, step, 1, 5, seed=0)
        method.step(learners, {name: batch(step) for name in learners}, now)
        for name in theta:
            mix = 0.7 * learners["robust"].weights[name] + 0.3 * learners["natural"].weights[name]
            theta[name] = 0.5 * theta[name] + 0.5 * mix
    for name, tensor in method.global_weights(learners).items():
        if name in theta:
            torch.testing.assert_close(tensor, theta[name], atol=1e-12, rtol=1e-12)


def test_gamma_one_and_no_decay_is_adversarial_training():
    method = dataclasses.replace(SMALL, redistribute="never", gamma=Constant(at=1.0), decay=0.0)
    learners = run(method)
    policy = method.robust
    alone = Learner("robust", policy, network())
    for step in range(12):
        alone.descend(policy.objective, batch(step), Now(step // 3 + 1, step, 4, 3, seed=0))
    for name, tensor in method.deployed(learners).state_dict().items():
        assert torch.equal(tensor, alone.weights[name])


def test_redistribution_makes_both_learners_the_global_one_once_per_epoch():
    method = dataclasses.replace(SMALL, redistribute="after_first_step", redistribute_from=0.5)
    learners = method.learners(build)
    equal_after = []
    for step in range(12):
        method.step(learners, {name: batch(step) for name in learners}, Now(step // 3 + 1, step, 4, 3, seed=0))
        equal_after.append(torch.equal(learners["natural"].weights["0.weight"], learners["robust"].weights["0.weight"]))
    assert [step for step, same in enumerate(equal_after) if same] == [3, 9]  # epochs 2 and 4


def test_redistribution_epochs_of_the_paper(vectors):
    assert Generalist().redistribution_epochs(120) == vectors("schedules")["generalist_sync_epochs_1based"].tolist()
    assert dataclasses.replace(Generalist(), redistribute="never").redistribution_epochs(120) == []


@pytest.mark.parametrize("momentum", ["kept", "reset"])
def test_momentum_is_kept_or_reset(momentum):
    method = dataclasses.replace(
        SMALL, redistribute="after_first_step", momentum=momentum, redistribute_from=0.0, redistribute_every=1
    )
    learners = method.learners(build)
    method.step(learners, {name: batch(0) for name in learners}, Now(1, 0, 4, 3, seed=0))
    assert bool(learners["robust"].optimizer.state) == (momentum == "kept")


def test_any_two_objectives_and_policies_go_together():
    method = override(SMALL, ["robust=TRADES", "robust.beta=2", "natural.optimizer=Adam", "natural.average=EMA"])
    assert isinstance(method.robust.objective, TRADES) and isinstance(method.natural.optimizer, Adam)
    learners = run(method, epochs=2)
    assert all(torch.isfinite(tensor).all() for tensor in method.global_weights(learners).values())


def test_the_deployed_network_is_a_copy():
    learners = SMALL.learners(build)
    deployed = SMALL.deployed(learners)
    with torch.no_grad():
        next(deployed.parameters()).zero_()
    assert float(learners["robust"].weights["0.weight"].abs().sum()) > 0


def test_joint_deploys_its_average_if_it_has_one():
    for average in (None, EMA(decay=0.5, warmup=False)):
        method = Joint(policy=Policy(objective=NT(), average=average, optimizer=SGD(learning_rate=0.5)))
        learners = method.learners(build)
        method.step(learners, {"joint": batch(0)}, Now(1, 0, 1, 1, seed=0))
        raw, shipped = learners["joint"].weights["4.weight"], method.deployed(learners).state_dict()["4.weight"]
        assert torch.equal(raw, shipped) == (average is None)


def test_settings_round_trip():
    assert from_json(Generalist, to_json(SMALL)) == SMALL


def test_refusals():
    with pytest.raises(SettingsError, match=r"Generalist\.redistribute_from = 75"):
        Generalist(redistribute_from=75)
    with pytest.raises(SettingsError, match=r"Generalist\.redistribute = 'sometimes'"):
        Generalist(redistribute="sometimes")  # type: ignore[arg-type]
