"""What training of large and pretrained networks asks of learners: groups of parameters, warm-up, heads, adaptive
ascents, draws.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from poise.attacks import Ascent
from poise.core.batches import Batch, Now
from poise.core.errors import CheckpointError, SettingsError
from poise.core.progress import Progress
from poise.core.seeds import Draw
from poise.data import Digits
from poise.engine.checkpoints import write_tensors
from poise.engine.experiment import Experiment
from poise.engine.loop import train
from poise.learners import SGD, Adam, AdamW, Learner, Optimizer, Policy, WarmupCosine
from poise.learners.optimizers import _layer, grouped
from poise.methods import Joint
from poise.models import DigitsCNN
from poise.models.heads import with_fresh_head
from poise.objectives import AT, NT
from poise.threats import L2, Linf


class Layered(nn.Module):
    """Named as a ResNet's or a transformer's parts are."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)) for _ in range(2))
        )
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def now(step: int, epochs: int = 10, per_epoch: int = 4) -> Now:
    return Now(step // per_epoch + 1, step, epochs, per_epoch, 0)


def test_without_further_settings_all_parameters_are_one_group() -> None:
    network = Layered()
    for optimizer in (SGD(), Adam(), AdamW()):
        (group,) = optimizer.build(network).param_groups
        assert group["params"] == list(network.parameters())


def test_vectors_are_left_out_of_weight_decay_on_request() -> None:
    network = Layered()
    built = AdamW(weight_decay=0.05, betas=(0.9, 0.95), decay_vectors=False).build(network)
    decay = {id(parameter): group["weight_decay"] for group in built.param_groups for parameter in group["params"]}
    assert {name: decay[id(parameter)] for name, parameter in network.named_parameters()} == {
        name: 0.05 if parameter.dim() > 1 else 0.0 for name, parameter in network.named_parameters()
    }
    assert built.param_groups[0]["betas"] == (0.9, 0.95) and len(decay) == len(list(network.parameters()))


@pytest.mark.parametrize("optimizer", [SGD(layer_decay=0.5), AdamW(layer_decay=0.5)])
def test_layers_before_the_last_learn_slower_by_a_factor_each(optimizer: Optimizer) -> None:
    network = Layered()
    scale = {id(parameter): group["scale"] for group in grouped(network, 0.0, 0.5) for parameter in group["params"]}
    assert scale[id(network.head.weight)] == scale[id(network.head.bias)] == 1
    assert [scale[id(parameter)] for parameter in network.blocks.parameters()] == [0.25] * 4 + [0.5] * 4
    assert scale[id(network.stem.weight)] == 0.125
    learner = Learner("joint", Policy(objective=NT(), optimizer=optimizer, schedule=0.1), network)  # pyright: ignore[reportArgumentType]
    learner.descend(NT(), Batch.of(torch.rand(4, 3, 4, 4), torch.arange(4)), now(0))
    rates = sorted({group["lr"] for group in learner.optimizer.param_groups})
    assert rates == pytest.approx([optimizer.learning_rate * 0.1 * share for share in (0.125, 0.25, 0.5, 1)])
    with pytest.raises(SettingsError, match=r"layer_decay = 1.5"):
        SGD(layer_decay=1.5)


def test_layers_are_what_architectures_call_their_blocks() -> None:
    names = {
        "layer1.0.downsample.0.weight": "layer1.0",
        "stages.2.blocks.5.conv_dw.weight": "stages.2.blocks.5",
        "network.blocks.3.mlp.fc1.bias": "network.blocks.3",
        "fc.weight": "fc",
        "cls_token": "cls_token",
        "0.weight": "0",
        "conv1.weight": "conv1",
    }
    assert {name: _layer(name) for name in names} == names


def test_warm_up_rises_to_one_and_the_cosine_falls_to_its_end() -> None:
    schedule = WarmupCosine(warmup=2, start=0.1, end=0.005)
    values = [schedule.value(now(step)) for step in range(40)]
    assert values[7] == 1 and values[3] == pytest.approx(0.1 + 0.9 / 2) and values[39] == pytest.approx(0.005)
    assert values[23] == pytest.approx((1 + 0.005) / 2), "half way down after 6 of 10 epochs"
    assert values[:8] == sorted(values[:8]) and values[7:] == sorted(values[7:], reverse=True)


def test_a_head_of_other_classes_begins_anew_and_nothing_else_does() -> None:
    network, given = Layered(), Layered()
    given.head = nn.Linear(4, 9)
    weights, fresh = with_fresh_head(given.state_dict(), network, 5)
    assert fresh == ["head.weight", "head.bias"]
    assert all(weights[name].equal(tensor) for name, tensor in network.state_dict().items() if name in fresh)
    assert all(weights[name].equal(tensor) for name, tensor in given.state_dict().items() if name not in fresh)
    given.stem = nn.Conv2d(3, 8, 3)
    assert with_fresh_head(given.state_dict(), network, 5)[1] == fresh, (
        "other differences stay for `load_into` to refuse"
    )


class Heard(Progress):
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)


