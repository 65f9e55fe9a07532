"""Readers of the published formats, on small files written in these formats; damaged ones are refused."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat

from poise.core.errors import DataError, UntrustedFileError
from poise.data import CIFAR10, CIFAR100, MNIST, SVHN, TinyImageNet
from poise.data.downloads import PublishedSource
from poise.data.images import read_images_cached
from poise.data.mnist import read_idx

LOOSE: dict[str, Any] = {"download": False, "verify": False}


class Trap:
    """Pickles as a call that makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.path,)


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_is_read_from_idx_files_packed_or_not(tmp_path: Path, write: SimpleNamespace, packed: bool) -> None:
    write.mnist(tmp_path, packed=packed)
    data = MNIST(**LOOSE).load(tmp_path)
    assert (len(data.train), len(data.test), data.shape) == (20, 10, MNIST.shape)
    assert data.train.labels.tolist() == [index % 10 for index in range(20)]
    np.testing.assert_array_equal(data.train.images[:, 0].numpy(), write.pixels(20, 28, 28))
    assert data.train.ids.tolist() == list(range(20))


def test_files_with_another_digest_are_refused_or_read_with_a_note(tmp_path: Path, write: SimpleNamespace) -> None:
    write.mnist(tmp_path)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz has MD5 digest .*, not f68b3c2d"):
        MNIST(download=False).load(tmp_path)
    notes = MNIST(**LOOSE).load(tmp_path).notes
    assert len(notes) == 4
    assert notes[0].startswith("train-images-idx3-ubyte.gz differs from the published file")


def test_truncated_and_foreign_idx_files_are_refused(tmp_path: Path, write: SimpleNamespace) -> None:
    path = tmp_path / "images"
    write.idx(path, write.pixels(3, 4, 5))
    content = path.read_bytes()
    assert read_idx(content, 3, path).shape == (3, 4, 5)
    for broken, reason in (
        (content[:-1], "truncated"),
        (content[:9], "truncated"),
        (b"", "truncated"),
        (content + b"x", "too long"),
    ):
        with pytest.raises(DataError, match=f"images is {reason}"):
            read_idx(broken, 3, path)
    with pytest.raises(DataError, match="magic number 2051, not 2049"):
        read_idx(content, 1, path)


def test_a_cut_gzip_file_is_refused(tmp_path: Path, write: SimpleNamespace) -> None:
    write.mnist(tmp_path)
    path = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
    for content in (path.read_bytes()[:-6], b"not gzip", gzip.compress(b"")):
        path.write_bytes(content)
        with pytest.raises(DataError, match="t10k-labels-idx1-ubyte"):
            MNIST(**LOOSE).load(tmp_path)


def test_mnist_refuses_labels_and_counts_that_do_not_fit(tmp_path: Path, write: SimpleNamespace) -> None:
    write.mnist(tmp_path)
    labels = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte.gz"
    write.idx(labels, np.full(20, 10))
    with pytest.raises(DataError, match="labels run from 10 to 10, outside 0 to 9"):
        MNIST(**LOOSE).load(tmp_path)
    write.idx(labels, np.zeros(19))
    with pytest.raises(DataError, match="20 images but 19 labels"):
        MNIST(**LOOSE).load(tmp_path)
    write.idx(tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz", write.pixels(10, 27, 28))
    write.idx(labels, np.zeros(20))
    with pytest.raises(DataError, match=r"t10k-images.*\[N, 1, 28, 28\]"):
        MNIST(**LOOSE).load(tmp_path)


def test_cifar10_is_read_from_its_batches_in_order(tmp_path: Path, write: SimpleNamespace) -> None:
    write.cifar10(tmp_path)
    data = CIFAR10(**LOOSE).load(tmp_path)
    assert (len(data.train), len(data.test), data.shape, len(data.classes)) == (50, 10, CIFAR10.shape, 10)
    expected = np.concatenate([write.pixels(10, 3072, seed=number) for number in range(5)]).reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(data.train.images.numpy(), expected)
    assert data.train.labels.tolist() == list(range(10)) * 5
    assert data.train.ids.tolist() == list(range(50))
    assert len(CIFAR10(**LOOSE).load(tmp_path / "cifar-10-batches-py").test) == 10, "the folder itself may be named too"


def test_a_tampered_cifar_batch_is_refused_before_it_is_read(
    tmp_path: Path, write: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    write.cifar10(tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    digests = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(CIFAR10, "digests", digests)
    assert CIFAR10().load(tmp_path).notes == ()
    changed = bytearray((folder / "data_batch_3").read_bytes())
    changed[2000] ^= 1
    (folder / "data_batch_3").write_bytes(changed)
    with pytest.raises(DataError, match="data_batch_3 has MD5 digest"):
        CIFAR10().load(tmp_path)


def test_a_cifar_batch_that_would_run_code_is_not_run(tmp_path: Path, write: SimpleNamespace) -> None:
    write.cifar10(tmp_path)
    batch, made = tmp_path / "cifar-10-batches-py" / "data_batch_2", tmp_path / "made"
    batch.write_bytes(pickle.dumps({"labels": [0], "data": Trap(made)}, protocol=2))
    with pytest.raises(UntrustedFileError, match="data_batch_2 asks for"):
        CIFAR10(**LOOSE).load(tmp_path)
    assert not made.exists()


BAD_BATCHES = {
    "no labels": ({"data": np.zeros((2, 3072), np.uint8)}, "lacks"),
    "not a dict": ([1, 2], "lacks"),
    "label 10": ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 10]}, "outside 0 to 9"),
    "label -1": ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, -1]}, "outside 0 to 9"),
    "label 0.5": ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 0.5]}, "whole number"),
    "ragged labels": ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, [1, 2]]}, "whole number"),
    "one label short": ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "2 images but 1 labels"),
    "shape": ({"data": np.zeros((2, 3071), np.uint8), "labels": [0, 1]}, r"\[N, 3072\]"),
    "floats": ({"data": np.zeros((2, 3072), np.float32), "labels": [0, 1]}, "must be uint8"),
}


