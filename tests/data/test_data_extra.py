"""Extra images: read as a stream into the cache, mapped from there, mixed into batches as a function of the step."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from poise.core.batches import UNLABELLED, Now
from poise.core.errors import DataError, InputError, PoiseError, SettingsError, StorageError, UntrustedFileError
from poise.core.overrides import override
from poise.data import (
    CropFlip,
    Data,
    Digits,
    Extra,
    Feed,
    FolderPool,
    NpzPool,
    Pool,
    PseudoLabelled500K,
    Shift,
    Split,
    Stream,
    open_pools,
)
from poise.data import parts as parts_module
from poise.data.extra import _cached
from poise.engine import Experiment, train
from poise.learners import SGD, Policy
from poise.methods import Joint
from poise.objectives import FAT, RST, Objective, TwoExamples

SHAPE = (3, 8, 8)


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def data_of(count: int = 40, classes: int = 5) -> Data:
    def split(seed: int) -> Split:
        return Split.of(torch.from_numpy(random_pixels(count, *SHAPE, seed=seed)), torch.arange(count) % classes)

    return Data("data", split(1), split(2), tuple(f"c{label}" for label in range(classes)))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr("poise.data.extra.cache_directory", lambda: folder)
    return folder / "pools"


def write_npz(
    path: Path, count: int = 30, shape: tuple[int, ...] = (8, 8, 3), labels: Any = None, **names: np.ndarray
) -> np.ndarray:
    images = random_pixels(count, *shape, seed=7)
    labels = np.arange(count) % 5 if labels is None else np.asarray(labels)
    np.savez(path, image=images, label=labels, **names)  # type: ignore[arg-type]
    return images


def now(step: int, seed: int = 0) -> Now:
    return Now(epoch=step // 4 + 1, step=step, epochs=10, steps_per_epoch=4, seed=seed)


# -- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_an_archive_of_images_and_labels_is_read_in_either_layout(
    tmp_path: Path, layout: str, compressed: bool
) -> None:
    images = random_pixels(30, *((8, 8, 3) if layout == "NHWC" else SHAPE), seed=7)
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "pool.npz", image=images, label=np.arange(30, dtype=np.int32)[:, None] % 5)
    pool = NpzPool(path="pool.npz").open(data_of(), tmp_path)
    wanted = images.transpose(0, 3, 1, 2) if layout == "NHWC" else images
    np.testing.assert_array_equal(pool.split.images.numpy(), wanted)
    assert pool.split.labels.tolist() == [number % 5 for number in range(30)]
    assert pool.split.ids.tolist() == list(range(30))
    assert "30 of pool.npz, SHA-256 " + pool.digest in pool.note


def test_the_published_pickle_is_read_by_its_own_names(tmp_path: Path) -> None:
    images = random_pixels(30, 8, 8, 3)
    content = {"data": images, "extrapolated_targets": np.arange(30) % 5, "weight": 1}
    (tmp_path / "ti_500K_pseudo_labeled.pickle").write_bytes(pickle.dumps(content, 4))
    pool = PseudoLabelled500K().open(data_of(), tmp_path)
    np.testing.assert_array_equal(pool.split.images.numpy(), images.transpose(0, 3, 1, 2))
    assert pool.split.labels.tolist() == [number % 5 for number in range(30)]


def test_a_folder_gives_its_subfolders_the_labels_of_the_classes_they_are_named_after(
    tmp_path: Path, write: SimpleNamespace
) -> None:
    for name, value, count in (("c3", 30, 2), ("c1", 10, 3)):
        for number in range(count):
            write.image(tmp_path / "pool" / name / f"{number}.png", np.full((8, 8, 3), value + number, dtype=np.uint8))
    pool = FolderPool(path="pool").open(data_of(), tmp_path).split
    assert sorted(zip(pool.labels.tolist(), pool.images[:, 0, 0, 0].tolist(), strict=True)) == [
        (1, 10),
        (1, 11),
        (1, 12),
        (3, 30),
        (3, 31),
    ]


def test_a_pool_that_was_cached_beside_other_data_is_read_anew(tmp_path: Path, write: SimpleNamespace) -> None:
    """Beside data of another shape, and where a folder of a class, reached by a link, has come to hold another
    image.
    """
    (tmp_path / "pool").mkdir()
    write.image(tmp_path / "elsewhere" / "a.png", np.full((8, 8, 3), 9, dtype=np.uint8))
    (tmp_path / "pool" / "c0").symlink_to(tmp_path / "elsewhere")
    data = data_of()
    assert len(FolderPool(path="pool").open(data, tmp_path).split) == 1
    write.image(tmp_path / "elsewhere" / "b.png", np.full((8, 8, 3), 5, dtype=np.uint8))
    assert len(FolderPool(path="pool").open(data, tmp_path).split) == 2
    train, test = (Split.of(part.images[:, :1], part.labels) for part in (data.train, data.test))
    grey = dataclasses.replace(data, train=train, test=test)
    assert FolderPool(path="pool").open(grey, tmp_path).split.images.shape == (2, 1, 8, 8)


def test_folder_images_of_another_size_are_resized_when_asked(tmp_path: Path, write: SimpleNamespace) -> None:
    write.image(tmp_path / "pool" / "c0" / "a.png", np.full((20, 20, 3), 9, dtype=np.uint8))
    with pytest.raises(DataError, match=r"\[3, 20, 20\], must be \[3, 8, 8\]"):
        FolderPool(path="pool").open(data_of(), tmp_path)
    assert FolderPool(path="pool", image_size=8).open(data_of(), tmp_path).split.images.shape == (1, 3, 8, 8)


def test_pools_survive_json_and_stand_for_half_of_a_batch() -> None:
    from poise.core.settings import from_json, to_json

    pool = NpzPool(path="pool.npz", images="x")
    extra = Extra(pool=pool, share=0.25)
    assert from_json(Extra, to_json(extra)) == extra
    assert Stream(extra=pool).extra == Extra(pool=pool, share=0.5)  # type: ignore[arg-type]
    assert from_json(Stream, {"extra": to_json(pool)}).extra == Extra(pool=pool)


# -- the cache -------------------------------------------------------------------------------------------------------


def test_the_second_opening_reads_the_cache_only_and_says_the_same(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_npz(tmp_path / "pool.npz")
    first = NpzPool(path="pool.npz").open(data_of(), tmp_path)
    assert {path.suffix for path in cache.iterdir()} == {".npy", ".json"}
    monkeypatch.setattr(NpzPool, "read", lambda *_: pytest.fail("the source was read again"))
    second = NpzPool(path="pool.npz").open(data_of(), tmp_path)
    assert torch.equal(first.split.images, second.split.images)
    assert first.digest == second.digest


def test_the_digest_depends_on_pixels_and_labels_and_not_on_the_packing(tmp_path: Path) -> None:
    images = write_npz(tmp_path / "a.npz")
    np.savez_compressed(tmp_path / "b.npz", image=images, label=np.arange(30) % 5)
    np.savez(tmp_path / "c.npz", image=images, label=np.arange(30)[::-1] % 5)
    np.savez(tmp_path / "d.npz", image=images[::-1].copy(), label=np.arange(30) % 5)
    digests = [NpzPool(path=f"{name}.npz").open(data_of(), tmp_path).digest for name in "abcd"]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "pool.npz"
    write_npz(path, 30)
    assert len(NpzPool(path="pool.npz").open(data_of(), tmp_path).split) == 30
    write_npz(path, 31)
    assert len(NpzPool(path="pool.npz").open(data_of(), tmp_path).split) == 31
    os.utime(path, ns=(1, 1))
    assert len(NpzPool(path="pool.npz").open(data_of(), tmp_path).split) == 31


def test_a_pool_without_labels_gives_images_without_labels_from_the_cache_too(tmp_path: Path, cache: Path) -> None:
    images = write_npz(tmp_path / "pool.npz")
    read, pool = (NpzPool(path="pool.npz", labels=None).open(data_of(), tmp_path) for _ in range(2))
    assert read.digest == pool.digest
    np.testing.assert_array_equal(pool.split.images.numpy(), images.transpose(0, 3, 1, 2))
    assert pool.split.labels.tolist() == [UNLABELLED] * 30
    assert _cached(only(cache, ".json").with_suffix(""), 5) is None, "they are not labels of classes"
    stream = Stream(batch_size=12, extra=Extra(pool=NpzPool(path="pool.npz", labels=None)))
    batch = Feed(stream, data_of().train, seed=0, pool=pool.split).batch(now(0))
    assert torch.equal(batch.y == UNLABELLED, batch.extra) and int(batch.extra.sum()) == 6


@pytest.mark.parametrize("suffix", [".npy", ".labels.npy", ".json"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, cache: Path, suffix: str) -> None:
    images = write_npz(tmp_path / "pool.npz")
    NpzPool(path="pool.npz").open(data_of(), tmp_path)
    (file,) = [
        path for path in cache.iterdir() if path.name.count(".") == suffix.count(".") and path.name.endswith(suffix)
    ]
    file.write_bytes(file.read_bytes()[:-20])
    again = NpzPool(path="pool.npz").open(data_of(), tmp_path)
    np.testing.assert_array_equal(again.split.images.numpy(), images.transpose(0, 3, 1, 2))


def test_the_images_are_mapped_and_writing_to_them_leaves_the_file_alone(tmp_path: Path, cache: Path) -> None:
    write_npz(tmp_path / "pool.npz")
    pool = NpzPool(path="pool.npz").open(data_of(), tmp_path)
    (file,) = cache.glob("*[!s].npy")
    found = _cached(file.with_suffix(""), 5)
    assert found is not None
    assert isinstance(found[0], np.memmap)
    before = file.read_bytes()
    pool.split.images.zero_()
    assert file.read_bytes() == before


MEASURE = """
import re, sys
import numpy as np, torch
from pathlib import Path
import poise.data.extra as extra
from poise.data import Data, NpzPool, Split
folder = Path(sys.argv[1])
extra.cache_directory = lambda: folder / "cache"
split = Split.of(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.arange(2))
def peak():  # not ru_maxrss, which begins at that of the process that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = peak()
pool = NpzPool(path=str(folder / "pool.npz")).open(Data("d", split, split, ("a", "b")))
assert len(pool.split) == 60_000
print((peak() - before) / 1024)
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the peak of a process's memory is read from Linux's /proc"
)
def test_reading_a_pool_takes_a_small_part_of_its_size_in_memory(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pool.npz", "w") as archive:  # 176 MiB, written without holding them either
        with archive.open("image.npy", "w") as member:
            head: Any = {"descr": "|u1", "fortran_order": False, "shape": (60_000, 32, 32, 3)}
            np.lib.format.write_array_header_1_0(member, head)
            for _ in range(60):
                member.write(bytes(1000 * 3072))
        with archive.open("label.npy", "w") as member:
            np.lib.format.write_array(member, np.zeros(60_000, dtype=np.int64))
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 60, "MiB beyond what was used before"


def test_reading_in_parts_gives_what_reading_whole_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_npz(tmp_path / "pool.npz")
    monkeypatch.setattr(parts_module, "PART", 7)
    pool = NpzPool(path="pool.npz").open(data_of(), tmp_path)
    np.testing.assert_array_equal(pool.split.images.numpy(), images.transpose(0, 3, 1, 2))


def test_a_cache_that_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    write_npz(tmp_path / "pool.npz")
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="cannot be written"):
        NpzPool(path="pool.npz").open(data_of(), tmp_path)


