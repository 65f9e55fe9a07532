"""Architectures: published sizes, interface, initialisation, and what a build may and may not touch."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from poise.core.errors import SettingsError
from poise.core.settings import from_json, registered, settings, to_json
from poise.models import (
    CIFAR10_NORMALISATION,
    VGG16,
    Classifier,
    DigitsCNN,
    Network,
    Normalisation,
    PreActResNet18,
    ResNet18,
    ResNet20,
    ResNetModule,
    SlimCNN,
    SmallCNN,
    WideResNet,
)
from poise.models.layers import PadShortcut

CIFAR, MNIST, DIGITS = (3, 32, 32), (1, 28, 28), (1, 8, 8)

SMALL = [  # one thin example of every architecture
    DigitsCNN(),
    SlimCNN(),
    SmallCNN(),
    ResNet18(width=4),
    ResNet18(width=4, activation="silu"),
    ResNet20(width=4),
    ResNet20(width=3, shortcut="pad", activation="leaky_relu"),
    PreActResNet18(width=4),
    PreActResNet18(width=4, final_norm=False),
    WideResNet(depth=10, width=1),
    WideResNet(depth=10, width=2, activation="silu"),
    VGG16(),
]


def classifier(network: Network, shape: tuple[int, int, int], classes: int = 10, seed: int = 0) -> Classifier:
    built = network.build(shape, classes, seed)
    assert isinstance(built, Classifier)
    return built


def resnet(network: Network) -> ResNetModule:
    built = network.build(CIFAR, 10, 0)
    assert isinstance(built, ResNetModule)
    return built


def parameters(network: Network, shape: tuple[int, int, int], classes: int = 10) -> int:
    with torch.device("meta"):  # sizes without the memory
        return sum(parameter.numel() for parameter in network.module(shape, classes).parameters())


@pytest.mark.parametrize(
    ("network", "shape", "count"),
    [
        (ResNet18(), CIFAR, 11_173_962),
        (PreActResNet18(final_norm=False), CIFAR, 11_171_146),
        (PreActResNet18(), CIFAR, 11_171_146 + 2 * 512),
        (ResNet20(), CIFAR, 272_474),
        (ResNet20(shortcut="pad"), CIFAR, 269_722),
        (WideResNet(depth=34), CIFAR, 46_160_474),
        (WideResNet(depth=28), CIFAR, 36_479_194),
        (VGG16(), CIFAR, 14_728_266),
        (SmallCNN(), MNIST, 312_202),
        (DigitsCNN(), DIGITS, 9 * (16 + 16 * 32 + 32 * 32) + 2 * 80 + 5130),
        (SlimCNN(), MNIST, 16 * (16 + 16 * 32) + 32 * 49 * 100 + 2 * 148 + 1010),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Network) else None,
)
def test_parameter_counts_are_the_published_ones(network, shape, count):
    assert parameters(network, shape) == count


def wide_resnet_formula(blocks: int, width: int, channels: int, classes: int) -> int:
    """Weights of a wide residual network, added up from the paper's Table 1."""
    widths = [16, 16 * width, 32 * width, 64 * width]
    total = 9 * channels * 16 + 2 * widths[-1] + (widths[-1] + 1) * classes
    for before, after in pairwise(widths):
        total += 2 * before + 9 * before * after + 2 * after + 9 * after**2 + (before != after) * before * after
        total += (blocks - 1) * (4 * after + 18 * after**2)
    return total


@pytest.mark.parametrize(("depth", "blocks"), [(8, 1), (10, 1), (28, 4), (32, 5), (34, 5), (40, 6)])
@pytest.mark.parametrize("width", [1, 5, 10])
def test_wide_resnet_size_follows_from_depth_and_width(depth, blocks, width):
    assert parameters(WideResNet(depth=depth, width=width), (1, 32, 32), 100) == wide_resnet_formula(
        blocks, width, 1, 100
    )


@pytest.mark.parametrize("network", SMALL, ids=str)
@pytest.mark.parametrize("shape", [CIFAR, (1, 33, 40), (2, 64, 32)], ids=str)
def test_logits_are_the_head_of_the_features_at_any_size(network, shape):
    model = classifier(network, shape, classes=7).eval()
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    features, logits = model.features(x), model(x)
    assert features.shape == (2, model.feature_dim)
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits, F.linear(features, model.head.weight, model.head.bias))


@pytest.mark.parametrize("network", SMALL, ids=str)
def test_the_smallest_image_works_and_a_smaller_one_is_refused(network):
    side = network.smallest
    model = network.build((1, side, side), 2, 0)
    assert model(torch.rand(3, 1, side, side)).shape == (3, 2)
    with pytest.raises(SettingsError, match=f"{side}x{side} pixels"):
        network.build((1, side, side - 1), 2, 0)


