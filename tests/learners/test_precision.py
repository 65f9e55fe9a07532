"""Training under bfloat16 autocast learns; verdicts are taken without it."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from poise.attacks import PGD
from poise.core.batches import Now
from poise.core.errors import SettingsError
from poise.core.exact import exact
from poise.core.overrides import override
from poise.data import Digits, Feed
from poise.engine import Experiment
from poise.evaluation.predictions import accuracy, attacked, predict
from poise.learners import Learner
from poise.learners.precision import PrecisionName, precision
from poise.methods import Generalist
from poise.models import DigitsCNN, Network, ResNet18, ResNet20
from poise.recipes.digits import THREAT, policy
from poise.recipes.registry import experiment

CPU, EPOCHS = torch.device("cpu"), 8


def trained(name: PrecisionName, seed: int) -> tuple[float, float]:
    """Natural and robust accuracy on test digits after a few epochs of Generalist."""
    data = Digits().load()
    method = experiment("generalist_digits").method
    assert isinstance(method, Generalist)
    arithmetic = precision(name, CPU)
    network = DigitsCNN()
    learners = method.learners(
        lambda name, policy: Learner(
            name, policy, network.build(data.shape, 10, seed=seed).to(arithmetic.dtype), arithmetic=arithmetic
        )
    )
    feeds = {name: Feed(stream, data.train, seed, CPU, arithmetic.dtype) for name, stream in method.streams().items()}
    per_epoch = feeds["robust"].steps_per_epoch
    for step in range(EPOCHS * per_epoch):
        now = Now(step // per_epoch + 1, step, EPOCHS, per_epoch, seed)
        method.step(learners, {name: feed.batch(now) for name, feed in feeds.items()}, now)
    deployed, test = method.deployed(learners), data.test
    ((_, robust),) = attacked(deployed, test, PGD(threat=THREAT, step_size=0.05, steps=5), batch_size=len(test))
    return accuracy(predict(deployed, test), test), accuracy(robust, test)


@pytest.mark.parametrize("model", [ResNet18(width=16), ResNet20()], ids=["ResNet18", "ResNet20"])
def test_gradients_of_convolutions_channels_last_are_right_up_to_bfloat16s_rounding(model: Network) -> None:
    """The studies' networks lie channels last, as known to be right; each convolution at its own shape, against
    float64.
    """
    network, arithmetic = model.build((3, 16, 16), 10, seed=0), precision("bfloat16", CPU)
    assert arithmetic.layout(network) is torch.channels_last
    shapes: dict[str, tuple[nn.Conv2d, torch.Size]] = {}

    def note(conv: nn.Module, given: tuple[torch.Tensor, ...], made: object) -> None:
        assert isinstance(conv, nn.Conv2d)
        shapes.setdefault(f"{conv}{given[0].shape}", (conv, given[0].shape))

    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(note)
    network(torch.zeros(16, 3, 16, 16))
    source = torch.Generator().manual_seed(0)
    assert len(shapes) > 5
    for conv, shape in shapes.values():
        x, towards = torch.randn(shape, generator=source), torch.randn(conv(torch.zeros(shape)).shape, generator=source)
        weights = []
        for chosen in (arithmetic, precision("float64", CPU)):
            own = copy.deepcopy(conv).to(chosen.dtype)
            with chosen.context():
                made = own(x.to(chosen.dtype).contiguous(memory_format=torch.channels_last))
            made.backward(towards.to(made.dtype).contiguous(memory_format=torch.channels_last))
            assert own.weight.grad is not None
            weights.append(own.weight.grad.double())
        assert float((weights[0] - weights[1]).norm() / weights[1].norm()) < 0.01, conv


@pytest.mark.slow
def test_bfloat16_ends_as_near_to_float32_as_float32s_seeds_are_to_each_other():
    plain, ours = (torch.tensor([trained(name, seed) for seed in range(4)]) for name in ("float32", "bfloat16"))
    assert bool((plain.mean(0) > torch.tensor([0.8, 0.4])).all())
    noise = plain.amax(0) - plain.amin(0)
    assert bool(((ours.mean(0) - plain.mean(0)).abs() <= noise).all()), (ours, plain)


def test_a_bfloat16_step_lowers_the_loss_and_keeps_float32_weights():
    data, objective = Digits().load(), policy(experiment("at_digits").method.policies()["joint"].objective)
    given = dataclasses.replace(objective, average=None, augmentation=None)
    learner = Learner("joint", given, DigitsCNN().build(data.shape, 10, seed=0), arithmetic=precision("bfloat16", CPU))
    feed = Feed(experiment("at_digits").method.streams()["joint"], data.train.first(32), 0)
    losses = [
        float(
            learner.descend(given.objective, feed.batch(Now(1, 0, 20, 1, 0)), Now(1, step, 20, 1, 0))[
                "loss/joint/robust"
            ]
        )
        for step in range(5)
    ]
    assert losses[-1] < losses[0] - 0.1
    assert {tensor.dtype for tensor in learner.weights.values() if tensor.is_floating_point()} == {torch.float32}


def test_verdicts_ignore_autocast_around_them():
    x, weight = torch.rand(4, 8), torch.rand(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ weight.T).dtype == torch.bfloat16
        with exact(CPU):
            assert (x @ weight.T).dtype == torch.float32
        assert (x @ weight.T).dtype == torch.bfloat16


@pytest.mark.parametrize("fails", [False, True])
def test_tf32_is_off_while_verdicts_are_taken_and_as_before_after(monkeypatch, fails):
    """The switches of convolutions and matrix products, which exist without a GPU too."""
    place = getattr(torch.backends.cudnn, "conv", torch.backends.cudnn)
    name = "fp32_precision" if hasattr(torch.backends.cudnn, "conv") else "allow_tf32"
    before = getattr(place, name)
    monkeypatch.setattr("torch.autocast", lambda *args, **kwargs: torch.no_grad())  # a GPU's needs one
    try:
        with exact(torch.device("cuda")):
            assert getattr(place, name) in ("ieee", False)
            if fails:
                raise ValueError
    except ValueError:
        pass
    assert getattr(place, name) == before and torch.backends.cudnn.allow_tf32


def test_an_experiment_takes_short_names_of_precisions_and_refuses_unknown_ones():
    assert [Experiment(precision=name).precision for name in ("fp32", "bf16", "auto")] == [  # pyright: ignore[reportArgumentType]
        "float32",
        "bfloat16",
        "auto",
    ]
    assert override(Experiment(), ["precision=bf16"]) == Experiment(precision="bfloat16")
    assert precision("fp64", CPU) == precision("float64", CPU)  # type: ignore[arg-type]
    for refused in (lambda: Experiment(precision="fp16"), lambda: precision("fp16", CPU)):  # type: ignore[arg-type]
        with pytest.raises(
            SettingsError, match=r"precision = 'fp16'.* must be 'auto', 'float32', 'bfloat16' or 'float64'"
        ):
            refused()