# -- refusals --------------------------------------------------------------------------------------------------------


def only(cache: Path, suffix: str) -> Path:
    """The one file of the cache that holds the pixels (.npy), the labels (.labels.npy) or the facts (.json)."""
    (file,) = [
        path for path in cache.iterdir() if path.name.count(".") == suffix.count(".") and path.name.endswith(suffix)
    ]
    return file


def inverted(path: Path, place: int) -> None:
    """One byte is changed, and neither the size nor the time of the file."""
    content, facts = bytearray(path.read_bytes()), path.stat()
    content[place] ^= 0xFF
    path.write_bytes(content)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


@pytest.mark.parametrize("place", [-8, -1], ids=["another class", "beyond the classes"])
def test_labels_changed_in_the_cache_are_noticed_whatever_their_time_says(
    tmp_path: Path, cache: Path, place: int
) -> None:
    write_npz(tmp_path / "pool.npz")
    first = NpzPool(path="pool.npz").open(data_of(), tmp_path)
    inverted(only(cache, ".labels.npy"), place)
    again = NpzPool(path="pool.npz").open(data_of(), tmp_path)
    assert torch.equal(again.split.labels, first.split.labels)
    assert again.digest == first.digest


def test_labels_in_order_but_not_those_recorded_are_noticed(tmp_path: Path, cache: Path) -> None:
    write_npz(tmp_path / "pool.npz")
    NpzPool(path="pool.npz").open(data_of(), tmp_path)
    np.save(only(cache, ".labels.npy"), np.zeros(30, dtype=np.int64))
    assert NpzPool(path="pool.npz").open(data_of(), tmp_path).split.labels.tolist() == [
        number % 5 for number in range(30)
    ]


