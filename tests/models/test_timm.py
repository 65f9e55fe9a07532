"""Networks by timm's names: what is asked of timm, what is refused, and, where timm can be imported, one of its networks."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from poise.core.errors import MissingExtraError, SettingsError
from poise.models import Normalisation, Timm

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


KNOWN = {"sized_tiny": Sized, "free_tiny": Free}


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
    with pytest.raises(SettingsError, match=r"Timm.name = 'free_tiny' cannot be made for images of shape \(3, 2, 2\): "):
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
