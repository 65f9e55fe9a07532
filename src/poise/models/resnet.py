"""Post-activation residual networks in the forms used on CIFAR-size images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from torch import Tensor, nn

from poise.core import papers
from poise.core.papers import Paper
from poise.core.settings import PositiveCount, settings
from poise.models.layers import (
    Activation,
    BasicBlock,
    Classifier,
    Shortcut,
    activation_layer,
    conv3x3,
    fan_out_normal,
    pooled,
)
from poise.models.network import Network, Shape


class ResNetModule(Classifier):
    """A 3x3 stem without pooling, stages of basic blocks (each but the first halves the image), mean over the plane,
    one head.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        widths: Sequence[int],
        blocks: int,
        activation: Activation,
        shortcut: Shortcut,
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.activation = activation_layer(activation)
        self.stages = len(widths)
        for number, (width_in, width) in enumerate(zip([widths[0], *widths], widths, strict=False), 1):
            first = BasicBlock(width_in, width, 1 if number == 1 else 2, activation, shortcut)
            rest = [BasicBlock(width, width, 1, activation, shortcut) for _ in range(blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(first, *rest))
        self.head = nn.Linear(widths[-1], classes)

    def blocks(self) -> list[BasicBlock]:
        """The residual blocks in order."""
        return [block for number in range(1, self.stages + 1) for block in getattr(self, f"layer{number}")]

    def trunk(self, x: Tensor) -> Tensor:
        x = self.activation(self.bn1(self.conv1(x)))
        for block in self.blocks():
            x = block(x)
        return pooled(x)

    def block_outputs(self, x: Tensor) -> Iterator[Tensor]:
        """The output of every layer before its activation, one after the other (20 of a ResNet-20): the layers of
        DVERGE.

        Layer 1 is the stem; each block gives two, the second including the shortcut; the logits are last.
        Computed as they are asked for, so that a caller who stops at layer l pays for l layers only.
        """
        z = self.bn1(self.conv1(self.normalise(x)))
        yield z
        for block in self.blocks():
            x = self.activation(z)
            first = block.first_layer(x)
            yield first
            z = block.second_layer(first, x)
            yield z
        yield self.head(pooled(self.activation(z)))


@settings
class ResNet18(Network):
    """ResNet-18 with the CIFAR stem (3x3, no pooling): 11,173,962 parameters at width 64 on CIFAR-10.

    PyTorch's default initialisation. Where the shape changes, the shortcut is a 1x1 convolution with batch
    normalisation.
    """

    paper: ClassVar[Paper | None] = papers.RESNET
    smallest: ClassVar[int] = 8

    width: PositiveCount = 64
    """Channels of the stem and the first stage; doubled at each of the three later stages."""
    activation: Activation = "relu"

    def module(self, shape: Shape, classes: int) -> nn.Module:
        widths = [self.width * factor for factor in (1, 2, 4, 8)]
        return ResNetModule(shape[0], classes, widths, 2, self.activation, "conv")


@settings
class ResNet20(Network):
    """ResNet-20 for CIFAR: three stages of three basic blocks; 272,474 parameters on CIFAR-10 ("pad": 269,722).

    Convolutions ~ N(0, sqrt(2 / (k * k * out))), the rest PyTorch's default.
    """

    paper: ClassVar[Paper | None] = papers.RESNET
    smallest: ClassVar[int] = 4

    width: PositiveCount = 16
    """Channels of the stem and the first stage; doubled at each of the two later stages."""
    activation: Activation = "relu"
    shortcut: Literal["conv", "pad"] = "conv"
    """Where the shape changes: "conv" 1x1 convolution with batch normalisation, "pad" every second pixel and zero
    channels.
    """

    def module(self, shape: Shape, classes: int) -> nn.Module:
        widths = [self.width * factor for factor in (1, 2, 4)]
        network = ResNetModule(shape[0], classes, widths, 3, self.activation, self.shortcut)
        fan_out_normal(network)
        return network