def test_labels_recorded_beyond_the_classes_are_not_used(tmp_path: Path, cache: Path) -> None:
    write_npz(tmp_path / "pool.npz")
    NpzPool(path="pool.npz").open(data_of(), tmp_path)
    place = only(cache, ".json").with_suffix("")
    assert _cached(place, 5) is not None
    assert _cached(place, 4) is None


def test_pixels_changed_in_the_cache_are_made_again(tmp_path: Path, cache: Path) -> None:
    images = write_npz(tmp_path / "pool.npz")
    first = NpzPool(path="pool.npz").open(data_of(), tmp_path)
    pixels = only(cache, ".npy")
    content = bytearray(pixels.read_bytes())
    content[-5] ^= 0xFF
    pixels.write_bytes(content)  # the size stays
    again = NpzPool(path="pool.npz").open(data_of(), tmp_path)
    np.testing.assert_array_equal(again.split.images.numpy(), images.transpose(0, 3, 1, 2))
    assert again.digest == first.digest


def test_pixels_of_another_time_are_read_through_once_and_kept_when_they_are_right(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_npz(tmp_path / "pool.npz")
    first = NpzPool(path="pool.npz").open(data_of(), tmp_path)
    os.utime(only(cache, ".npy"), ns=(1, 1))  # as a copied cache has it
    monkeypatch.setattr(NpzPool, "read", lambda *_: pytest.fail("the source was read again"))
    assert NpzPool(path="pool.npz").open(data_of(), tmp_path).digest == first.digest
    monkeypatch.setattr("poise.data.extra._digest_of", lambda *_: pytest.fail("the pixels were read through again"))
    assert NpzPool(path="pool.npz").open(data_of(), tmp_path).digest == first.digest


def test_a_cache_of_before_labels_were_recorded_is_checked_whole(tmp_path: Path, cache: Path) -> None:
    write_npz(tmp_path / "pool.npz")
    first = NpzPool(path="pool.npz").open(data_of(), tmp_path)
    facts = only(cache, ".json")
    whole = json.loads(facts.read_text())
    facts.write_text(json.dumps({name: whole[name] for name in ("shape", "sha256", "origin")}))
    assert NpzPool(path="pool.npz").open(data_of(), tmp_path).digest == first.digest
    assert json.loads(facts.read_text()) == whole


@pytest.mark.parametrize("suffix", [".npy", ".labels.npy"])
def test_what_is_written_into_the_cache_is_whole_or_not_there(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    write_npz(tmp_path / "pool.npz")
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name.endswith(suffix) and Path(target).name.count(".") == suffix.count("."):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="no space is left"):
        NpzPool(path="pool.npz").open(data_of(), tmp_path)
    monkeypatch.undo()
    left = [path.name for path in cache.iterdir()]
    assert not [
        name for name in left if name.endswith((".part", ".json")) or (name.endswith(suffix) and suffix != ".npy")
    ]
    assert suffix != ".npy" or not left


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_cache_has_the_mode_that_the_umask_makes(tmp_path: Path, cache: Path, umask: int) -> None:
    write_npz(tmp_path / "pool.npz")
    before = os.umask(umask)
    try:
        NpzPool(path="pool.npz").open(data_of(), tmp_path)
    finally:
        os.umask(before)
    for suffix in (".npy", ".labels.npy"):
        assert only(cache, suffix).stat().st_mode & 0o777 == 0o666 & ~umask


def broken(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])


