"""DVERGE: given distillations and losses, layers drawn per epoch, streams, resume, microbatches, refusals."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poise.attacks.ascent import Ascent, ascent
from poise.core.batches import Batch, Now
from poise.core.errors import SettingsError
from poise.core.modes import crafting
from poise.core.seeds import everyone
from poise.core.settings import from_json, to_json
from poise.data.dataset import Split
from poise.data.stream import Feed
from poise.learners import EMA, SGD, Learner, Policy
from poise.losses import cross_entropy
from poise.methods.dverge import (
    DVERGE,
    Distilled,
    Diversified,
    count_layers,
    distillation_score,
    features_at,
    layers_of,
)
from poise.methods.method import Method
from poise.models import Collaboration, DigitsCNN, Ensemble, EnsembleModule, Network, PreActResNet18, ResNet20
from poise.objectives import SqueezeTraining
from poise.threats import Linf

SHAPE = (1, 8, 8)
SHORT = Ascent(threat=Linf(epsilon=0.1), step_size=0.02, steps=2, start="zero")
SMALL = DVERGE(distillation=SHORT, batch_size=8, policy=Policy(optimizer=SGD(learning_rate=0.05)))


def close(ours: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(ours, expected, atol=tolerance, rtol=tolerance)


def split(count: int = 32) -> Split:
    draw = everyone(0, "split", count=count)
    return Split.of((draw.uniform(*SHAPE) * 256).to(torch.uint8), draw.within("labels").integers(10))


def started(method: DVERGE, network: Network | None = None) -> dict[str, Learner]:
    def build(name: str, policy: Policy) -> Learner:
        return Learner(name, policy, (network or Ensemble(member=DigitsCNN())).build(SHAPE, 10, 5).double())

    return method.learners(build)


def run(method: DVERGE, learners: dict[str, Learner], first: int, last: int, epochs: int = 3) -> dict[str, Tensor]:
    feeds = {name: Feed(stream, split(), 0, dtype=torch.float64) for name, stream in method.streams().items()}
    per_epoch = feeds["source"].steps_per_epoch
    metrics: dict[str, Tensor] = {}
    for step in range(first, last):
        moment = Now(step // per_epoch + 1, step, epochs, per_epoch, 0)
        metrics = method.step(learners, {name: feed.batch(moment) for name, feed in feeds.items()}, moment)
    return metrics


def states(learners: dict[str, Learner]) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": tensor.clone() for name, learner in learners.items() for key, tensor in learner.state().items()
    }


@pytest.fixture
def nets(vectors, network) -> list[nn.Module]:
    members, given = [], vectors("ensemble_nets")
    for number in range(3):
        member, prefix = copy.deepcopy(network), f"net{number}."
        member.load_state_dict(
            {name.removeprefix(prefix): tensor for name, tensor in given.items() if name.startswith(prefix)}
        )
        members.append(member.train())
    return members


def distilled(member: nn.Module, given: dict[str, Tensor], layer: int, mode: str) -> Tensor:
    name: Any = {"eval": "evaluating", "train": "training"}[mode]
    x, threat = given["x_source"], Linf(epsilon=float(given["eps"]))
    with crafting(member, name):
        score = distillation_score(member, layer, given["x_target"], recompute=name == "training")
        return ascent(
            score, x, x, threat=threat, step_size=float(given["alpha"]), steps=int(given["steps"]), momentum=1.0
        )


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("layer", [1, 3])
def test_distilled_images_are_the_given_ones(vectors, nets, layer, mode):
    given = vectors("dverge")
    close(distilled(nets[0], given, layer, mode), given[f"layer{layer}.{mode}.distilled0"], 1e-12)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_distillation_buffers_losses_and_gradients_are_the_given_ones(vectors, nets, mode):
    given = vectors("dverge")
    images = [distilled(member, given, 2, mode) for member in nets]
    y, prefix = given["y_source"], f"layer2.{mode}"
    for number, (member, found) in enumerate(zip(nets, images, strict=True)):
        close(found, given[f"{prefix}.distilled{number}"], 1e-12)
        for name, buffer in member.named_buffers():
            if mode == "train":
                torch.testing.assert_close(
                    buffer, given[f"{prefix}.bn_after_distill{number}.{name}"], atol=1e-9, rtol=1e-9
                )
    moment = Now(1, 0, 1, 1, 0)
    for number, member in enumerate(nets):
        others = torch.stack([images[other] for other in range(3) if other != number], 1)
        objective = Diversified(others, torch.zeros(1, dtype=torch.int64), 1.0, None, "training")
        examples = objective.craft(member, Batch.of(given["x_source"], y), moment)
        loss = objective.loss(member, examples, moment)["diversity"].mean()
        close(loss, given[f"{prefix}.loss{number}"])
        loss.backward()
        squares = [parameter.grad.square().sum() for parameter in member.parameters() if parameter.grad is not None]
        close(torch.stack(squares).sum().sqrt(), given[f"{prefix}.grad{number}_total_l2norm"])
        head = dict(member.named_parameters())["8.weight"].grad
        assert head is not None
        close(head, given[f"{prefix}.grad{number}.8.weight"])


def test_feature_distance_is_the_given_one(vectors):
    given = vectors("dverge")
    identity = nn.Sequential(nn.Identity())
    a = given["feature_mse.a"].clone().requires_grad_()
    value = -distillation_score(identity, 1, given["feature_mse.b"])(a)[0].mean()
    close(value, given["feature_mse.value"])
    close(torch.autograd.grad(value, a)[0].norm(), given["feature_mse.grad_norm"])


@pytest.mark.parametrize(("network", "shape", "count"), [(ResNet20(width=2), (3, 8, 8), 20), (DigitsCNN(), SHAPE, 4)])
def test_layers_are_counted_and_end_in_the_logits(network, shape, count):
    model = network.build(shape, 10, 0).eval()
    x = everyone(0, count=2).uniform(*shape)
    layers = list(layers_of(model, x))
    assert len(layers) == count_layers(model) == count
    torch.testing.assert_close(layers[-1], model(x))
    assert (layers[0] < 0).any()  # before the activation
    torch.testing.assert_close(features_at(model, 2, x), layers[1].flatten(1))
    with pytest.raises(SettingsError, match=f"has {count} layers"):
        features_at(model, count + 1, x)


def test_the_layer_is_drawn_per_epoch_from_seed_and_epoch_only():
    model = ResNet20(width=2).build((3, 8, 8), 10, 0)

    def layers(method: DVERGE, seed: int, step_of_epoch: int = 0) -> list[int]:
        return [
            method.layer(model, Now(epoch, (epoch - 1) * 9 + step_of_epoch, 400, 9, seed, "any"))
            for epoch in range(1, 401)
        ]

    drawn = layers(DVERGE(), 0)
    assert drawn == layers(DVERGE(), 0, step_of_epoch=5)
    assert drawn != layers(DVERGE(), 1)
    assert set(drawn) == set(range(1, 21))
    assert set(layers(DVERGE(include_logits=False), 0)) == set(range(1, 20))


def test_distillation_comes_nearer_to_the_targets_features_inside_the_threat():
    learners = started(SMALL)
    x, moment = split().pixels(dtype=torch.float64), Now(1, 0, 3, 2, 0)
    source, target = Batch.of(x[:8], split().labels[:8]), Batch.of(x[8:16], split().labels[8:16])
    method = DVERGE(
        distillation=Ascent(threat=Linf(epsilon=0.1), step_size=0.02, steps=8, start="zero"), craft_mode="evaluating"
    )
    learner = learners["expert-1"]
    found = method.distil(learner, source, target, moment)
    assert ((found - source.x).abs() <= 0.1 + 1e-12).all()
    with crafting(learner.network, "evaluating"):
        score = distillation_score(learner.network, method.layer(learner.network, moment), target.x)
        assert (score(found)[0] > score(source.x)[0]).all()


def test_source_and_target_are_shuffled_independently():
    feeds = {name: Feed(stream, split(), 0) for name, stream in SMALL.streams().items()}
    moment = Now(1, 0, 1, 4, 0)
    source, target = (feeds[name].batch(moment) for name in ("source", "target"))
    assert len(source) == len(target) == 8
    assert not torch.equal(source.ids, target.ids)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_step_is_the_papers_loop_written_out(smoothing):
    policy = Policy(optimizer=SGD(momentum=0))
    method = DVERGE(
        distillation=SHORT,
        adversarial=SHORT,
        diversity_weight=0.5,
        batch_size=8,
        policy=policy,
        label_smoothing=smoothing,
    )
    learners, plain = started(method), started(method)
    x, y = split().pixels(dtype=torch.float64), split().labels
    source, target, moment = Batch.of(x[:8], y[:8]), Batch.of(x[8:16], y[8:16]), Now(1, 0, 3, 2, 0)
    metrics = method.step(learners, {"source": source, "target": target}, moment)
    assert set(metrics) == {f"loss/expert-{i}/{term}" for i in (1, 2, 3) for term in ("diversity", "robust")}

    found = [method.distil(plain[name], source, target, moment) for name in method.names]
    for i, name in enumerate(method.names):
        network, policy = plain[name].network, plain[name].policy
        with crafting(network, "training"):
            x_adv = SHORT.maximise(
                lambda z, network=network: (cross_entropy(network(z), source.y), z),
                source.x,
                moment.within(name).draw("craft", source),
            )
        network.train()
        loss = (
            torch.stack([0.5 * cross_entropy(network(found[j]), source.y, smoothing) for j in range(3) if j != i])
            .sum(0)
            .mean()
        )
        loss = loss + cross_entropy(network(x_adv), source.y, smoothing).mean()
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter.sub_(0.1 * (gradient + 5e-4 * parameter))
        assert policy.optimizer.learning_rate == 0.1
        for key, tensor in learners[name].weights.items():
            torch.testing.assert_close(tensor, plain[name].weights[key], atol=1e-12, rtol=1e-12)


def test_experts_start_different_train_and_are_deployed_as_the_ensemble():
    learners = started(SMALL)
    before = states(learners)
    assert not torch.equal(before["expert-1/network/head.weight"], before["expert-2/network/head.weight"])
    metrics = run(SMALL, learners, 0, 2)
    assert all(value.isfinite() for value in metrics.values())
    after = states(learners)
    assert not any(torch.equal(before[name], after[name]) for name in before if name.endswith("weight"))
    ensemble = SMALL.deployed(learners)
    assert isinstance(ensemble, EnsembleModule)
    fresh = Ensemble(member=DigitsCNN()).build(SHAPE, 10, 0).double()
    fresh.load_state_dict(ensemble.state_dict())
    for number, name in enumerate(SMALL.names):
        for key, tensor in learners[name].weights.items():
            assert torch.equal(tensor, fresh.state_dict()[f"members.{number}.{key}"])
    x = split().pixels(dtype=torch.float64)
    torch.testing.assert_close(ensemble.eval()(x), fresh.eval()(x))


def test_a_resumed_run_is_bit_identical():
    method = DVERGE(
        distillation=SHORT,
        adversarial=SHORT,
        batch_size=8,
        policy=Policy(optimizer=SGD(learning_rate=0.05), average=EMA(decay=0.9)),
    )
    unbroken = started(method)
    run(method, unbroken, 0, 9)
    for stop in (3, 4, 7):  # within an epoch and between epochs, where another layer is drawn
        first = started(method)
        run(method, first, 0, stop)
        resumed = started(method)
        for name, learner in resumed.items():
            learner.load_state(first[name].state())
        run(method, resumed, stop, 9)
        expected = states(unbroken)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in states(resumed).items())


def test_microbatches_equal_one_batch():
    """Without joint batch statistics, which an evaluating craft and a network without batch normalisation leave out."""

    class Plain(Network):
        def module(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, classes))

    found = []
    for microbatch in (None, 3, 1):
        policy = Policy(optimizer=SGD(learning_rate=0.05), microbatch=microbatch)
        method = DVERGE(distillation=SHORT, adversarial=SHORT, batch_size=8, policy=policy)
        learners = started(method, Ensemble(member=Plain()))
        run(method, learners, 0, 2)
        found.append(states(learners))
    for other in found[1:]:
        for name, tensor in other.items():
            torch.testing.assert_close(tensor, found[0][name], atol=1e-12, rtol=1e-12)


def test_one_expert_alone_has_only_its_adversarial_term():
    method = DVERGE(experts=1, distillation=SHORT, adversarial=SHORT, batch_size=8)
    metrics = run(method, started(method, Ensemble(member=DigitsCNN(), members=1)), 0, 1)
    assert set(metrics) == {"loss/expert-1/robust"}


def test_an_expert_without_anything_to_learn_is_refused():
    with pytest.raises(SettingsError, match="one expert has no other"):
        DVERGE(experts=1)


def test_the_model_must_be_the_ensemble_that_the_method_speaks_of():
    for network, sentence in [
        (DigitsCNN(), "members of an Ensemble, not PlainModule"),
        (Collaboration(member=DigitsCNN()), "not CollaborationModule"),
        (Ensemble(member=DigitsCNN(), members=2), "experts = 3.* but the model has 2 members"),
        (Ensemble(member=DigitsCNN(), output="vote"), "output 'vote'"),
        (Ensemble(member=PreActResNet18(width=2)), "not of PreActResNetModule"),
    ]:
        with pytest.raises(SettingsError, match=sentence):
            started(SMALL, network)


def test_settings_survive_json():
    method = DVERGE(adversarial=SHORT, include_logits=False)
    assert from_json(Method, to_json(method)) == method
    assert Distilled.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_before_distilling_the_experts_train_by_themselves_on_natural_images():
    """Two of three epochs; then the step is the one of an ensemble trained before."""
    waiting = dataclasses.replace(SMALL, natural_until=2 / 3)
    learners = started(waiting)
    feeds = {name: Feed(stream, split(), 0, dtype=torch.float64) for name, stream in waiting.streams().items()}

    def terms(epoch: int) -> set[str]:
        per_epoch = feeds["source"].steps_per_epoch
        now = Now(epoch, (epoch - 1) * per_epoch, 3, per_epoch, 0)
        return {
            name.rpartition("/")[2]
            for name in waiting.step(learners, {name: feed.batch(now) for name, feed in feeds.items()}, now)
        }

    assert [terms(epoch) for epoch in (1, 2, 3)] == [{"natural"}, {"natural"}, {"diversity"}]


def test_noise_between_the_steps_of_a_search_that_takes_none_is_refused():
    noisy = Ascent(jitter=0.1)
    with pytest.raises(SettingsError, match=r"DVERGE\.distillation\.jitter = 0\.1: must be 0"):
        DVERGE(distillation=noisy)
    with pytest.raises(SettingsError, match=r"SqueezeTraining\.inner\.jitter = 0\.1: must be 0"):
        SqueezeTraining(inner=noisy)
