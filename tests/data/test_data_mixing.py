"""Changes of training images, and mixed images with soft labels: what they do, and that each example has draws of its
own.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from poise.core.batches import Batch, Now
from poise.core.errors import InputError, MissingExtraError, SettingsError
from poise.core.seeds import Draw
from poise.data import (
    ColourJitter,
    CropFlip,
    Extra,
    Feed,
    Flip,
    Mixing,
    RandAugment,
    RandomErasing,
    Several,
    Split,
    Stream,
)
from poise.data.augment import Augmentation
from poise.data.colour import OPERATIONS, library
from poise.data.mixing import soft
from poise.learners import Policy
from poise.losses import cross_entropy
from poise.objectives import AT, MART, NT, TRADES


def images(count: int = 24, size: int = 12) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def drawn(count: int, key: int = 5) -> Draw:
    return Draw(key, torch.arange(count))


CHANGES: dict[str, Augmentation] = {
    "flip": Flip(),
    "erasing": RandomErasing(probability=0.9),
    "jitter": ColourJitter(hue=0.2),
    "rand_augment": RandAugment(probability=1.0),
    "several": Several(parts=(CropFlip(padding=2), RandAugment(), RandomErasing())),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_depends_on_its_own_image_and_draw_only_and_stays_in_the_box(name: str) -> None:
    pytest.importorskip("kornia")
    change, x = CHANGES[name], images()
    whole = change(x.clone(), drawn(24))
    assert whole.shape == x.shape and whole.min() >= 0 and whole.max() <= 1 and not torch.equal(whole, x)
    assert torch.equal(whole, change(x, drawn(24))), "the same draws, and the images stay as they were"
    assert not torch.equal(whole, change(x, drawn(24, key=6)))
    for rows in (slice(0, 1), slice(3, 11), slice(11, 24)):
        assert torch.equal(whole[rows], change(x[rows], drawn(24)[rows]))


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_of_rand_augment_leaves_weak_ones_alone_and_changes_by_strong_ones(name: str) -> None:
    pytest.importorskip("kornia")
    kornia = library()
    x = images(4, size=40) * 0.8 + 0.1
    change = OPERATIONS[name]
    strong = change(kornia, x, torch.ones(4), torch.tensor([1.0, -1.0, 1.0, -1.0]))
    assert strong.shape == x.shape and (strong - x).abs().max() > 0.05
    if name not in ("auto_contrast", "equalize", "invert", "posterize", "solarize"):  # these have no weak form
        torch.testing.assert_close(change(kornia, x, torch.zeros(4), torch.ones(4)), x, atol=1e-5, rtol=0)


def test_a_translation_moves_by_its_share_and_a_rotation_turns_around_the_centre() -> None:
    pytest.importorskip("kornia")
    kornia = library()
    x = torch.zeros(1, 3, 20, 20)
    x[..., 10, 4] = 1
    moved = OPERATIONS["translate_x"](kornia, x, torch.ones(1), torch.ones(1))
    assert (moved[0, 0] > 0.9).nonzero().tolist() == [[10, 4 + 9]], "0.45 of 20 columns"
    assert torch.all((moved[..., :9] - 0.5).abs() < 1e-4), "grey where nothing was"
    x = torch.zeros(1, 3, 21, 21)
    x[..., 10, 10] = 1
    turned = OPERATIONS["rotate"](kornia, x, torch.ones(1), torch.ones(1))
    torch.testing.assert_close(turned[..., 10, 10], torch.ones(1, 3), atol=1e-4, rtol=0)


def test_erasing_fills_a_box_in_its_share_of_the_images() -> None:
    x = torch.zeros(400, 1, 20, 20)
    erased = RandomErasing(probability=0.25, scale=(0.1, 0.2))(x, drawn(400)) > 0
    area = erased.float().mean((1, 2, 3))
    assert 0.18 < (area > 0).float().mean() < 0.32
    assert area[area > 0].min() > 0.07 and area.max() < 0.23
    first = erased[area > 0][0, 0].nonzero()
    assert bool(
        erased[area > 0][0, 0, first[:, 0].min() : first[:, 0].max(), first[:, 1].min() : first[:, 1].max()]
        .float()
        .mean()
        > 0.97
    )


def test_mixed_images_are_blended_or_pasted_by_the_share_that_their_label_says() -> None:
    x, other = torch.zeros(600, 1, 16, 16), torch.ones(600, 1, 16, 16)
    mixed, share = Mixing(mixup=0.8, cutmix=0).mixed(x, other, drawn(600))
    torch.testing.assert_close(mixed.mean((1, 2, 3)).double(), 1 - share, atol=1e-6, rtol=0)
    assert torch.all(mixed.flatten(1).std(1) < 1e-6) and 0.45 < share.mean() < 0.55
    pasted, share = Mixing(mixup=0, cutmix=1.0).mixed(x, other, drawn(600))
    torch.testing.assert_close(pasted.mean((1, 2, 3)).double(), 1 - share, atol=1e-6, rtol=0)
    assert bool(((pasted == 0) | (pasted == 1)).all())
    both, _ = Mixing().mixed(x, other, drawn(600))
    blended = ((both > 0) & (both < 1)).flatten(1).any(1).float().mean()
    assert 0.42 < blended < 0.58, "half and half"
    with pytest.raises(SettingsError, match=r"Mixing.mixup = 0 and cutmix = 0: at least one"):
        Mixing(mixup=0, cutmix=0)


def test_soft_labels_give_the_weighted_cross_entropy() -> None:
    labels, others, share = torch.tensor([0, 1, 2]), torch.tensor([1, 1, 0]), torch.tensor([0.25, 0.5, 1.0])
    targets = soft(labels, others, share, 3)
    assert targets.tolist() == [[0.25, 0.75, 0], [0, 1, 0], [0, 0, 1]]
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    expected = share * cross_entropy(logits, labels) + (1 - share) * cross_entropy(logits, others)
    torch.testing.assert_close(cross_entropy(logits, targets), expected)


def feed(rank: int = 0, world: int = 1, **settings: object) -> Feed:
    split = Split.of((images(23) * 255).to(torch.uint8), torch.arange(23) % 5)
    stream = Stream(batch_size=10, mixing=Mixing(), **settings)  # pyright: ignore[reportArgumentType]
    return Feed(stream, split, seed=2, rank=rank, world=world, classes=5)


def test_ranks_together_show_the_mixed_batch_of_one_process() -> None:
    for step in range(4):
        now = Now(step // 3 + 1, step, 5, 3, 2)
        whole = feed(augmentation=CropFlip(padding=1)).batch(now)
        assert whole.soft is not None and torch.allclose(whole.soft.sum(1), torch.ones(len(whole)))
        for world in (2, 3):
            parts = [feed(rank, world, augmentation=CropFlip(padding=1)).batch(now) for rank in range(world)]
            for name, column in whole.columns().items():
                assert torch.equal(column, torch.cat([part.columns()[name] for part in parts])), name
        assert torch.equal(torch.cat([part.targets for part in whole.split(2)]), whole.soft)


def test_objectives_say_whether_they_take_soft_labels_and_others_refuse() -> None:
    for objective in (AT(), NT(), TRADES()):
        assert Policy(objective=objective, mixing=Mixing()).objective.takes_soft_labels
    with pytest.raises(SettingsError, match=r"Policy.mixing: MART does not learn from labels of several classes"):
        Policy(objective=MART(), mixing=Mixing())
    with pytest.raises(SettingsError, match=r"Stream.mixing: images of a pool"):
        Stream(mixing=Mixing(), extra=Extra())
    with pytest.raises(InputError, match="must know how many classes"):
        Feed(
            Stream(mixing=Mixing()), Split.of(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])), seed=0
        )


@pytest.mark.parametrize("objective", [AT(), NT(), TRADES()], ids=lambda objective: type(objective).__name__)
def test_labels_of_one_class_written_as_soft_ones_train_the_same(objective: AT | NT | TRADES) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 12 * 12, 5)).eval()
    batch = Batch.of(images(6), torch.arange(6) % 5)
    now = Now(1, 0, 1, 1, 0)
    losses = []
    for given in (batch, replace(batch, soft=torch.nn.functional.one_hot(batch.y, 5).float())):
        examples = objective.craft(model, given, now)  # pyright: ignore[reportArgumentType]
        losses.append(objective.loss(model, examples, now))  # pyright: ignore[reportArgumentType]
    for name, values in losses[0].items():
        torch.testing.assert_close(values, losses[1][name], rtol=1e-5, atol=1e-6)


def test_without_kornia_the_line_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia.enhance", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'poise\[augment\]'"):
        RandAugment()(images(2), drawn(2))


def test_grey_images_have_no_colours_to_change() -> None:
    pytest.importorskip("kornia")
    with pytest.raises(InputError, match="ColourJitter changes colours: images must have 3 channels, not 1"):
        ColourJitter()(torch.zeros(2, 1, 4, 4), drawn(2))
