"""Splits, held-out images and the digits' folds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from poise.cli.listing import line_of
from poise.core.errors import DataError, InputError, SettingsError
from poise.core.settings import from_json, registered, to_json
from poise.data import Data, DataSource, Digits, Split, data_directory, held_out


def split_of(count: int = 100, classes: int = 10) -> Split:
    images = torch.arange(count * 12).remainder(256).to(torch.uint8).view(count, 3, 2, 2)
    return Split.of(images, torch.arange(count) % classes)


def test_pixels_are_values_over_255() -> None:
    split = Split.of(torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16), torch.zeros(1, dtype=torch.int64))
    for dtype in (torch.float32, torch.float64):
        x = split.pixels(torch.tensor([0, 0]), dtype)
        assert x.dtype == dtype
        assert x.shape == (2, 1, 16, 16)
        assert torch.equal(x[1].flatten(), torch.arange(256, dtype=dtype) / 255)
    assert torch.equal(split.images.flatten(), torch.arange(256, dtype=torch.uint8))


def test_subset_keeps_the_ids_of_its_images() -> None:
    part = split_of().subset(torch.tensor([7, 3])).subset(torch.tensor([1]))
    assert part.ids.tolist() == [3]
    assert torch.equal(part.images, split_of().images[3:4])


@pytest.mark.parametrize("count", [0, 101])
def test_first_refuses_counts_outside_the_split(count: int) -> None:
    with pytest.raises(InputError, match="from 1 to 100"):
        split_of().first(count)


def test_split_refuses_wrong_types_and_lengths() -> None:
    good = split_of()
    with pytest.raises(InputError, match="images must be uint8"):
        Split.of(good.images.float(), good.labels)
    with pytest.raises(InputError, match="labels must be int64"):
        Split.of(good.images, good.labels[:-1])
    with pytest.raises(InputError, match="labels must be int64"):
        Split.of(good.images, good.labels.int())


def test_data_refuses_labels_outside_the_classes_and_unequal_shapes() -> None:
    with pytest.raises(DataError, match="from 0 to 9, outside 0 to 8"):
        Data("x", split_of(), split_of(), tuple("abcdefghi"))
    other = Split.of(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.arange(10))
    with pytest.raises(DataError, match="differ in shape"):
        Data("x", split_of(), other, tuple("abcdefghij"))
    with pytest.raises(DataError, match="no images"):
        Data("x", split_of(), split_of().subset(slice(0)), tuple("abcdefghij"))


def test_held_out_images_are_a_stratified_deterministic_part() -> None:
    split = split_of()
    kept, held = held_out(split, 0.2, seed=3)
    assert sorted(kept.ids.tolist() + held.ids.tolist()) == list(range(100))
    assert torch.equal(held.labels.bincount(), torch.full((10,), 2))
    assert torch.equal(kept.ids, kept.ids.sort().values)
    assert torch.equal(held_out(split, 0.2, seed=3)[1].ids, held.ids)
    assert not torch.equal(held_out(split, 0.2, seed=4)[1].ids, held.ids)


def test_every_class_gives_at_least_one_held_out_image_and_keeps_one() -> None:
    split = Split.of(torch.zeros(22, 1, 1, 1, dtype=torch.uint8), torch.tensor([0] * 20 + [1] * 2))
    assert held_out(split, 0.1, seed=0)[1].labels.tolist() == [0, 0, 1]
    assert held_out(split, 0.99, seed=0)[0].labels.tolist() == [0, 1]


def test_held_out_refuses_fractions_and_classes_it_cannot_split() -> None:
    for fraction in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(InputError, match="strictly between 0 and 1"):
            held_out(split_of(), fraction, seed=0)
    with pytest.raises(InputError, match="class 0 has a single image"):
        held_out(split_of(10), 0.1, seed=0)


def test_five_folds_of_digits_test_every_image_once_and_all_classes_alike() -> None:
    seen = []
    for fold in range(5):
        data = Digits(fold=fold).load()
        assert data.shape == Digits.shape == (1, 8, 8)
        assert len(data.classes) == Digits.classes == 10
        assert set(data.train.ids.tolist()).isdisjoint(data.test.ids.tolist())
        assert len(data.train) + len(data.test) == 1797
        assert len(data.test) in (359, 360)
        assert data.test.labels.bincount().min() >= 34
        seen += data.test.ids.tolist()
    assert sorted(seen) == list(range(1797))


def test_digits_use_the_whole_range_of_bytes() -> None:
    from sklearn.datasets import load_digits

    data = Digits().load()
    assert sorted(set(data.train.images.flatten().tolist())) == [round(value * 255 / 16) for value in range(17)]
    found = load_digits()["images"][int(data.test.ids[5])]  # type: ignore[call-overload,index]
    assert torch.equal(torch.round(data.test.images[5, 0].float() * 16 / 255), torch.from_numpy(found).float())


def test_sources_keep_only_the_first_images_asked_for() -> None:
    whole = Digits().load()
    data = Digits(train_images=30, test_images=7).load()
    assert data.train.ids.tolist() == whole.train.ids[:30].tolist()
    assert data.test.ids.tolist() == whole.test.ids[:7].tolist()
    with pytest.raises(SettingsError, match="train_images = 5000 is more than the 1437"):
        Digits(train_images=5000).load()


def test_sources_travel_through_json_and_describe_themselves() -> None:
    assert {"Digits", "MNIST", "SVHN", "CIFAR10", "CIFAR100", "TinyImageNet", "Folder", "Npz"} <= set(
        registered(DataSource)
    )
    source = Digits(fold=3, train_images=5)
    assert from_json(DataSource, to_json(source)) == source
    for cls in registered(DataSource).values():
        assert line_of(cls).endswith(".")


def test_the_data_folder_is_the_argument_then_the_environment_then_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POISE_DATA", str(tmp_path / "named"))
    assert data_directory(tmp_path / "given") == tmp_path / "given"
    assert data_directory() == tmp_path / "named"
    monkeypatch.delenv("POISE_DATA")
    assert data_directory().name == "poise"
