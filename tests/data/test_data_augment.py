"""Augmentations against a slow reference, example by example."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from poise.core.errors import InputError, SettingsError
from poise.core.seeds import Draw
from poise.core.settings import from_json
from poise.data import Augmentation, CropFlip, CropShift, Shift


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


def test_crop_shift_puts_a_part_elsewhere_on_zeros() -> None:
    """Every pixel that is not zero has the same offset, and what is cut adds up to at most `most` rows and columns."""
    height, width, most = 9, 8, 5
    x = torch.arange(1.0, height * width + 1).view(1, 1, height, width).expand(600, 2, height, width) / 100
    made = CropShift(most=most)(x, draw(600))
    assert made.shape == x.shape and CropShift().moves
    lost, offsets, alike = [0] * (most + 1), set(), 0
    for image in made:
        assert torch.equal(image[0], image[1])
        rows, columns = (image[0] != 0).nonzero(as_tuple=True)
        box = image[0][rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (box != 0).all()
        first = int((box[0, 0] * 100).round()) - 1
        top, left = first // width, first % width
        assert torch.equal(box, x[0, 0, top : top + box.shape[0], left : left + box.shape[1]])
        fewer = (height - box.shape[0], width - box.shape[1])
        lost[sum(fewer)] += 1
        offsets.add((int(rows.min()) - top, int(columns.min()) - left))
        alike += fewer[0] == 0 and sum(fewer) > 0
    assert min(lost) > 60 and max(lost) < 140, "the number of rows and columns cut is uniform"
    assert {3, -3} <= {up for up, _ in offsets} and {3, -3} <= {left for _, left in offsets}
    assert 0 < alike < 300


def test_crop_shift_by_nothing_is_nothing_and_too_much_is_refused() -> None:
    assert torch.equal(CropShift(most=0)(images(), draw()), images())
    with pytest.raises(InputError, match=r"CropShift.most = 5: must be below 5, the side of the images"):
        CropShift(most=5)(images(), draw())


def test_crop_shift_depends_on_its_own_image_and_draw_only() -> None:
    x = images(16)
    whole = CropShift(most=4)(x, draw(16))
    assert torch.equal(CropShift(most=4)(x[5:9], Draw(5, torch.arange(5, 9))), whole[5:9])
