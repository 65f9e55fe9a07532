"""IDBH's augmentation, of kornia's operations: each of eight changes alone, keyed by its example; its recipe trains."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from poise.core.errors import InputError
from poise.core.seeds import Draw
from poise.data import IDBH, ColourShape, Generated
from poise.data.colour import CHANGES
from poise.engine import train
from poise.recipes import experiment

kornia = pytest.importorskip("kornia")


def images(count: int = 400) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_each_image_meets_one_change_of_eight_by_its_own_draw() -> None:
    x, draw = images(), Draw(7, torch.arange(400))
    made = ColourShape()(x, draw)
    chosen = draw.within("which").integers(8, 1)[:, 0]
    assert int(torch.bincount(chosen).min()) > 25 and int(torch.bincount(chosen).max()) < 80
    assert made.shape == x.shape and float(made.min()) >= 0 and float(made.max()) <= 1
    part = slice(100, 140)
    torch.testing.assert_close(ColourShape()(x[part], Draw(7, torch.arange(100, 140))), made[part])
    for number, name in enumerate(CHANGES):
        moved = (made - x)[chosen == number].flatten(1).abs().amax(1)
        assert (moved > 1e-3).float().mean() > 0.9, name
    grey = x.mean(1)
    bright = chosen == list(CHANGES).index("brightness")
    amount = draw.within("amount").uniform(1)[:, 0]
    factor = (made.mean(1)[bright].mean((1, 2)) / grey[bright].mean((1, 2)))[amount[bright] < 0.3]
    torch.testing.assert_close(factor, (0.5 + 1.4 * amount[bright])[amount[bright] < 0.3], rtol=0.02, atol=0.02)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_shear_and_rotation_are_within_their_bounds() -> None:
    """Of a bright middle row: where its ends go."""
    x = torch.zeros(200, 3, 33, 33)
    x[:, :, 16, :] = 1
    amount = torch.linspace(0, 0.999, 200)
    turned = CHANGES["rotate"](kornia, x, amount, torch.ones(200))
    ends = (turned[:, 0, :, 28] * torch.arange(33.0)[:, None].T).sum(1) / turned[:, 0, :, 28].sum(1) - 16
    wanted = -12 * ((1 + 9 * amount) * torch.pi / 180).tan()
    torch.testing.assert_close(ends.abs(), wanted.abs(), rtol=0, atol=0.3)
    sheared = CHANGES["shear"](kornia, x, amount, torch.ones(200))
    columns = amount >= 0.5
    ends = (sheared[columns][:, 0, :, 28] * torch.arange(33.0)).sum(1) / sheared[columns][:, 0, :, 28].sum(1) - 16
    wanted = 12 * (0.05 + 0.1 * (2 * amount[columns] % 1)).tan()
    torch.testing.assert_close(ends.abs(), wanted, rtol=0, atol=0.3)


def test_grey_images_are_refused() -> None:
    with pytest.raises(InputError, match="ColourShape changes colours: images must have 3 channels, not 1"):
        IDBH()(torch.rand(2, 1, 16, 16), Draw(0, torch.arange(2)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_recipes_small_variant_trains(tmp_path: Path) -> None:
    made = experiment("idbh_cifar10_resnet18", quick=True)
    data = Generated(count=150, size=32, kinds=10)
    small = dataclasses.replace(made, data=data, epochs=1, monitors=made.monitors[:1], criterion="last", published=None)
    policy = dataclasses.replace(small.method.policies()["joint"], average=None)
    small = dataclasses.replace(small, method=dataclasses.replace(small.method, policy=policy))  # type: ignore[call-arg]
    assert torch.isfinite(train(small, tmp_path / "run").network("last")(torch.zeros(1, 3, 32, 32))).all()
