"""Feeds: what a step sees depends on the step alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from poise.core.batches import Now
from poise.core.errors import InputError
from poise.data import CropFlip, Feed, Shift, Split, Stream


def split_of(count: int = 50) -> Split:
    images = torch.arange(count * 16).remainder(251).to(torch.uint8).view(count, 1, 4, 4)
    return Split.of(images, torch.arange(count) % 5).subset(torch.arange(count).flip(0))


def at(step: int, steps_per_epoch: int = 4) -> Now:
    return Now(epoch=step // steps_per_epoch + 1, step=step, epochs=10, steps_per_epoch=steps_per_epoch, seed=0)


def feed(seed: int = 0, count: int = 50, rank: int = 0, world: int = 1, **stream: Any) -> Feed:
    return Feed(Stream(**{"batch_size": 16, **stream}), split_of(count), seed, rank=rank, world=world)


def test_an_epoch_shows_every_image_once_in_a_new_order() -> None:
    source = feed()
    assert source.steps_per_epoch == 4
    epochs = [
        [number for step in range(4) for number in source.batch(at(4 * epoch + step)).ids.tolist()]
        for epoch in range(3)
    ]
    for order in epochs:
        assert sorted(order) == list(range(50))
    assert len({tuple(order) for order in epochs}) == 3


def test_a_batch_holds_the_images_its_ids_name() -> None:
    batch = feed().batch(at(6))
    whole = Split.of(split_of().images.flip(0), split_of().labels.flip(0))
    assert torch.equal(batch.x, whole.pixels(batch.ids))
    assert torch.equal(batch.y, whole.labels[batch.ids])
    assert batch.total == len(batch) == 16
    assert batch.places.tolist() == list(range(16))
    assert not batch.extra.any()


def test_batches_do_not_depend_on_what_was_asked_before() -> None:
    steps = [0, 9, 3, 9, 1]
    used = feed(augmentation=CropFlip(padding=1))
    for step in steps:
        fresh = feed(augmentation=CropFlip(padding=1))
        assert torch.equal(used.batch(at(step)).x, fresh.batch(at(step)).x)


def test_the_last_batch_is_smaller_or_left_out() -> None:
    assert len(feed().batch(at(3))) == feed().batch(at(3)).total == 2
    dropping = feed(drop_last=True)
    assert dropping.steps_per_epoch == 3
    assert all(len(dropping.batch(at(step, 3))) == 16 for step in range(6))


def test_without_shuffling_the_order_is_the_splits_own() -> None:
    source = feed(shuffle=False)
    for step in (0, 4):
        assert source.batch(at(step)).ids.tolist() == list(range(49, 33, -1))


def test_streams_of_one_order_show_the_same_images_and_of_another_word_do_not() -> None:
    plain, changed, other = feed(), feed(augmentation=Shift()), feed(order="other")
    assert torch.equal(plain.batch(at(5)).ids, changed.batch(at(5)).ids)
    assert not torch.equal(plain.batch(at(5)).x, changed.batch(at(5)).x)
    assert not torch.equal(plain.batch(at(5)).ids, other.batch(at(5)).ids)
    assert not torch.equal(plain.batch(at(5)).ids, feed(seed=1).batch(at(5)).ids)


def test_streams_with_the_same_augmentation_see_the_same_pixels() -> None:
    first, second = feed(augmentation=CropFlip(padding=1)), feed(augmentation=CropFlip(padding=1))
    assert torch.equal(first.batch(at(5)).x, second.batch(at(5).within("natural")).x)
    again = feed(shuffle=False, augmentation=CropFlip(padding=1))
    assert not torch.equal(again.batch(at(0)).x, again.batch(at(4)).x), (
        "the same images must be changed anew each epoch"
    )


@pytest.mark.parametrize("world", [2, 3, 5])
def test_ranks_hold_contiguous_parts_of_the_same_global_batch(world: int) -> None:
    for step in range(8):
        whole = feed(augmentation=CropFlip(padding=1)).batch(at(step))
        parts = [
            feed(rank=rank, world=world, augmentation=CropFlip(padding=1)).batch(at(step)) for rank in range(world)
        ]
        for name in ("x", "y", "ids", "places", "extra"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
        assert {part.total for part in parts} == {whole.total}
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_shorter_stream_starts_its_next_epoch_by_itself() -> None:
    short = feed(count=20)
    assert short.steps_per_epoch == 2
    seen = [number for step in (6, 7) for number in short.batch(at(step, 4)).ids.tolist()]
    assert sorted(seen) == list(range(20))


def test_dtype_is_the_one_asked_for() -> None:
    source = Feed(Stream(batch_size=4, augmentation=Shift()), split_of(), 0, dtype=torch.float64)
    assert source.batch(at(0)).x.dtype == torch.float64


def test_feeds_that_could_give_no_batch_are_refused() -> None:
    with pytest.raises(InputError, match="leaves no batch"):
        feed(count=10, drop_last=True)
    with pytest.raises(InputError, match="rank = 2"):
        feed(rank=2, world=2)