@pytest.mark.parametrize("network", SMALL, ids=str)
def test_gradients_reach_every_parameter(network):
    shape = CIFAR
    model = network.build(shape, 5, 0)
    x = torch.rand(4, *shape, generator=torch.Generator().manual_seed(1))
    F.cross_entropy(model(x), torch.tensor([0, 1, 2, 3])).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("network", SMALL, ids=str)
def test_weights_depend_on_the_seed_only(network):
    torch.manual_seed(5)
    first = network.build(CIFAR, 10, seed=1).state_dict()
    torch.rand(3)
    again = network.build(CIFAR, 10, seed=1).state_dict()
    other = network.build(CIFAR, 10, seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("network", SMALL, ids=str)
def test_building_leaves_the_global_generator_alone(network):
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    network.build(CIFAR, 10, seed=1)
    assert torch.equal(torch.rand(4), expected)


def test_a_default_device_does_not_move_the_build():
    with torch.device("meta"):
        model = DigitsCNN().build(DIGITS, 10, 0)
    assert {value.device.type for value in model.state_dict().values()} == {"cpu"}


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize("network", [ResNet20(), WideResNet(depth=16, width=4)], ids=str)
def test_residual_networks_start_with_fan_out_normal_convolutions(network):
    for conv in convolutions(network.build(CIFAR, 10, 0)):
        size = conv.kernel_size[0] * conv.kernel_size[1]
        expected = math.sqrt(2 / (size * conv.out_channels))
        weight = conv.weight.detach()
        spread = 5 * expected / math.sqrt(weight.numel())  # five standard errors of the mean
        assert abs(float(weight.mean())) < spread
        assert abs(float(weight.std()) - expected) < spread


@pytest.mark.parametrize("network", SMALL, ids=str)
def test_batch_normalisation_starts_at_one_and_zero(network):
    for layer in network.build(CIFAR, 10, 0).modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            assert torch.equal(layer.weight, torch.ones_like(layer.weight))
            assert torch.equal(layer.bias, torch.zeros_like(layer.bias))
            assert (layer.eps, layer.momentum) == (1e-5, 0.1)


def test_resnet18_keeps_the_default_initialisation():
    for conv in convolutions(ResNet18(width=16).build(CIFAR, 10, 0)):
        bound = 1 / math.sqrt(conv.weight[0].numel())  # uniform, PyTorch's default
        assert 0.9 * bound < float(conv.weight.detach().abs().max()) <= bound


def test_wide_resnet_head_starts_without_bias():
    assert not classifier(WideResNet(depth=10, width=1), CIFAR).head.bias.any()
    assert classifier(ResNet20(), CIFAR).head.bias.any()


def test_small_cnn_starts_undecided_with_kaiming_convolutions():
    model = classifier(SmallCNN(), MNIST)
    assert not model(torch.rand(2, *MNIST)).any()
    assert model.head.in_features == 200
    assert [layer.in_features for layer in model.modules() if isinstance(layer, nn.Linear)] == [64 * 4 * 4, 200, 200]
    for conv in convolutions(model):
        expected = math.sqrt(2 / conv.weight[0].numel())
        assert abs(float(conv.weight.detach().std()) - expected) < 5 * expected / math.sqrt(conv.weight.numel())
        assert conv.bias is not None
        assert not conv.bias.any()


@pytest.mark.parametrize("network", SMALL, ids=str)
def test_normalisation_inside_equals_outside(network):
    shape = CIFAR
    inside = type(network)(**{**fields(network), "normalise": CIFAR10_NORMALISATION}).build(shape, 10, 3).eval()
    outside = network.build(shape, 10, 3).eval()
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(2))
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])
    torch.testing.assert_close(inside(x), outside((x - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)))
    assert inside.state_dict().keys() == outside.state_dict().keys()


def fields(network: Network) -> dict:
    return {name: getattr(network, name) for name in to_json(network) if name != "type"}


def test_a_users_own_module_is_normalised_too():
    @settings
    class Flat(Network):
        def module(self, shape, classes):
            return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))

    x = torch.rand(2, 1, 4, 4)
    plain = Flat().build((1, 4, 4), 3, 0)
    normalised = Flat(normalise=Normalisation(mean=(0.5,), std=(0.25,))).build((1, 4, 4), 3, 0)
    torch.testing.assert_close(normalised(x), plain((x - 0.5) / 0.25))