def test_a_run_begins_from_weights_of_other_classes_with_a_fresh_head(tmp_path: Path) -> None:
    model, data = DigitsCNN(), Digits(train_images=64, test_images=16)
    pretrained = model.build((1, 8, 8), 17, seed=9)
    write_tensors(tmp_path / "pretrained", pretrained.state_dict(), {})
    experiment = Experiment(
        data=data,
        model=model,
        method=Joint(batch_size=32),
        epochs=1,
        seed=1,
        initial=str(tmp_path / "pretrained.safetensors"),
    )
    heard = Heard()
    run = train(experiment, tmp_path / "run", progress=heard)
    assert run.network("last")(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert any(
        "is of a network with other classes, so" in sentence and "begin anew" in sentence
        for sentence in heard.sentences
    )
    other = model.build((3, 8, 8), 17, seed=9)
    write_tensors(tmp_path / "pretrained", other.state_dict(), {})
    with pytest.raises(CheckpointError, match="has shape"):
        train(experiment, tmp_path / "other")


def quadratic(centre: Tensor):
    def score(z: Tensor) -> tuple[Tensor, Tensor]:
        values = -(z - centre).flatten(1).square().sum(1)
        return values, values[:, None]

    return score


@pytest.mark.parametrize("threat", [Linf(epsilon=0.1), L2(epsilon=0.5)])
def test_an_adaptive_ascent_finds_the_maximum_inside_and_keeps_the_best_point(threat: Linf | L2) -> None:
    x = torch.full((3, 1, 4, 4), 0.5)
    centre = x + 0.037 * torch.tensor([1.0, -1.0, 0.5])[:, None, None, None]
    draw = Draw(0, torch.arange(3))
    found = Ascent(threat=threat, steps=60, start="zero", adaptive=True).maximise(quadratic(centre), x, draw)
    torch.testing.assert_close(found, centre, atol=2e-3, rtol=0)
    for steps in (0, 1, 2, 3, 7):
        found = Ascent(threat=threat, steps=steps, start="zero", adaptive=True).maximise(quadratic(x), x, draw)
        assert torch.equal(found, x), "no later point is better than the start"


def test_two_adaptive_steps_are_those_of_the_algorithm_by_hand() -> None:
    x, slope = torch.full((1, 1, 1, 2), 0.5), torch.tensor([1.0, -2.0])
    asked: list[Tensor] = []

    def score(z: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(z.detach().clone())
        return (z * slope).flatten(1).sum(1), z.flatten(1)

    found = Ascent(threat=Linf(epsilon=0.1), steps=2, start="zero", adaptive=True).maximise(
        score, x, Draw(0, torch.arange(1))
    )
    corner = x + 0.1 * slope.sign()
    torch.testing.assert_close(torch.cat(asked), torch.cat([x, corner, corner]))
    torch.testing.assert_close(found, corner)
    with pytest.raises(SettingsError, match=r"Ascent.jitter = 0.1: must be 0 where the ascent is adaptive"):
        Ascent(adaptive=True, jitter=0.1)


def test_what_a_network_draws_itself_goes_by_the_step_and_leaves_torchs_generator_alone() -> None:
    def stepped(*steps: int) -> Tensor:
        torch.manual_seed(3)
        network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 5))
        learner = Learner("joint", Policy(objective=AT(inner=Ascent(steps=1))), network)
        batch = Batch.of(torch.rand(8, 3, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 5)
        torch.manual_seed(sum(steps))
        before = torch.get_rng_state()
        for step in steps:
            learner.descend(learner.policy.objective, batch, now(step))
        assert torch.equal(before, torch.get_rng_state())
        return learner.weights["2.weight"].detach().clone()

    assert torch.equal(stepped(2), stepped(2)) and not torch.equal(stepped(2), stepped(3))