def objects(path: Path) -> None:
    np.savez(path, image=np.array([{}, []], dtype=object), label=np.arange(2))


REFUSED: dict[str, tuple[Any, str, type[Exception]]] = {
    "a label beyond the classes": (
        lambda path: write_npz(path, labels=[5] * 30),
        r"pool\.npz, label: labels run from 5 to 5, outside 0 to 4",
        DataError,
    ),
    "a negative label": (
        lambda path: write_npz(path, labels=[-1] * 30),
        "labels run from -1 to -1, outside 0 to 4",
        DataError,
    ),
    "labels that are no whole numbers": (
        lambda path: write_npz(path, labels=[0.5] * 30),
        "one whole number per image",
        DataError,
    ),
    "too few labels": (lambda path: write_npz(path, labels=[0] * 29), r"pool\.npz: 30 images but 29 labels", DataError),
    "another size": (lambda path: write_npz(path, shape=(9, 9, 3)), r"\[3, 9, 9\], must be \[3, 8, 8\]", DataError),
    "another number of channels": (
        lambda path: write_npz(path, shape=(8, 8)),
        r"\[1, 8, 8\], must be \[3, 8, 8\]",
        DataError,
    ),
    "two axes": (lambda path: write_npz(path, shape=(8,)), "3 or 4 axes", DataError),
    "an unclear order of axes": (lambda path: write_npz(path, shape=(3, 8, 3)), "set layout", DataError),
    "no images": (lambda path: write_npz(path, 0), "holds no images", DataError),
    "float images": (
        lambda path: np.savez(path, image=np.zeros((2, 8, 8, 3)), label=np.zeros(2, dtype=int)),
        "must be uint8, not float64",
        DataError,
    ),
    "no labels": (
        lambda path: np.savez(path, image=random_pixels(2, 8, 8, 3)),
        "lacks the array 'label'; it has image",
        DataError,
    ),
    "no array of that name": (
        lambda path: np.savez(path, x=random_pixels(2, 8, 8, 3)),
        "lacks the array 'image'; it has x",
        DataError,
    ),
    "pickled objects": (objects, "pickled objects", UntrustedFileError),
    "columns first": (
        lambda path: np.savez(path, image=np.asfortranarray(random_pixels(4, 8, 8, 3)), label=np.zeros(4, dtype=int)),
        "column by column",
        DataError,
    ),
    "truncated": (lambda path: (write_npz(path), broken(path, 0.5)), "not a whole .npz archive", DataError),
    "empty": (lambda path: path.write_bytes(b""), "not a whole .npz archive", DataError),
    "no archive": (lambda path: path.write_bytes(b"not a zip" * 99), "not a whole .npz archive", DataError),
}


