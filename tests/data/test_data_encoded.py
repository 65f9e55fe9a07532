"""Images that are decoded when they are needed: the same bits in every mode, what identifies them, and what is
refused.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from poise.core.batches import Batch, Now
from poise.core.errors import DataError, SettingsError, StorageError
from poise.data import CropFlip, Data, Extra, Feed, Folder, RandomResizedCrop, Several, Stream, held_out
from poise.data.augment import Augmentation
from poise.data.geometry import random_boxes
from poise.engine.experiment import Experiment

MODES = ("resident", "cache", "workers")


@pytest.fixture
def root(tmp_path: Path, write: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three classes of four images to train and two to test, of noise, each of another size."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("POISE_WORKERS", "0")
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 2)):
        for name in ("a", "b", "c"):
            for number in range(count):
                size = tuple(rng.integers(12, 24, 2))
                write.image(
                    tmp_path / "pets" / part / name / f"{number}.png", rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                )
    return tmp_path / "pets"


def read(root: Path, decode: Any = "resident", size: int = 10) -> Data:
    return Folder(path=str(root), decode=decode, image_size=size).load()


def batches(
    data: Data, augmentation: Augmentation | None = None, steps: range = range(5), rank: int = 0, world: int = 1
) -> list[Batch]:
    feed = Feed(Stream(batch_size=5, augmentation=augmentation), data.train, seed=3, rank=rank, world=world)
    per_epoch = feed.steps_per_epoch
    return [feed.batch(Now(step // per_epoch + 1, step, 9, per_epoch, 3)) for step in steps]


def same(left: list[Batch], right: list[Batch]) -> bool:
    return all(
        torch.equal(getattr(a, name), getattr(b, name))
        for a, b in zip(left, right, strict=True)
        for name in ("x", "y", "ids")
    )


CROPS = (None, CropFlip(padding=2), Several(parts=(RandomResizedCrop(), CropFlip(padding=1))))


@pytest.mark.parametrize("augmentation", CROPS, ids=["none", "shifted", "cropped"])
def test_every_mode_and_number_of_workers_gives_the_same_bits(
    root: Path, monkeypatch: pytest.MonkeyPatch, augmentation: Augmentation
) -> None:
    expected = batches(read(root), augmentation)
    assert augmentation is None or not same(expected, batches(read(root)))
    for mode in MODES:
        for workers in ("0", "1", "3"):
            monkeypatch.setenv("POISE_WORKERS", workers)
            assert same(expected, batches(read(root, mode), augmentation)), (mode, workers)


def test_a_feed_that_begins_anywhere_and_ranks_that_share_it_show_what_one_unbroken_feed_does(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = batches(read(root), RandomResizedCrop())
    monkeypatch.setenv("POISE_WORKERS", "2")
    data = read(root, "cache")
    assert same(expected[3:], batches(data, RandomResizedCrop(), range(3, 5)))
    assert same(expected[3::-1], batches(data, RandomResizedCrop(), range(3, -1, -1)))
    parts = [batches(data, RandomResizedCrop(), rank=rank, world=2) for rank in range(2)]
    joined = [torch.cat([first.x, second.x]) for first, second in zip(*parts, strict=True)]
    assert all(torch.equal(batch.x, x) for batch, x in zip(expected, joined, strict=True))


def test_the_cache_is_written_once_and_opened_by_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read(root, "cache")
    (cache,) = (root.parent / "cache" / "poise" / "images").glob("*.images")
    whole = b"".join(
        path.read_bytes()
        for path in sorted((root / "train").glob("*/*"), key=lambda path: (path.name, path.parent.name))
    )
    assert cache.read_bytes()[: len(whole)] == whole, "the bytes of the files, in the order of the split"
    known = cache.stat().st_mtime_ns
    monkeypatch.setattr("poise.data.cache._pack", pytest.fail)
    second = read(root, "cache")
    assert cache.stat().st_mtime_ns == known and first.digest == second.digest
    assert str(cache) in second.remark and "images/" not in second.digest
    assert torch.equal(first.test.images, second.test.images)


def test_a_part_of_a_split_copies_no_image(root: Path) -> None:
    data = read(root)
    kept, held = held_out(data.train, 0.25, 0)
    assert kept.resident is held.resident is data.train.resident is data.train.first(2).resident
    assert torch.equal(kept.first(3).images, data.train.images[kept.ids[:3]])
    assert kept.subset(torch.tensor([4, 1])).ids.tolist() == [int(kept.ids[4]), int(kept.ids[1])]
    lazy = held_out(read(root, "workers").train, 0.25, 0)[1]
    assert lazy.resident is None and torch.equal(lazy.images, held.images) and len(lazy) == 3


def test_data_are_known_by_their_files_and_on_demand_by_their_pixels(root: Path) -> None:
    resident, lazy = read(root), read(root, "workers")
    assert resident.digest == resident.full_digest == lazy.full_digest != lazy.digest
    assert resident.has(lazy.digest) and lazy.has(resident.digest) and not lazy.has("another") and not lazy.has(None)
    assert lazy.versions.keys() == {"pillow"}
    assert read(root, "workers", size=11).digest != lazy.digest
    image = root / "train" / "a" / "0.png"
    os.utime(image, ns=(0, 0))
    assert read(root, "workers").digest != lazy.digest and read(root).full_digest == resident.full_digest


def test_the_shorter_side_is_resized_and_the_centre_taken(tmp_path: Path, write: SimpleNamespace) -> None:
    stripes = np.repeat(np.arange(40, dtype=np.uint8)[None, :, None] * 6, 20, axis=0).repeat(3, axis=2)
    for name in ("a", "b"):
        for number in range(2):
            write.image(tmp_path / name / f"{number}.png", stripes)
    whole, centre = (
        Folder(path=str(tmp_path), image_size=10, shorter_side=side).load().train.images[0, 0, 5] for side in (None, 20)
    )
    assert centre.tolist() == [6 * column for column in range(15, 25)], "as it is, columns 15 to 24 of 40"
    assert whole[0] < 30 and whole[-1] > 204, "stretched: from the left edge to the right one"
    with pytest.raises(SettingsError, match=r"Folder.shorter_side = 8: must be at least image_size = 10"):
        Folder(path="x", image_size=10, shorter_side=8)


def test_boxes_have_the_areas_and_ratios_that_are_asked_for_and_lie_inside() -> None:
    uniform = torch.rand(4000, 10, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sizes = torch.tensor([[300, 400]]).expand(4000, 2)
    top, left, height, width = random_boxes(uniform, sizes, (0.08, 1.0), (3 / 4, 4 / 3)).T
    assert bool(((top >= 0) & (left >= 0) & (top + height <= 300) & (left + width <= 400)).all())
    share = (height * width) / 120_000
    assert share.min() > 0.078 and share.max() <= 1 and 0.4 < share.mean() < 0.54
    assert (width / height).min() > 0.74 and (width / height).max() < 1.35
    narrow = random_boxes(uniform[:5], torch.tensor([[10, 1000]]).expand(5, 2), (0.9, 1.0), (3 / 4, 4 / 3))
    assert narrow.tolist() == [[0, 493, 10, 13]] * 5, "where none fits, the largest within the bounds, in the centre"


def test_a_crop_of_pixels_at_hand_is_the_crop_of_their_file(root: Path) -> None:
    data = read(root)
    boxes = torch.tensor([[0, 0, 10, 10], [2, 3, 4, 5]])
    plain = Data("plain", data.train.of(data.train.images, data.train.labels), data.test, data.classes).train
    whole, part = plain.images_at(torch.tensor([0, 0]), boxes)
    assert torch.equal(whole, plain.images[0])
    assert abs(float(part.float().mean()) - float(plain.images[0, :, 2:6, 3:8].float().mean())) < 12


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_damaged_image_is_refused_by_name(
    root: Path, mode: Any, workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POISE_WORKERS", workers)
    image = root / "train" / "b" / "2.png"
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"^\S*b/2\.png is not a readable image: .*$"):
        batches(read(root, mode))
    image.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"b/2\.png is not a readable image"):
        read(root, mode)


@pytest.mark.parametrize("mode", MODES)
def test_images_of_several_sizes_without_a_crop_are_refused_before_work(root: Path, mode: Any) -> None:
    with pytest.raises(
        DataError, match=r"train/.*png has shape \[3, \d+, \d+\], not \[3, \d+, \d+\] as required; set image_size"
    ):
        Folder(path=str(root), decode=mode).load()


def test_a_cache_of_other_files_is_refused(root: Path) -> None:
    read(root, "cache")
    folder = root.parent / "cache" / "poise" / "images"
    (content,), (index,) = folder.glob("*.images"), folder.glob("*.npz")
    whole = content.read_bytes()
    content.write_bytes(whole[::-1])
    with pytest.raises(
        DataError, match=r"\.images is a cache of other files, or damaged: its SHA-256 is not [0-9a-f]{64}; delete it"
    ):
        read(root, "cache")
    content.write_bytes(whole)
    read(root, "cache")
    image = root / "train" / "a" / "0.png"
    image.rename(root / "elsewhere")
    read(root, "cache")
    (other,) = set(folder.glob("*.npz")) - {index}
    shutil.copy(index, other)
    with pytest.raises(DataError, match=r"\.npz is of a cache of other files; delete it"):
        read(root, "cache")
    other.write_bytes(b"")
    with pytest.raises(DataError, match=r"\.npz is a damaged cache: .*; delete it"):
        read(root, "cache")


def test_a_disk_that_is_full_leaves_nothing_half_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(root)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(StorageError, match=r"its images take .* MB, 0\.0 MB are free; set decode to 'workers'"):
        read(root, "cache")
    assert not list((root.parent / "cache").rglob("*.images"))
    monkeypatch.setattr("poise.data.cache.free_memory", lambda: 1000)
    data = read(root, "auto")
    assert data.train.resident is None and "from their files" in data.remark and "are free; set decode" in data.remark
    assert torch.equal(data.train.images, read(root).train.images)


def test_auto_goes_by_size_against_memory_and_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 18 * 3 * 10 * 10
    for free, ranks, resident in (
        (4 * size, 1, True),
        (4 * size - 1, 1, False),
        (8 * size, 2, True),
        (8 * size - 1, 2, False),
    ):
        monkeypatch.setattr("poise.data.cache.free_memory", lambda free=free: free)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        data = read(root, "auto")
        assert (data.train.resident is not None) == resident
        assert (
            f"{'at most' if resident else 'more than'} a quarter of the 0.0 MB that are free (decode=auto)"
            in data.remark
        )


def test_a_wrong_number_of_workers_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POISE_WORKERS", "many")
    with pytest.raises(SettingsError, match="POISE_WORKERS = 'many': must be a whole number from 0"):
        batches(read(root, "cache"))


def test_settings_that_came_later_leave_the_group_of_older_runs() -> None:
    assert Experiment(data=Folder(path="pets")).group == "experiment-124cfed3"
    assert (
        Experiment(data=Folder(path="pets", shorter_side=9, image_size=8)).group
        != Experiment(data=Folder(path="pets", image_size=8)).group
    )


def test_a_random_crop_comes_first_and_not_beside_a_pool() -> None:
    with pytest.raises(SettingsError, match=r"Several.parts: .* must be the first part"):
        Several(parts=(CropFlip(), RandomResizedCrop()))
    with pytest.raises(SettingsError, match=r"RandomResizedCrop.scale = \(0.5, 0.1\)"):
        RandomResizedCrop(scale=(0.5, 0.1))
    with pytest.raises(SettingsError, match=r"Stream.augmentation: a random crop"):
        Stream(augmentation=RandomResizedCrop(), extra=Extra())