@pytest.mark.parametrize(("content", "reason"), BAD_BATCHES.values(), ids=BAD_BATCHES.keys())
def test_malformed_cifar_batches_are_refused(tmp_path: Path, write: SimpleNamespace, content: Any, reason: str) -> None:
    write.cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=f"test_batch.*{reason}"):
        CIFAR10(**LOOSE).load(tmp_path)


def test_cifar100_is_read_with_its_fine_labels(tmp_path: Path, write: SimpleNamespace) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name, count in (("train", 30), ("test", 10)):
        fine = [(7 * index) % 100 for index in range(count)]
        content = {"data": write.pixels(count, 3072), "fine_labels": fine, "coarse_labels": [0] * count}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    data = CIFAR100(**LOOSE).load(tmp_path)
    assert (len(data.train), len(data.test), data.shape) == (30, 10, (3, 32, 32))
    assert len(set(data.classes)) == CIFAR100.classes == 100
    assert list(data.classes) == sorted(data.classes), "labels number the fine names in alphabetical order"
    assert data.train.labels.tolist() == [(7 * index) % 100 for index in range(30)]


def write_svhn(root: Path, images: np.ndarray, labels: np.ndarray) -> None:
    (root / "SVHN").mkdir(exist_ok=True)
    for part in ("train", "test"):
        savemat(
            root / "SVHN" / f"{part}_32x32.mat",
            {"X": images.transpose(1, 2, 3, 0), "y": labels[:, None]},
            do_compression=True,
        )


@pytest.mark.parametrize("dtype", ["u1", "f8"])
def test_svhn_is_read_with_class_10_as_digit_0(tmp_path: Path, write: SimpleNamespace, dtype: str) -> None:
    images = write.pixels(10, 32, 32, 3)
    write_svhn(tmp_path, images, np.arange(1, 11).astype(dtype))
    data = SVHN(**LOOSE).load(tmp_path)
    assert data.train.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    np.testing.assert_array_equal(data.train.images.numpy(), images.transpose(0, 3, 1, 2))


def test_malformed_svhn_files_are_refused(tmp_path: Path, write: SimpleNamespace) -> None:
    write_svhn(tmp_path, write.pixels(3, 32, 32, 3), np.array([1, 2, 11]))
    with pytest.raises(DataError, match="outside 0 to 9"):
        SVHN(**LOOSE).load(tmp_path)
    write_svhn(tmp_path, write.pixels(3, 32, 32, 3), np.array([1, 2, 2.5]))
    with pytest.raises(DataError, match="whole numbers"):
        SVHN(**LOOSE).load(tmp_path)
    write_svhn(tmp_path, write.pixels(3, 32, 31, 3), np.array([1, 2, 3]))
    with pytest.raises(DataError, match=r"\[N, 3, 32, 32\]"):
        SVHN(**LOOSE).load(tmp_path)
    path = tmp_path / "SVHN" / "train_32x32.mat"
    savemat(path, {"Y": np.zeros(3)})
    with pytest.raises(DataError, match="lacks the variables X and y"):
        SVHN(**LOOSE).load(tmp_path)
    for content in (path.read_bytes()[:150], b"nothing"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="train_32x32"):
            SVHN(**LOOSE).load(tmp_path)


