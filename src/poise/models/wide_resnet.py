"""Wide residual networks."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from poise.core import papers
from poise.core.errors import SettingsError
from poise.core.papers import Paper
from poise.core.settings import PositiveCount, settings
from poise.models.layers import Activation, fan_out_normal
from poise.models.network import Network, Shape
from poise.models.preact_resnet import PreActResNetModule


@settings
class WideResNet(Network):
    """WRN-depth-width without dropout: WRN-34-10 has 46,160,474 parameters on CIFAR-10, WRN-28-10 has 36,479,194.

    Stages of 16, 32 and 64 times `width` channels after a stem of 16. Convolutions ~ N(0, sqrt(2 / (k * k * out))), the
    head's bias 0. The unused second first stage of TRADES' and RST's released code does not exist here.
    """

    paper: ClassVar[Paper | None] = papers.WIDE_RESNET
    smallest: ClassVar[int] = 4

    depth: PositiveCount = 34
    """6n + 4 for n blocks a stage, or 6n + 2 as Madry et al. count (their WRN-32-10 has the five blocks of WRN-34-10).
    """
    width: PositiveCount = 10
    """Widening factor k."""
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        if self.depth < 8 or self.depth % 6 not in (2, 4):
            raise SettingsError(
                f"depth = {self.depth} must be 6n + 4 (10, 16, 22, 28, 34, ...) or 6n + 2 (8, 14, 20, 26, 32, ...)"
            )

    def module(self, shape: Shape, classes: int) -> nn.Module:
        widths = [16, *[base * self.width for base in (16, 32, 64)]]
        network = PreActResNetModule(shape[0], classes, widths, (self.depth - 2) // 6, self.activation)
        fan_out_normal(network)
        nn.init.zeros_(network.head.bias)
        return network
