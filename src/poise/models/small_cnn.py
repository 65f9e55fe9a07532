"""Small networks for digits, which train in seconds or minutes on a CPU. Their heads are sized for the images they are
built for.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from poise.core import papers
from poise.core.papers import Paper
from poise.core.settings import PositiveCount, settings
from poise.models.layers import Activation, Classifier, activation_layer
from poise.models.network import Network, Shape


class PlainModule(Classifier):
    """A sequence of layers that ends in flat features, and a linear head."""

    def __init__(self, layers: list[nn.Module], feature_dim: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(feature_dim, classes)

    def trunk(self, x: Tensor) -> Tensor:
        return self.layers(x)


def conv_bn(
    channels_in: int, channels_out: int, kernel: int, stride: int, activation: Activation = "relu"
) -> list[nn.Module]:
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(channels_out), activation_layer(activation)]


@settings
class DigitsCNN(Network):
    """Three 3x3 convolutions (16, 32 with stride 2, 32), each with batch normalisation: 19,258 parameters on 8x8
    digits.

    PyTorch's default initialisation.
    """

    smallest: ClassVar[int] = 2

    width: PositiveCount = 16
    """Channels of the first convolution; the others have twice as many."""
    activation: Activation = "relu"

    def module(self, shape: Shape, classes: int) -> nn.Module:
        channels, height, width = shape
        first, wide = self.width, 2 * self.width
        sizes = ((channels, first, 1), (first, wide, 2), (wide, wide, 1))
        layers = [
            layer for before, after, stride in sizes for layer in conv_bn(before, after, 3, stride, self.activation)
        ]
        layers.append(nn.Flatten())
        return PlainModule(layers, wide * -(-height // 2) * -(-width // 2), classes)


@settings
class SlimCNN(Network):
    """Two 4x4 convolutions of stride 2 (16, 32) and 100 hidden units, each with batch normalisation: 166,554 parameters
    on MNIST.

    PyTorch's default initialisation.
    """

    smallest: ClassVar[int] = 4

    def module(self, shape: Shape, classes: int) -> nn.Module:
        channels, height, width = shape
        flat = 32 * (height // 4) * (width // 4)
        layers = [nn.Linear(flat, 100, bias=False), nn.BatchNorm1d(100), nn.ReLU()]
        return PlainModule([*conv_bn(channels, 16, 4, 2), *conv_bn(16, 32, 4, 2), nn.Flatten(), *layers], 100, classes)


@settings
class SmallCNN(Network):
    """The MNIST network of TRADES: unpadded 3x3 convolutions 32, 32, pool, 64, 64, pool, then 200 and 200 hidden units;
    no BN.

    Convolutions ~ Kaiming normal; the head starts at zero, as published. The published dropout (0.5 between the two
    hidden layers) is left out: an attacked forward must be a function of its input.
    """

    paper: ClassVar[Paper | None] = papers.TRADES
    smallest: ClassVar[int] = 16

    def module(self, shape: Shape, classes: int) -> nn.Module:
        channels, height, width = shape
        layers: list[nn.Module] = []
        for width_in, width_out in ((channels, 32), (32, 64)):
            layers += [
                nn.Conv2d(width_in, width_out, 3),
                nn.ReLU(),
                nn.Conv2d(width_out, width_out, 3),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        flat = 64 * _after_convolutions(height) * _after_convolutions(width)
        layers += [nn.Flatten(), nn.Linear(flat, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU()]
        network = PlainModule(layers, 200, classes)
        for layer in layers:
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(network.head.weight)
        nn.init.zeros_(network.head.bias)
        return network


def _after_convolutions(side: int) -> int:
    """Pixels left of `side` by two rounds of two unpadded 3x3 convolutions and a pooling by 2."""
    return ((side - 4) // 2 - 4) // 2
