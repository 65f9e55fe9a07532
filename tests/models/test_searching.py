"""Layers of a copy that is searched on answer, and are differentiated, as those they stand for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.models import DigitsCNN, ResNet20, SlimCNN, SmallCNN, surrogate
from poise.models.searching import Blocks, ImageConv, PooledRelu, Unflattened, WindowLinear, blocks_of


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(net: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_(True)
    return torch.autograd.grad((net(leaf) * weights).sum(), leaf)[0]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "kernel, stride, padding", [(3, 1, 1), (3, 1, 0), (4, 2, 1), (5, 1, 2), (7, 2, 3), (1, 1, 0), (2, 2, 0)]
)
@pytest.mark.parametrize("height, width", [(8, 8), (7, 9), (11, 6)])
def test_the_gradient_by_blocks_is_that_of_the_convolution(
    channels: int, kernel: int, stride: int, padding: int, height: int, width: int
) -> None:
    conv = nn.Conv2d(channels, 5, kernel, stride, padding).double()
    blocks, x = blocks_of(conv), drawn(2, channels, height, width)
    assert isinstance(blocks, Blocks)
    out = conv(x)
    weights = drawn(*out.shape, seed=1)
    by_blocks = blocks.gradient(weights, blocks.weight(conv.weight), height, width)
    torch.testing.assert_close(by_blocks, gradient(conv, x, weights), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(16, 4, 3),
        nn.Conv2d(2, 4, 3, groups=2),
        nn.Conv2d(1, 4, 3, dilation=2),
        nn.Conv2d(1, 4, (3, 1)),
        nn.Conv2d(1, 4, 3, padding="same"),
        nn.Conv2d(1, 4, 3, padding=3),
        nn.Conv2d(1, 4, 3, stride=3),
        nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect"),
    ],
    ids=str,
)
def test_other_convolutions_are_left_to_torch(conv: nn.Conv2d) -> None:
    assert blocks_of(conv) is None


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, ceil_mode=True)], ids=str)
def test_relu_behind_a_pooling_has_the_bits_and_gradients_of_relu_before_it(pool: nn.MaxPool2d) -> None:
    x = drawn(3, 4, 7, 9).float().mul(2).round()  # with ties, and zeros
    x[0, 0, 0, 0] = torch.nan
    plain, swapped = nn.Sequential(nn.ReLU(), pool), PooledRelu(pool)
    with torch.no_grad():
        assert torch.equal(swapped(x).nan_to_num(9), plain(x).nan_to_num(9))
    weights = torch.rand_like(plain(x))
    x = x.nan_to_num(1)
    assert torch.equal(swapped(x), plain(x))
    assert torch.equal(gradient(swapped, x, weights), gradient(plain, x, weights))


class Pooled(nn.Sequential):
    """A network of modules alone, with everything that has another in its place."""

    def __init__(self) -> None:
        first = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        super().__init__(*first, *second, nn.Linear(8 * 9, 64), nn.ReLU(), nn.Linear(64, 10))


NETWORKS = {
    "pooled": (Pooled, (1, 12, 12)),
    "slim": (lambda: SlimCNN().build((1, 16, 16), 10, seed=0), (1, 16, 16)),
    "small": (lambda: SmallCNN().build((1, 28, 28), 10, seed=0), (1, 28, 28)),
    "digits": (lambda: DigitsCNN(width=4).build((1, 8, 8), 10, seed=0), (1, 8, 8)),
    "resnet": (lambda: ResNet20(width=4).build((3, 8, 8), 10, seed=0), (3, 8, 8)),
}


def network(name: str, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    """With statistics that are not those of initialisation, and five images."""
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    net = build().double()
    for parameter in net.parameters():  # SmallCNN's head begins at 0
        parameter.data += 0.05 * drawn(*parameter.shape, seed=2)
    net(drawn(16, *shape))
    return net.eval().to(dtype), drawn(5, *shape, seed=3).sigmoid().to(dtype)


@pytest.mark.parametrize("name", NETWORKS)
def test_in_float64_logits_and_gradients_are_the_networks(name: str) -> None:
    net, x = network(name, torch.float64)
    searched, weights = surrogate(net, faster=True), drawn(5, 10, seed=4)
    torch.testing.assert_close(searched(x), net(x), atol=1e-10, rtol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(searched(x), net(x), atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(gradient(searched, x, weights), gradient(net, x, weights), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", NETWORKS)
def test_in_float32_they_agree_up_to_rounding(name: str) -> None:
    net, x = network(name, torch.float32)
    searched, weights = surrogate(net, faster=True), drawn(5, 10, seed=4).float()
    torch.testing.assert_close(searched(x), net(x), atol=1e-4, rtol=1e-4)
    ours, plain = (gradient(asked, x, weights) for asked in (searched, net))
    assert float((ours - plain).norm() / plain.norm()) < 0.02, "a ReLU near 0 may be turned by rounding"
    assert any(isinstance(layer, ImageConv) for layer in searched.modules())


def test_in_bfloat16_they_agree_up_to_its_rounding_and_layers_lie_in_it() -> None:
    net, x = network("pooled", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        searched = surrogate(net, faster=True)
        logits = searched(x)
    assert {p.dtype for layer in searched.modules() for p in layer._parameters.values() if p is not None} == {
        torch.bfloat16
    }
    assert float((logits.float() - net(x)).detach().norm() / net(x).detach().norm()) < 0.02


def test_the_copy_follows_the_weights() -> None:
    net, x = network("pooled", torch.float64)
    surrogate(net, faster=True)(x)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    searched, weights = surrogate(net, faster=True), drawn(5, 10, seed=4)
    torch.testing.assert_close(searched(x), net(x), atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(gradient(searched, x, weights), gradient(net, x, weights), atol=1e-10, rtol=1e-10)
    kinds = {type(layer) for layer in searched.modules()}
    assert {ImageConv, PooledRelu, Unflattened, WindowLinear} <= kinds


def test_layers_that_are_watched_or_called_twice_stay_as_they_are() -> None:
    net, x = network("pooled", torch.float64)
    seen: list[Any] = []
    for place in (2, 7, 8):
        net.get_submodule(str(place)).register_forward_hook(lambda layer, given, out: seen.append(out))
    searched = surrogate(net, faster=True)
    assert not any(isinstance(layer, WindowLinear) for layer in searched.modules())
    torch.testing.assert_close(searched(x), net(x), atol=1e-10, rtol=1e-10)
    assert len(seen) == 6 and all(torch.allclose(one, other) for one, other in zip(seen[:3], seen[3:], strict=True))

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.pool, self.head = nn.ReLU(), nn.MaxPool2d(2), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.pool(self.relu(self.pool(self.relu(x))))).flatten(1))

    twice, images = Twice().double().eval(), drawn(2, 1, 8, 8)
    torch.testing.assert_close(surrogate(twice, faster=True)(images), twice(images))
