"""The real files, where POISE_DATA holds them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from poise.data import CIFAR10, MNIST, TinyImageNet
from poise.data.images import read_images_cached

ROOT = Path(os.environ.get("POISE_DATA", "absent"))


def needs(folder: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (ROOT / folder).is_dir(), reason=f"POISE_DATA is not set or holds no {folder}")


@needs("cifar-10-batches-py")
def test_cifar10_is_complete() -> None:
    data = CIFAR10(download=False).load(ROOT)
    assert (len(data.train), len(data.test), data.shape, data.notes) == (50_000, 10_000, (3, 32, 32), ())
    assert torch.equal(data.train.labels.bincount(), torch.full((10,), 5000))
    assert torch.equal(data.test.labels.bincount(), torch.full((10,), 1000))
    mean = data.train.images.to(torch.float64).mean((0, 2, 3)) / 255
    assert torch.allclose(mean, torch.tensor([0.4914, 0.4822, 0.4465], dtype=torch.float64), atol=1e-4)
    assert data.classes[int(data.test.labels[0])] == "cat"


@needs("MNIST/raw")
def test_mnist_is_complete() -> None:
    data = MNIST(download=False).load(ROOT)
    assert (len(data.train), len(data.test), data.shape, data.notes) == (60_000, 10_000, (1, 28, 28), ())
    assert data.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert abs(float(data.train.images.to(torch.float64).mean()) / 255 - 0.1307) < 1e-4


@needs("tiny-imagenet-200")
def test_tiny_imagenet_is_read_with_50_validation_images_of_every_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(
        paths: Sequence[Path], shape: tuple[int, int, int], root: Path, folders: Iterable[Path]
    ) -> np.ndarray:
        return read_images_cached(paths, shape, root, [tmp_path])  # a test leaves nothing in the data folder

    monkeypatch.setattr("poise.data.tiny_imagenet.read_images_cached", elsewhere)
    data = TinyImageNet(download=False).load(ROOT)
    assert data.shape == (3, 64, 64)
    assert torch.equal(data.test.labels.bincount(), torch.full((len(data.classes),), 50))
    assert data.train.labels.bincount().unique().numel() == 1
    assert data.train.first(len(data.classes)).labels.tolist() == list(range(len(data.classes)))