@pytest.mark.parametrize(
    ("network", "layers"), [(ResNet20(width=4), 20), (ResNet18(width=4), 18), (ResNet20(width=4, shortcut="pad"), 20)]
)
def test_block_outputs_are_the_layers_before_their_activations(network, layers):
    model = resnet(network).eval()
    x = torch.rand(2, *CIFAR, generator=torch.Generator().manual_seed(3))
    outputs = list(model.block_outputs(x))
    assert len(outputs) == layers
    torch.testing.assert_close(outputs[0], model.bn1(model.conv1(x)))
    torch.testing.assert_close(outputs[-1], model(x))
    blocks = model.blocks()
    assert len(blocks) == layers // 2 - 1
    for number, block in enumerate(blocks):
        entering = F.relu(outputs[2 * number])
        torch.testing.assert_close(outputs[2 * number + 1], block.bn1(block.conv1(entering)))
        torch.testing.assert_close(F.relu(outputs[2 * number + 2]), block(entering))
        assert (outputs[2 * number + 2] < 0).any()


def test_block_outputs_see_the_normalised_image():
    model = resnet(ResNet20(width=4, normalise=CIFAR10_NORMALISATION)).eval()
    x = torch.rand(2, *CIFAR)
    *_, logits = model.block_outputs(x)
    torch.testing.assert_close(logits, model(x))


def test_block_outputs_compute_no_further_than_asked():
    model = resnet(ResNet20(width=4))
    model.blocks()[0].conv2 = nn.Conv2d(1, 1, 1)  # would raise if it were used
    outputs = model.block_outputs(torch.rand(2, *CIFAR))
    next(outputs)
    next(outputs)


def test_pad_shortcut_takes_every_second_pixel_and_pads_with_zeros():
    x = torch.rand(2, 4, 5, 6)
    y = PadShortcut(4, 8, 2)(x)
    assert y.shape == (2, 8, 3, 3)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert not y[:, :2].any()
    assert not y[:, 6:].any()


@pytest.mark.parametrize("network", [PreActResNet18(width=4), WideResNet(depth=16, width=2)], ids=str)
def test_pre_activation_blocks_follow_the_paper(network):
    model = network.build(CIFAR, 10, 0).double().eval()
    x = torch.rand(2, *CIFAR, dtype=torch.float64)
    z = model.conv1(x)
    for stage in model.layers:
        for block in stage:
            entering = F.relu(block.bn1(z))
            residual = block.conv2(F.relu(block.bn2(block.conv1(entering))))
            z = residual + (z if block.shortcut is None else block.shortcut(entering))
    expected = model.head(F.relu(model.bn(z)).mean((2, 3)))
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(
    "network", [n for n in SMALL if not isinstance(n, PreActResNet18 | WideResNet | SmallCNN)], ids=str
)
def test_every_convolution_is_followed_by_its_batch_normalisation(network):
    for parent in network.build(CIFAR, 10, 0).modules():
        children = list(parent.children())
        for layer, following in zip(children, [*children, None][1:], strict=True):
            if isinstance(layer, nn.Conv2d):
                assert isinstance(following, nn.BatchNorm2d)
                assert following.num_features == layer.out_channels


def test_leaky_slope_is_the_published_one():
    model = ResNet20(width=4, activation="leaky_relu").build(CIFAR, 10, 0)
    slopes = {layer.negative_slope for layer in model.modules() if isinstance(layer, nn.LeakyReLU)}
    assert slopes == {0.1}
    assert not any(isinstance(layer, nn.ReLU) for layer in model.modules())


@pytest.mark.parametrize("network", SMALL, ids=str)
def test_networks_are_registered_and_survive_json(network):
    assert type(network).__name__ in registered(Network)
    assert from_json(Network, to_json(network)) == network


@pytest.mark.parametrize("depth", [4, 7, 30, 33, 36])
def test_impossible_depths_are_refused(depth):
    with pytest.raises(SettingsError, match=f"depth = {depth} must be 6n"):
        WideResNet(depth=depth)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: ResNet20().build(CIFAR, 1, 0), "classes = 1 must be at least 2"),
        (
            lambda: ResNet20(normalise=CIFAR10_NORMALISATION).build(MNIST, 10, 0),
            "values for 3 channels, but the images have 1",
        ),
        (lambda: Normalisation(mean=(0.5, 0.5), std=(1.0,)), "mean has 2 and std 1 values"),
        (lambda: Normalisation(mean=(0.5,), std=(0.0,)), "must be greater than 0"),
        (lambda: ResNet18(width=0), "greater than or equal to 1"),
        (lambda: ResNet18(activation="gelu"), "'relu', 'leaky_relu' or 'silu'"),  # type: ignore[arg-type]
    ],
)
def test_bad_settings_are_refused(build, sentence):
    with pytest.raises(SettingsError, match=sentence):
        build()
