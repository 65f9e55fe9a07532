"""Augmentations against a slow reference, example by example."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from poise.core.errors import SettingsError
from poise.core.seeds import Draw
from poise.core.settings import from_json
from poise.data import Augmentation, CropFlip, Shift


def images(count: int = 64, height: int = 6, width: int = 5) -> Tensor:
    """No two pixels alike and none zero, so that every window can be told."""
    return torch.linspace(0.01, 1, count * 2 * height * width).view(count, 2, height, width)


def draw(count: int = 64, key: int = 5) -> Draw:
    return Draw(key, torch.arange(count))


def windows(x: Tensor, padding: int) -> dict[tuple[int, int, bool], Tensor]:
    """Every window of one padded image, and its mirror image, by corner."""
    channels, height, width = x.shape
    padded = torch.zeros(channels, height + 2 * padding, width + 2 * padding)
    padded[:, padding : padding + height, padding : padding + width] = x
    found = {}
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            window = padded[:, top : top + height, left : left + width]
            found[top, left, False], found[top, left, True] = window, window.flip(2)
    return found


def choices(augmentation: Augmentation, padding: int, x: Tensor) -> list[tuple[int, int, bool]]:
    """Which window each example became; fails where it is none."""
    made = augmentation(x, draw(len(x)))
    assert made.shape == x.shape
    chosen = []
    for before, after in zip(x, made, strict=True):
        matching = [corner for corner, window in windows(before, padding).items() if torch.equal(window, after)]
        assert matching, "the result is no window of the padded image"
        chosen.append(matching[0])
    return chosen


def test_crop_and_flip_give_windows_of_the_padded_image_or_their_mirror() -> None:
    chosen = choices(CropFlip(padding=2), 2, images(400))
    assert {corner[:2] for corner in chosen} == {(top, left) for top in range(5) for left in range(5)}
    assert 150 < sum(mirrored for _, _, mirrored in chosen) < 250


def test_without_flip_nothing_is_mirrored_and_without_padding_nothing_moves() -> None:
    assert not any(mirrored for _, _, mirrored in choices(CropFlip(padding=2, flip=False), 2, images()))
    assert torch.equal(CropFlip(padding=0, flip=False)(images(), draw()), images())
    assert {corner[:2] for corner in choices(CropFlip(padding=0), 0, images())} == {(0, 0)}


def test_shift_moves_by_every_amount_up_to_its_reach() -> None:
    chosen = choices(Shift(pixels=1), 1, images(200))
    assert set(chosen) == {(top, left, False) for top in range(3) for left in range(3)}


def test_an_example_is_changed_alike_in_any_batch() -> None:
    x, whole = images(), CropFlip()(images(), draw())
    rows = torch.tensor([40, 3, 7])
    assert torch.equal(CropFlip()(x[rows], draw()[rows]), whole[rows])
    assert not torch.equal(CropFlip()(x, draw(key=6)), whole)


@pytest.mark.parametrize("augmentation", [CropFlip(), Shift()])
def test_the_input_stays_and_dtype_is_kept(augmentation: Augmentation) -> None:
    x = images().double()
    before = x.clone()
    assert augmentation(x, draw()).dtype == torch.float64
    assert torch.equal(x, before)
    assert augmentation(x[:0], draw(0)).shape == (0, *x.shape[1:])


def test_settings_of_augmentations_are_checked() -> None:
    assert from_json(Augmentation, {"type": "Shift", "pixels": 2}) == Shift(pixels=2)
    with pytest.raises(SettingsError, match=r"CropFlip\.padding"):
        CropFlip(padding=-1)
    with pytest.raises(SettingsError, match=r"Shift\.pixels"):
        Shift(pixels=0)