def test_tiny_imagenet_takes_classes_in_turn_and_validation_images_to_test(
    tmp_path: Path, write: SimpleNamespace
) -> None:
    write.tiny(tmp_path)
    data = TinyImageNet(**LOOSE).load(tmp_path)
    assert data.classes == ("n02", "n01"), "the order of wnids.txt, without the class that has no folder"
    assert data.shape == TinyImageNet.shape
    assert data.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    colours = data.train.images[:, :, 30, 30].int()
    expected = torch.tensor([[40 * (index % 2), 20 * (index // 2), 200] for index in range(6)])
    assert (colours - expected).abs().max() <= 3
    assert data.test.labels.tolist() == [1, 0], "the order of val_annotations.txt"
    assert (data.test.images[:, 0, 0, 0].int() - torch.tensor([40, 0])).abs().max() <= 3
    assert data.notes == ("a part of Tiny-ImageNet: 2 classes, 6 training and 2 test images",)


def test_what_was_unpacked_from_another_archive_than_the_published_is_noted_at_every_reading(
    tmp_path: Path, write: SimpleNamespace
) -> None:
    write.tiny(tmp_path / "source")
    home = tmp_path / "home"
    home.mkdir()
    shutil.make_archive(str(home / "tiny-imagenet-200"), "zip", tmp_path / "source")
    for _ in range(2):
        notes = TinyImageNet(**LOOSE).load(home).notes
        assert len(notes) == 2 and notes[0].startswith("tiny-imagenet-200.zip differs from the published file: MD5 ")


def test_tiny_imagenet_is_decoded_once(tmp_path: Path, write: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    write.tiny(tmp_path)
    first = TinyImageNet(**LOOSE).load(tmp_path)
    (cache,) = (tmp_path / "tiny-imagenet-200").glob("*.npy")
    with monkeypatch.context() as patched:
        patched.setattr("poise.data.images.read_images", None)
        assert torch.equal(TinyImageNet(**LOOSE).load(tmp_path).train.images, first.train.images)
    cache.write_bytes(cache.read_bytes()[:-100])
    assert torch.equal(TinyImageNet(**LOOSE).load(tmp_path).train.images, first.train.images)
    changed = tmp_path / "tiny-imagenet-200" / "train" / "n01" / "images" / "n01_0.JPEG"
    write.image(changed, np.full((64, 64, 3), 255, dtype=np.uint8))
    assert TinyImageNet(**LOOSE).load(tmp_path).train.images[1].min() > 250, "a changed file must be decoded anew"


def test_decoded_pixels_go_to_the_first_folder_that_can_be_written(tmp_path: Path, write: SimpleNamespace) -> None:
    write.image(tmp_path / "a.png", write.pixels(4, 4, 3))
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    values = read_images_cached([tmp_path / "a.png"], (3, 4, 4), tmp_path, [blocked, tmp_path / "cache" / "new"])
    np.testing.assert_array_equal(values[0], write.pixels(4, 4, 3).transpose(2, 0, 1))
    assert len(list((tmp_path / "cache" / "new").iterdir())) == 1
    np.testing.assert_array_equal(read_images_cached([tmp_path / "a.png"], (3, 4, 4), tmp_path, [blocked]), values)


def test_a_file_of_the_same_size_and_another_time_is_decoded_anew(tmp_path: Path, write: SimpleNamespace) -> None:
    for seed in (0, 1):
        path = tmp_path / "a.bmp"
        write.image(path, write.pixels(4, 4, 3, seed=seed))
        os.utime(path, ns=(seed, seed))
        values = read_images_cached([path], (3, 4, 4), tmp_path, [tmp_path / "cache"])
        np.testing.assert_array_equal(values[0], write.pixels(4, 4, 3, seed=seed).transpose(2, 0, 1))


def test_malformed_tiny_imagenet_folders_are_refused(tmp_path: Path, write: SimpleNamespace) -> None:
    write.tiny(tmp_path)
    root = tmp_path / "tiny-imagenet-200"
    image = root / "train" / "n01" / "images" / "n01_1.JPEG"
    whole = image.read_bytes()
    for content in (whole[:200], b"", b"GIF89a"):
        image.write_bytes(content)
        with pytest.raises(DataError, match=r"n01_1\.JPEG is not a readable image"):
            TinyImageNet(**LOOSE).load(tmp_path)
    write.image(image, np.zeros((32, 64, 3), dtype=np.uint8))
    with pytest.raises(DataError, match=r"n01_1\.JPEG has shape \[3, 32, 64\], not \[3, 64, 64\]"):
        TinyImageNet(**LOOSE).load(tmp_path)
    assert not list(root.glob("*.npy")), "nothing is cached of a data set that was refused"
    image.write_bytes(whole)
    (root / "val" / "images" / "val_0.JPEG").unlink()
    with pytest.raises(DataError, match=r"val_0\.JPEG cannot be read"):
        TinyImageNet(**LOOSE).load(tmp_path)
    (root / "val" / "val_annotations.txt").write_text("../../secret\tn01\n")
    with pytest.raises(DataError, match="line 1"):
        TinyImageNet(**LOOSE).load(tmp_path)
    shutil.rmtree(root / "train" / "n01" / "images")
    with pytest.raises(DataError, match="n01"):
        TinyImageNet(**LOOSE).load(tmp_path)


@pytest.mark.parametrize("source", [MNIST, SVHN, CIFAR10, CIFAR100, TinyImageNet], ids=lambda cls: cls.__name__)
def test_missing_files_are_refused_with_where_and_how(tmp_path: Path, source: type[PublishedSource]) -> None:
    nowhere = tmp_path / "nowhere"
    with pytest.raises(DataError) as refused:
        source(download=False).load(nowhere)
    sentence = str(refused.value)
    assert source.__name__ in sentence
    assert str(nowhere / source.folders[0]) in sentence
    assert all(remote.url in sentence for remote in source.remotes)
    assert "download=True" in sentence
    assert not nowhere.exists()
