"""Networks by timm's names: what is asked of timm, what is refused, and, where timm can be imported, one of its
networks.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from poise.core.errors import MissingExtraError, SettingsError
from poise.models import Ensemble, Normalisation, Timm
from poise.models.conv_stem import ConvStem

SHAPE = (3, 16, 16)


class Sized(nn.Module):
    """As a transformer: made for one size of image."""

    def __init__(self, num_classes: int, in_chans: int, img_size: tuple[int, int]) -> None:
        super().__init__()
        self.head = nn.Linear(in_chans * img_size[0] * img_size[1], num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.flatten(1))


class Free(nn.Module):
    """As a convolutional network: takes any size."""

    def __init__(self, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, num_classes, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean((2, 3))


KNOWN: dict[str, Any] = {"sized_tiny": Sized, "free_tiny": Free}


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """In timm's place: two networks, made as timm makes its own."""

    def create_model(name: str, **given: Any) -> nn.Module:
        return KNOWN[name](**given)

    made = SimpleNamespace(is_model=KNOWN.__contains__, list_models=lambda: list(KNOWN), create_model=create_model)
    monkeypatch.setitem(sys.modules, "timm", made)


@pytest.mark.parametrize("name", KNOWN)
def test_a_network_has_the_datas_channels_classes_and_size_and_weights_by_its_seed(library: None, name: str) -> None:
    settings = Timm(name=name, normalise=Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3))
    first, again, other = (settings.build(SHAPE, 7, seed) for seed in (0, 0, 1))
    x = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    assert first(x).shape == (2, 7)
    assert torch.equal(first(x), again(x)) and not torch.equal(first(x), other(x))


def test_an_unknown_name_is_refused_with_the_nearest(library: None) -> None:
    with pytest.raises(SettingsError, match=r"Timm.name = 'free_tny' is unknown to timm; did you mean 'free_tiny'\?"):
        Timm(name="free_tny").build(SHAPE, 7, 0)


def test_images_that_a_network_cannot_take_are_refused(library: None) -> None:
    with pytest.raises(
        SettingsError, match=r"Timm.name = 'free_tiny' cannot be made for images of shape \(3, 2, 2\): "
    ):
        Timm(name="free_tiny").build((3, 2, 2), 7, 0)


def test_without_timm_the_line_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'poise\[timm\]'"):
        Timm().build(SHAPE, 7, 0)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_a_network_of_timm_itself_gives_logits(name: str) -> None:
    try:
        import timm  # noqa: F401  # pyright: ignore[reportMissingImports]
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm cannot be imported here: {str(error).splitlines()[0]}")
    network = Timm(name=name).build((3, 32, 32), 7, 0)
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 7)


class Patched(nn.Module):
    """As ConvNeXt and transformers: patches by one strided convolution; drops blocks, and can compute activations
    again.
    """

    def __init__(
        self, num_classes: int, in_chans: int, drop_path_rate: float = 0.0, pretrained: bool = False, **given: Any
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_chans, 12, 4, stride=4), nn.GELU())
        self.head = nn.Linear(12, num_classes)
        self.asked = {"drop_path_rate": drop_path_rate, "pretrained": pretrained, **given}
        self.checkpointing = False

    def set_grad_checkpointing(self, on: bool) -> None:
        self.checkpointing = on

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stem(x).mean((2, 3)))


class Transformer(nn.Module):
    def __init__(self, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(in_chans, 24, 8, stride=8)
        self.head = nn.Linear(24, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.patch_embed.proj(x).mean((2, 3)))  # pyright: ignore[reportCallIssue]


KNOWN |= {"patched": Patched, "transformer": Transformer}


def test_stochastic_depth_checkpointing_and_pretrained_weights_are_asked_of_timm(library: None, tmp_path: Path) -> None:
    plain: Any = Timm(name="patched").build(SHAPE, 7, 0)
    assert plain.asked == {"drop_path_rate": 0.0, "pretrained": False, "img_size": (16, 16)} and not plain.checkpointing
    made: Any = Timm(name="patched", drop_path=0.1, checkpointing=True, pretrained=True).build(SHAPE, 7, 0)
    assert made.asked == {"drop_path_rate": 0.1, "pretrained": True, "img_size": (16, 16)} and made.checkpointing
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"")
    source = Timm(name="patched", pretrained=str(file))
    made = source.build(SHAPE, 7, 0)
    assert made.asked["pretrained"] is True and made.asked["pretrained_cfg_overlay"] == {"file": str(file)}
    assert source.blank() == Timm(name="patched"), "weights of a run are read without those it began with"
    several = Ensemble(member=source, members=2)
    assert several.blank() == Ensemble(member=Timm(name="patched"), members=2) and several.beginning() == file
    assert source.blank().beginning() is None and Timm(name="patched", pretrained=True).beginning() is None
    for wrong in ("nothing.safetensors", str(tmp_path / "weights.pth")):
        with pytest.raises(
            SettingsError, match=r"Timm.pretrained = .*must be true, false or a .safetensors file that exists"
        ):
            Timm(name="patched", pretrained=wrong).build(SHAPE, 7, 0)


@pytest.mark.parametrize(("name", "widths"), [("patched", [48, 96, 12]), ("transformer", [48, 96, 192, 24])])
def test_a_conv_stem_takes_the_place_of_patches_of_any_size(library: None, name: str, widths: list[int]) -> None:
    plain: Any = Timm(name=name).build(SHAPE, 7, 0)
    network: Any = Timm(name=name, conv_stem=True).build(SHAPE, 7, 0)
    (stem,) = [part for part in network.modules() if isinstance(part, ConvStem)]
    assert [part.out_channels for part in stem if isinstance(part, nn.Conv2d)] == widths
    x = torch.rand(2, *SHAPE)
    patches = plain.stem[0] if name == "patched" else plain.patch_embed.proj
    assert stem(x).shape == patches(x).shape and network(x).shape == (2, 7)
    with pytest.raises(SettingsError, match="conv_stem = True: Free has no patches"):
        Timm(name="free_tiny", conv_stem=True).build(SHAPE, 7, 0)
    with pytest.raises(SettingsError, match="stride = 3 must be a power of 2"):
        ConvStem(3, 8, 3)