@pytest.mark.parametrize(("make", "match", "error"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_pool_for_these_data_is_refused_and_leaves_no_cache(
    tmp_path: Path, cache: Path, make: Any, match: str, error: type[Exception]
) -> None:
    make(tmp_path / "pool.npz")
    with pytest.raises(error, match=match) as refused:
        NpzPool(path="pool.npz").open(data_of(), tmp_path)
    assert "pool.npz" in str(refused.value)
    assert not cache.exists() or not list(cache.iterdir())


def test_damage_inside_the_archive_is_found_while_reading_and_leaves_no_cache(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "pool.npz"
    write_npz(path)
    content = bytearray(path.read_bytes())
    content[2000] ^= 0xFF  # inside the images
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"not a whole \.npz archive"):
        NpzPool(path="pool.npz").open(data_of(), tmp_path)
    assert not list(cache.iterdir())


class Calls:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"data": random_pixels(3, 8, 8, 3)}, "lacks 'data' or 'extrapolated_targets'; it holds a dict of 'data'"),
        ([1, 2], "lacks 'data' or 'extrapolated_targets'"),
        ({"data": random_pixels(3, 8, 8, 3), "extrapolated_targets": np.array([0, 1, 9])}, "outside 0 to 4"),
        ({"data": [1, 2], "extrapolated_targets": np.array([0, 1])}, "must be uint8"),
    ],
)
def test_a_pickle_of_other_content_is_refused(tmp_path: Path, content: object, match: str) -> None:
    (tmp_path / "p.pickle").write_bytes(pickle.dumps(content, 4))
    with pytest.raises(DataError, match=match):
        PseudoLabelled500K(path="p.pickle").open(data_of(), tmp_path)


def test_a_pickle_that_would_run_code_does_not_run(tmp_path: Path) -> None:
    target = tmp_path / "made-by-pickle"
    (tmp_path / "p.pickle").write_bytes(pickle.dumps({"data": Calls(target)}, 4))
    with pytest.raises(UntrustedFileError, match=r"p\.pickle asks for (posix|nt)\.mkdir"):
        PseudoLabelled500K(path="p.pickle").open(data_of(), tmp_path)
    assert not target.exists()


def test_a_truncated_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.pickle"
    path.write_bytes(
        pickle.dumps({"data": random_pixels(30, 8, 8, 3), "extrapolated_targets": np.zeros(30, dtype=int)}, 4)
    )
    broken(path, 0.7)
    with pytest.raises(DataError, match=r"p\.pickle is not a whole pickle"):
        PseudoLabelled500K(path="p.pickle").open(data_of(), tmp_path)


