"""ConvStem: a stem of small convolutions in the place of a transformer's or ConvNeXt's patches (Singh et al. 2023)."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from poise.core.errors import SettingsError

_WIDTH = 48
"""Channels of the first convolution; each next one has twice as many."""


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of [B, C, H, W]."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvStem(nn.Sequential):
    """3x3 convolutions of stride 2 with layer normalisation and GELU, as many as make up `stride`, then a 1x1
    convolution.

    Their widths are 48, 96, ...; images [B, channels, H, W] become [B, width, H / stride, W / stride].
    Raises: SettingsError where `stride` is no power of 2.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        count = stride.bit_length() - 1
        if stride < 2 or 2**count != stride:
            raise SettingsError(f"ConvStem: stride = {stride} must be a power of 2, from 2")
        widths = [channels, *(_WIDTH * 2**number for number in range(count))]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), ChannelNorm(after), nn.GELU()]
        super().__init__(*layers, nn.Conv2d(widths[-1], width, 1))


def give_conv_stem(network: nn.Module) -> None:
    """Put a ConvStem in the place of the first convolution that patches an image: `stem` or `patch_embed.proj`, as timm
    names them.

    Raises: SettingsError for a network that has neither.
    """
    patch = getattr(network, "patch_embed", None)
    stem = getattr(network, "stem", None)
    if isinstance(projection := getattr(patch, "proj", None), nn.Conv2d):
        assert isinstance(patch, nn.Module)
        patch.proj = _stem_like(projection)
    elif isinstance(stem, nn.Sequential) and isinstance(projection := stem[0], nn.Conv2d):
        stem[0] = _stem_like(projection)
    else:
        raise SettingsError(
            f"conv_stem = True: {type(network).__name__} has no patches that a stem could take the place of"
        )


def _stem_like(patches: nn.Conv2d) -> ConvStem:
    return ConvStem(patches.in_channels, patches.out_channels, patches.stride[0])
