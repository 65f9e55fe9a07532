"""Pre-activation residual networks: the shared module and PreAct-ResNet-18."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from poise.core import papers
from poise.core.papers import Paper
from poise.core.settings import PositiveCount, settings
from poise.models.layers import Activation, Classifier, PreActBlock, activation_layer, conv3x3, pooled
from poise.models.network import Network, Shape


class PreActResNetModule(Classifier):
    """A 3x3 stem of `widths[0]` channels, a stage of blocks for each later width (each but the first halves the image),
    one head.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        widths: Sequence[int],
        blocks: int,
        activation: Activation,
        final_norm: bool = True,
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, widths[0])
        stages = []
        for number, (width_in, width) in enumerate(pairwise(widths)):
            first = PreActBlock(width_in, width, 1 if number == 0 else 2, activation)
            stages.append(nn.Sequential(first, *[PreActBlock(width, width, 1, activation) for _ in range(blocks - 1)]))
        self.layers = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(widths[-1]) if final_norm else nn.Identity()
        self.activation = activation_layer(activation) if final_norm else nn.Identity()
        self.head = nn.Linear(widths[-1], classes)

    def trunk(self, x: Tensor) -> Tensor:
        return pooled(self.activation(self.bn(self.layers(self.conv1(x)))))


@settings
class PreActResNet18(Network):
    """PreAct-ResNet-18 with the CIFAR stem: 11,172,170 parameters at width 64 on CIFAR-10. PyTorch's default
    initialisation.
    """

    paper: ClassVar[Paper | None] = papers.PREACT_RESNET
    smallest: ClassVar[int] = 8

    width: PositiveCount = 64
    """Channels of the stem and the first stage; doubled at each of the three later stages."""
    activation: Activation = "relu"
    final_norm: bool = True
    """Batch normalisation and activation after the last block, as in the paper and in AWP; a common variant has none
    (11,171,146).
    """

    def module(self, shape: Shape, classes: int) -> nn.Module:
        widths = [self.width * factor for factor in (1, 1, 2, 4, 8)]
        return PreActResNetModule(shape[0], classes, widths, 2, self.activation, self.final_norm)
