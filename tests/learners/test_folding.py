"""Crafting against the folded copy is crafting against the network."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.attacks.ascent import Ascent
from poise.core.batches import Batch, Now
from poise.core.modes import CraftMode, crafting
from poise.learners import Learner, Policy
from poise.learners.optimizers import gradients_of
from poise.learners.precision import Precision
from poise.models import (
    VGG16,
    Collaboration,
    DigitsCNN,
    Ensemble,
    Network,
    PreActResNet18,
    ResNet18,
    ResNet20,
    SlimCNN,
    SmallCNN,
    WideResNet,
)
from poise.models.folding import Folded, foldable, gradients_in_any_layout
from poise.objectives import AT, TRADES, SqueezeTraining, TwoExamples
from poise.objectives.squeeze import Pair

NOW = Now(epoch=1, step=0, epochs=2, steps_per_epoch=2, seed=5)
NETWORKS: list[tuple[Network, int, int]] = [  # smallest image, convolutions folded
    (ResNet20(width=4), 8, 21),
    (ResNet20(width=4, shortcut="pad"), 8, 19),
    (ResNet18(width=4, activation="silu"), 8, 20),
    (PreActResNet18(width=4), 8, 8),
    (WideResNet(depth=10, width=1), 8, 3),
    (VGG16(), 32, 13),
    (DigitsCNN(), 8, 3),
    (SlimCNN(), 8, 2),
    (SmallCNN(), 16, 0),
    (Ensemble(member=DigitsCNN(), members=2, output="mean_logits"), 8, 6),
    (Ensemble(member=DigitsCNN(), members=2), 8, 6),  # these two cannot be traced whole
    (Collaboration(member=ResNet20(width=4), members=2), 8, 42),
]
IDS = [type(network).__name__ + str(pairs) for network, _, pairs in NETWORKS]


def lively(network: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """With statistics, scales and shifts that are not those of initialisation."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None and norm.running_var is not None
                for tensor, low in (
                    (norm.running_mean, -0.2),
                    (norm.running_var, 0.5),
                    (norm.weight, 0.5),
                    (norm.bias, -0.2),
                ):
                    tensor.copy_(low + torch.rand(tensor.shape, generator=generator))
        for layer in network.modules():  # SmallCNN's head starts at zero
            if isinstance(layer, nn.Linear) and not layer.weight.any():
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
    return network.to(dtype)


def images(size: int, count: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(size)).to(dtype)


def with_gradient(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and the gradient of the cross-entropy with respect to the images."""
    leaf = x.clone().requires_grad_(True)
    with crafting(network, "evaluating"):
        logits = network(leaf)
        loss = F.cross_entropy(logits, torch.arange(len(x)), reduction="sum")
    return logits.detach(), torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize(("settings", "size", "pairs"), NETWORKS, ids=IDS)
def test_the_folded_copy_equals_the_network(settings, size, pairs):
    network = lively(settings.build((3, size, size), 5, seed=0))
    assert len(foldable(network)) == pairs
    folded = Folded(network).refreshed()
    assert (
        sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        == sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) - pairs
    )
    for ours, plain in zip(with_gradient(folded, images(size)), with_gradient(network, images(size)), strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-11, rtol=1e-9)


def test_the_copy_follows_weights_and_statistics_and_the_network_is_left_alone():
    network = lively(ResNet20(width=4).build((3, 8, 8), 5, seed=0))
    folded = Folded(network)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded.refreshed()(images(8))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters()) and network.training
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            tensor.add_(torch.ones_like(tensor), alpha=1)
    ours, plain = (with_gradient(model, images(8)) for model in (folded.refreshed(), network))
    torch.testing.assert_close(ours, plain, atol=1e-9, rtol=1e-9)


class Twice(nn.Module):
    """The convolution's output is read by the normalisation and by the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.conv(x)
        return (self.bn(z) + z).mean((2, 3))


class Shared(Twice):
    """The same convolution under the normalisation and without it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.bn(self.conv(x))).mean((2, 3))


class Undecided(Twice):
    """Python looks at the values: there is no graph to read."""

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x if float(x.detach().sum()) > 0 else -x)).mean((2, 3))


class Viewing(Twice):
    """`view` needs activations in the usual order."""

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).view(-1, 3, 64).mean(2)


class Flat(nn.Module):
    """Without a graph, as it asks for the number of images, and without a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.view(len(x), -1))


