"""VGG with batch normalisation, in the form used on CIFAR-size images."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from poise.core import papers
from poise.core.papers import Paper
from poise.core.settings import settings
from poise.models.layers import Classifier, pooled
from poise.models.network import Network, Shape

# channels, convolutions; each stage ends by halving the image
_STAGES = (
    (64, 2),
    (128, 2),
    (256, 3),
    (512, 3),
    (512, 3),
)


class VGGModule(Classifier):
    """13 convolutions 3x3, each with batch normalisation and ReLU, mean over the plane, one head."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width, count in _STAGES:
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)

    def trunk(self, x: Tensor) -> Tensor:
        return pooled(self.layers(x))


@settings
class VGG16(Network):
    """VGG-16 with batch normalisation and a single linear layer: 14,728,266 parameters on CIFAR-10.

    Convolutions keep their biases and PyTorch's default initialisation, as in the common CIFAR variant.
    """

    paper: ClassVar[Paper | None] = papers.VGG
    smallest: ClassVar[int] = 32

    def module(self, shape: Shape, classes: int) -> nn.Module:
        return VGGModule(shape[0], classes)