@pytest.mark.parametrize(
    ("pool", "hint"),
    [
        (
            NpzPool(path="nothing.npz"),
            "set path to your data, or label images by a trained model: poise pseudo-label RUN --out FILE.npz",
        ),
        (FolderPool(path="nothing"), "set path to your data"),
        (PseudoLabelled500K(), "its authors publish it at https://github.com/yaircarmon/semisup-adv; set path"),
    ],
)
def test_a_missing_pool_says_where_it_was_looked_for_and_where_it_comes_from(
    tmp_path: Path, pool: Pool, hint: str
) -> None:
    with pytest.raises(DataError, match=rf"there is no {pool.path} \(looked in .* and {tmp_path}\); {hint}"):
        pool.open(data_of(), tmp_path)


def test_folders_without_labels_or_of_other_classes_are_refused(tmp_path: Path, write: SimpleNamespace) -> None:
    write.image(tmp_path / "flat" / "a.png", np.zeros((8, 8, 3), dtype=np.uint8))
    with pytest.raises(DataError, match="poise pseudo-label"):
        FolderPool(path="flat").open(data_of(), tmp_path)
    write.image(tmp_path / "other" / "zebra" / "a.png", np.zeros((8, 8, 3), dtype=np.uint8))
    with pytest.raises(DataError, match="zebra is no class of data, which has c0, c1"):
        FolderPool(path="other").open(data_of(), tmp_path)
    (tmp_path / "empty" / "c0").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no images"):
        FolderPool(path="empty").open(data_of(), tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        FolderPool(path="flat/a.png").open(data_of(), tmp_path)


@pytest.mark.parametrize("share", [0, -0.5, 1.5, "2/1", True])
def test_shares_outside_the_batch_are_refused(share: Any) -> None:
    with pytest.raises(SettingsError, match="share"):
        Extra(pool=NpzPool(path="x"), share=share)


def test_a_share_that_rounds_to_no_image_is_refused() -> None:
    with pytest.raises(SettingsError, match="at least one of batch_size = 16"):
        Stream(batch_size=16, extra=Extra(pool=NpzPool(path="x"), share=0.01))


def test_without_a_pool_the_learners_own_images_stand_for_the_unlabelled_ones() -> None:
    """Those it trains on, not the ones held out of them."""
    split = data_of().train.subset(torch.arange(24))
    stream = Stream(batch_size=12, extra=Extra(pool=None, share=0.5))
    assert open_pools({"joint": stream}, data_of()) == {}
    feed = Feed(stream, split, seed=0)
    for step in range(4):
        batch = feed.batch(Now(1, step, 2, feed.steps_per_epoch, 0))
        assert int(batch.extra.sum()) == 6
        rows = batch.ids
        assert int(rows.max()) < 24
        assert torch.equal(batch.y, split.labels[rows])
        assert torch.equal(batch.x, split.pixels(rows, torch.float32))


def test_a_feed_without_its_pool_refuses_to_give_a_batch() -> None:
    feed = Feed(Stream(batch_size=8, extra=Extra(pool=NpzPool(path="x"))), data_of().train, 0)
    assert feed.steps_per_epoch == 5
    with pytest.raises(InputError, match="open_pools"):
        feed.batch(now(0))


# -- mixing ----------------------------------------------------------------------------------------------------------


def pool_split(count: int = 1000) -> Split:
    images = (torch.arange(count)[:, None, None, None] % 256).to(torch.uint8).expand(count, *SHAPE).clone()
    return Split.of(images, torch.arange(count) % 5)


def feed_of(
    rank: int = 0, world: int = 1, seed: int = 0, share: float = 0.5, size: int = 10, count: int = 40, **stream: Any
) -> Feed:
    made = Stream(batch_size=size, extra=Extra(pool=NpzPool(path="x"), share=share), **stream)
    return Feed(made, data_of(count).train, seed, rank=rank, world=world, pool=pool_split())


def test_a_batch_has_its_share_of_the_pool_and_says_which() -> None:
    for share, extras in ((0.5, 5), (0.3, 3), (1.0, 10)):
        batch = feed_of(share=share).batch(now(0))
        assert batch.total == len(batch) == 10
        assert int(batch.extra.sum()) == extras
        pool, own = pool_split(), data_of().train
        for place in range(10):
            source = pool if batch.extra[place] else own
            number = int(batch.ids[place])
            assert torch.equal(batch.x[place], source.pixels(slice(number, number + 1))[0])
            assert batch.y[place] == source.labels[number]
    assert feed_of().batch(now(0)).places.tolist() == list(range(10))


def test_an_epoch_counts_labelled_and_extra_images_together_as_published() -> None:
    """50,000 images in batches of 256, half of them extra: 196 steps."""
    images = torch.zeros(50_000, 1, 1, 1, dtype=torch.uint8)
    feed = Feed(
        Stream(batch_size=256, extra=Extra(pool=NpzPool(path="x"))),
        Split.of(images, torch.zeros(50_000, dtype=torch.int64)),
        0,
    )
    assert feed.steps_per_epoch == 196
    assert feed.stream.labelled == 128


def test_labelled_images_of_an_epoch_are_distinct_and_every_epoch_takes_others() -> None:
    source = feed_of()
    epochs = []
    for epoch in range(3):
        batches = [source.batch(now(4 * epoch + step)) for step in range(4)]
        numbers = [int(number) for batch in batches for number in batch.ids[~batch.extra]]
        assert len(set(numbers)) == len(numbers) == 20
        epochs.append(tuple(sorted(numbers)))
    assert len(set(epochs)) == 3


def test_extra_images_are_drawn_uniformly_with_replacement_from_the_whole_pool() -> None:
    source = feed_of(share=1.0, size=50, count=400)
    drawn = torch.cat([source.batch(now(step)).ids for step in range(200)])
    assert len(drawn) == 10_000
    counts = torch.bincount(drawn, minlength=1000).double()
    chi_square = float(((counts - 10) ** 2 / 10).sum())
    assert 820 < chi_square < 1190  # 999 degrees of freedom: four standard deviations are 179
    assert int(counts.max()) > 10


def test_extra_images_stand_in_random_places_of_the_batch() -> None:
    source = feed_of()
    places = torch.stack([source.batch(now(step)).extra for step in range(400)]).double().mean(0)
    assert (places - 0.5).abs().max() < 0.1


def test_the_last_batch_of_an_odd_epoch_is_filled_by_the_pool() -> None:
    source = feed_of(size=16, share=0.1, count=33)  # 14 labelled of 16; the third batch has 5 left
    assert source.steps_per_epoch == 3
    batch = source.batch(Now(1, 2, 10, 3, 0))
    assert (len(batch), int((~batch.extra).sum())) == (16, 5)
    assert feed_of(size=16, count=33, drop_last=True).steps_per_epoch == 2


def test_batches_depend_on_the_step_and_the_seed_alone() -> None:
    used = feed_of(augmentation=CropFlip(padding=1))
    for step in (0, 9, 3, 9):
        assert torch.equal(used.batch(now(step)).x, feed_of(augmentation=CropFlip(padding=1)).batch(now(step)).x)
    assert not torch.equal(used.batch(now(0)).ids, used.batch(now(4)).ids)
    assert not torch.equal(used.batch(now(0)).ids, feed_of(seed=1).batch(now(0)).ids)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_hold_contiguous_parts_of_the_same_global_batch(world: int) -> None:
    for step in range(6):
        whole = feed_of(augmentation=Shift()).batch(now(step))
        parts = [feed_of(rank=rank, world=world, augmentation=Shift()).batch(now(step)) for rank in range(world)]
        for name in ("x", "y", "ids", "places", "extra"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
        assert {part.total for part in parts} == {10}


def test_streams_without_extra_images_are_what_they_were() -> None:
    plain = Feed(Stream(batch_size=10), data_of().train, 0)
    given = Feed(Stream(batch_size=10), data_of().train, 0, pool=pool_split())
    assert torch.equal(plain.batch(now(2)).x, given.batch(now(2)).x)
    assert not given.batch(now(2)).extra.any()


def test_streams_that_name_one_pool_share_it(tmp_path: Path) -> None:
    write_npz(tmp_path / "pool.npz")
    pool = NpzPool(path="pool.npz")
    streams = {"a": Stream(extra=Extra(pool=pool)), "b": Stream(extra=Extra(pool=pool, share=0.2)), "c": Stream()}
    opened = open_pools(streams, data_of(), tmp_path)
    assert set(opened) == {"a", "b"}
    assert opened["a"] is opened["b"]


# -- training --------------------------------------------------------------------------------------------------------


def experiment(tmp_path: Path, objective: Any, method: str = "joint", **changes: Any) -> Any:
    from poise.data import Digits
    from poise.engine import Experiment
    from poise.learners import SGD, Policy
    from poise.methods import Generalist, Joint

    extra = Extra(pool=NpzPool(path=str(tmp_path / "pool.npz")), share=0.5)
    policy = Policy(objective=objective, optimizer=SGD(learning_rate=0.05), extra=extra)
    made = Joint(policy=policy, batch_size=16) if method == "joint" else Generalist(robust=policy, batch_size=16)
    return Experiment(data=Digits(train_images=60, test_images=20), method=made, epochs=2, criterion="last", **changes)


def digits_pool(tmp_path: Path, seed: int = 0) -> None:
    np.savez(tmp_path / "pool.npz", image=random_pixels(25, 8, 8, 1, seed=seed), label=np.arange(25) % 10)


@pytest.mark.parametrize("method", ["joint", "generalist"])
@pytest.mark.parametrize(
    "name", ["NT", "AT", "TRADES", "MART", "WeightedRST", "RST", "GAIRRST", "BAT", "SqueezeTraining", "TwoExamples"]
)
def test_any_objective_trains_on_extra_images(tmp_path: Path, name: str, method: str) -> None:
    import poise.objectives as objectives
    from poise.engine import train

    digits_pool(tmp_path)
    late = {"from_epoch": 2} if name == "GAIRRST" else {}
    run = train(experiment(tmp_path, getattr(objectives, name)(**late), method, monitors=()), tmp_path / "run")
    assert run.facts("last")["epoch"] == 2
    notes = json.loads((run.path / "run.json").read_text())["data_notes"]
    assert any("25 of pool.npz, SHA-256" in note for note in notes)


def test_learners_are_told_which_examples_are_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from poise.engine import train
    from poise.learners import Learner
    from poise.objectives import WeightedRST

    digits_pool(tmp_path)
    seen: list[tuple[int, int]] = []
    descend = Learner.descend

    def watched(self: Learner, objective: Any, batch: Any, moment: Any) -> Any:
        seen.append((len(batch), int(batch.extra.sum())))
        return descend(self, objective, batch, moment)

    monkeypatch.setattr(Learner, "descend", watched)
    train(experiment(tmp_path, WeightedRST()), tmp_path / "run")
    assert seen == [(16, 8)] * len(seen)
    assert len(seen) == 2 * 4  # 54 labelled images are trained on: ceil(54 / 16) steps


def test_resuming_refuses_a_pool_that_was_changed_and_goes_on_with_the_same_one(tmp_path: Path) -> None:
    from poise.core.errors import RunError
    from poise.engine import resume, train
    from poise.objectives import NT

    digits_pool(tmp_path)
    run = train(experiment(tmp_path, NT()), tmp_path / "run")
    wanted = run.facts("last")["sha256"]
    run.states()[0].with_suffix(".safetensors").unlink()
    assert resume(run.path).facts("last")["sha256"] == wanted
    digits_pool(tmp_path, seed=5)
    with pytest.raises(RunError, match=r"pool\.npz was changed"):
        resume(run.path)


def test_a_missing_pool_is_refused_before_the_run_folder_exists(tmp_path: Path) -> None:
    from poise.engine import train
    from poise.objectives import NT

    with pytest.raises(PoiseError, match=r"there is no .*pool\.npz"):
        train(experiment(tmp_path, NT()), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "objective",
    [RST(), FAT(objective=RST(), tau=(0,), tau_from=(1,)), TwoExamples(objective=RST())],
    ids=["rst", "fat", "two"],
)
def test_a_run_learns_from_the_labels_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: Objective
) -> None:
    """The natural term of its only step is the initial network's mean cross-entropy over the half with labels."""
    monkeypatch.chdir(tmp_path)
    np.savez("pool.npz", image=random_pixels(20, 8, 8, 1), label=np.arange(20) % 10)
    policy = Policy(objective=objective, optimizer=SGD(learning_rate=0.01), extra=Extra(pool=NpzPool(path="pool.npz")))
    digits, method = Digits(train_images=32, test_images=20), Joint(policy=policy, batch_size=32)
    made = override(
        Experiment(data=digits, method=method, epochs=1, selection="test"), ["method.policy.extra.pool.labels=null"]
    )
    (line,) = train(made, tmp_path / "run").metrics()
    streams, data = made.method.streams(), digits.load()
    pool = open_pools(streams, data)["joint"]
    batch = Feed(streams["joint"], data.train, made.seed, pool=pool.split).batch(Now(1, 0, 1, 1, made.seed))
    logits = made.model.build(data.shape, 10, seed=made.seed).train()(batch.x)
    assert torch.equal(batch.y == UNLABELLED, batch.extra)
    assert 0 < int(batch.extra.sum()) < 32
    expected = torch.nn.functional.cross_entropy(logits[~batch.extra], batch.y[~batch.extra])
    assert line["loss/joint/natural"] == pytest.approx(float(expected.detach()), rel=1e-5)