class Around(nn.Module):
    """A forward of one's own around a network of Poise."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = ResNet20().build((3, 8, 8), 5, seed=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(2 * x.view(len(x), 3, 8, 8) - 1)


@pytest.mark.parametrize("kind", [Flat, Around])
def test_a_network_that_wants_images_in_the_usual_order_is_trained_on_such(kind: type[nn.Module]):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        learner = Learner("joint", Policy(objective=TRADES()), kind())
    assert learner.layout is torch.contiguous_format
    learner.descend(TRADES(), Batch.of(images(8, 4, torch.float32), torch.arange(4)), NOW)


@pytest.mark.parametrize(
    ("kind", "pairs", "relaid"), [(Twice, 0, True), (Shared, 0, True), (Undecided, 0, False), (Viewing, 1, False)]
)
def test_networks_of_others_are_folded_and_relaid_only_where_that_is_sure(kind, pairs, relaid):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = lively(kind())
    assert len(foldable(network)) == pairs
    copied = Folded(network)
    assert copied.relaid == relaid
    folded = copied.refreshed()
    for ours, plain in zip(with_gradient(folded, images(8, 3)), with_gradient(network, images(8, 3)), strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-12, rtol=1e-10)


def test_hooks_stay_in_force():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert len(foldable(network)) == 1
    network[1].register_forward_hook(lambda module, given, found: None)
    assert foldable(network) == []


@pytest.mark.parametrize("objective", [AT(), TRADES()], ids=["AT", "TRADES"])
def test_a_learner_crafts_the_same_points_in_float64(objective):
    network = lively(ResNet20(width=4).build((3, 8, 8), 5, seed=0))
    batch = Batch.of(images(8), torch.arange(4))
    learner = Learner("joint", Policy(objective=objective), network)
    with crafting(network, "evaluating"):
        plain = objective.craft(network, batch, NOW)
        folded = objective.craft(learner._crafted_on(objective), batch, NOW)
    torch.testing.assert_close(folded.x_adv, plain.x_adv, atol=1e-12, rtol=0)


def test_in_float32_the_loss_at_the_crafted_points_is_the_same():
    network = lively(ResNet20(width=8).build((3, 16, 16), 10, seed=0), torch.float32)
    batch = Batch.of(images(16, 10, torch.float32), torch.arange(10))
    with crafting(network, "evaluating"):
        points = [AT().craft(model, batch, NOW).x_adv for model in (network, Folded(network).refreshed())]
        losses = [F.cross_entropy(network(x_adv), batch.y) for x_adv in points]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=0)
    assert float((points[0] == points[1]).float().mean()) > 0.99


@pytest.mark.parametrize(("width", "last"), [(4, False), (16, True)])
@pytest.mark.parametrize(
    ("objective", "forwards"), [(TRADES(), 3), (TwoExamples(objective=AT()), 2)], ids=["TRADES", "two"]
)
def test_a_network_is_trained_channels_last_only_where_its_gradients_are_right(objective, forwards, width, last):
    orders = {False: torch.contiguous_format, True: torch.channels_last}
    seen = []
    network = lively(ResNet20(width=width).build((3, 8, 8), 5, seed=0), torch.float32)
    network.register_forward_pre_hook(lambda module, given: seen.append(given[0]) if module.training else None)
    batch = Batch.of(images(8, 4, torch.float32).contiguous(memory_format=orders[not last]), torch.arange(4))
    learner = Learner("joint", Policy(objective=objective), network)
    learner.descend(objective, batch, NOW)
    assert len(seen) == forwards and learner.layout is orders[last]
    assert all(
        x.is_contiguous(memory_format=orders[last]) and not x.is_contiguous(memory_format=orders[not last])
        for x in seen
    )


@pytest.mark.parametrize(
    ("layer", "right"),
    [
        (nn.Conv2d(4, 8, 3, stride=2), True),
        (nn.Conv2d(4, 8, 1), True),
        (nn.Conv2d(16, 8, 1, stride=2), True),
        # one block where a processor takes 8 at a time, half of one where it takes 16
        (
            nn.Conv2d(8, 16, 1, stride=2),
            False,
        ),
        (nn.Conv2d(24, 16, 1, stride=(1, 2)), False),
        (nn.Conv2d(16, 16, 3, groups=16), False),
        (nn.Conv2d(16, 16, 3, dilation=2), False),
        (nn.ConvTranspose2d(16, 16, 2), False),
        (nn.Linear(4, 2), True),
    ],
    ids=str,
)
def test_of_which_layers_weight_gradients_may_be_taken_channels_last(layer: nn.Module, right: bool):
    assert gradients_in_any_layout(nn.Sequential(nn.Conv2d(3, 4, 3), layer)) == right


@pytest.mark.parametrize("mode", ["evaluating", "frozen_statistics", "training"])
@pytest.mark.parametrize(
    "network", [ResNet20(), WideResNet(depth=10, width=1), DigitsCNN()], ids=lambda value: type(value).__name__
)
def test_a_step_channels_last_is_the_step_in_the_usual_order(
    network: Network, mode: CraftMode, monkeypatch: pytest.MonkeyPatch
):
    """Up to rounding: the examples, the gradients and the running statistics of a squeezed pair. Ten steps would tell
    roundings apart.
    """
    objective = SqueezeTraining(craft_mode=mode, inner=Ascent(steps=1))
    batch = Batch.of(images(8, 8, torch.float32), torch.arange(8) % 5)
    found = []
    for order in (torch.channels_last, torch.contiguous_format):
        monkeypatch.setattr(Precision, "layout", lambda self, network, order=order: order)
        learner = Learner(
            "joint", Policy(objective=objective), lively(network.build((3, 8, 8), 5, seed=0), torch.float32)
        )
        _, (shown,) = learner.craft(objective, batch, NOW)
        assert isinstance(shown, Pair)
        learner.descend(objective, batch, NOW)
        found.append((shown, gradients_of(learner.network), dict(learner.network.named_buffers())))
    (one, gradients, buffers), (other, expected, usual) = found
    for ours, theirs in ((one.x_adv, other.x_adv), (one.x_col, other.x_col)):
        # a sign may turn where a gradient is nearly zero
        assert float((ours - theirs).abs().gt(1e-5).float().mean()) < 0.01
    assert all(torch.allclose(tensor, usual[name], rtol=1e-3, atol=1e-4) for name, tensor in buffers.items())
    for ours, theirs in zip(gradients, expected, strict=True):
        assert float((ours - theirs).norm()) <= 0.02 * float(theirs.norm()) + 1e-5


def test_learners_with_folded_copies_can_be_copied():
    policy = Policy(objective=AT())
    learner = Learner("joint", policy, lively(DigitsCNN().build((3, 8, 8), 5, seed=0)))
    batch = Batch.of(images(8), torch.arange(4))
    learner.descend(policy.objective, batch, NOW)
    again = copy.deepcopy(learner)
    for each in (learner, again):
        each.descend(policy.objective, batch, NOW)
    assert all(torch.equal(tensor, again.weights[name]) for name, tensor in learner.weights.items())
