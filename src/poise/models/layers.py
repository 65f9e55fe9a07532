"""The parts networks are made of: the classifier's interface, activations, normalisation, residual blocks,
initialisation.

A convolution and the batch normalisation that follows it are neighbouring attributes (`conv1`, `bn1`), so that they can
be folded.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["relu", "leaky_relu", "silu"]
Shortcut = Literal["conv", "pad"]


class Classifier(nn.Module):
    """A network with one linear head: images [B, C, H, W] in [0, 1] to logits [B, classes]."""

    head: nn.Linear

    def __init__(self) -> None:
        super().__init__()
        self.normalise: nn.Module = nn.Identity()

    @abstractmethod
    def trunk(self, x: Tensor) -> Tensor:
        """Features [B, feature_dim] of images that are already normalised."""

    def features(self, x: Tensor) -> Tensor:
        """What the head sees: pooled penultimate features [B, feature_dim] of images in [0, 1]."""
        return self.trunk(self.normalise(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    @property
    def feature_dim(self) -> int:
        return self.head.in_features


class Standardise(nn.Module):
    """(x - mean) / std for each channel. The constants belong to the settings, so they are not part of the saved
    weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def activation_layer(name: Activation) -> nn.Module:
    """ReLU, LeakyReLU with slope 0.1 (GAL: Kariyappa & Qureshi 2019), or SiLU."""
    return {"relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(0.1), "silu": nn.SiLU()}[name]


def conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    """Bias-free 3x3 convolution with zero padding 1."""
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)


def pooled(x: Tensor) -> Tensor:
    """Mean over the image plane: [B, C, H, W] to [B, C], whatever H and W."""
    return x.mean(dim=(2, 3))


class PadShortcut(nn.Module):
    """Option A of He et al. 2016a: every `stride`-th pixel, the new channels filled with zeros on both sides."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (channels_out - channels_in) // 2
        self.after = channels_out - channels_in - self.before

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """conv-BN-activation-conv-BN plus the shortcut, then activation (He et al. 2016a)."""

    def __init__(
        self, channels_in: int, channels_out: int, stride: int, activation: Activation, shortcut: Shortcut
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels_in, channels_out, stride)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = conv3x3(channels_out, channels_out)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.activation = activation_layer(activation)
        self.shortcut: nn.Module = nn.Sequential()
        if (stride, channels_in) != (1, channels_out) and shortcut == "pad":
            self.shortcut = PadShortcut(channels_in, channels_out, stride)
        elif (stride, channels_in) != (1, channels_out):
            conv = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(channels_out))

    def first_layer(self, x: Tensor) -> Tensor:
        """Output of the first layer before its activation."""
        return self.bn1(self.conv1(x))

    def second_layer(self, first: Tensor, x: Tensor) -> Tensor:
        """Output of the second layer, the shortcut included, before the block's last activation."""
        return self.bn2(self.conv2(self.activation(first))) + self.shortcut(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.second_layer(self.first_layer(x), x))


class PreActBlock(nn.Module):
    """BN-activation-conv-BN-activation-conv plus the shortcut (He et al. 2016b).

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input, without batch normalisation.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = conv3x3(channels_in, channels_out, stride)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.conv2 = conv3x3(channels_out, channels_out)
        self.activation = activation_layer(activation)
        self.shortcut: nn.Module | None = None
        if (stride, channels_in) != (1, channels_out):
            self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        z = self.activation(self.bn1(x))
        residual = self.conv2(self.activation(self.bn2(self.conv1(z))))
        return residual + (x if self.shortcut is None else self.shortcut(z))


def fan_out_normal(network: nn.Module) -> None:
    """Convolutions ~ N(0, sqrt(2 / (k * k * out))), in place (He et al. 2015); all else is left as it is."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels
            nn.init.normal_(layer.weight, 0, math.sqrt(2 / fan_out))
