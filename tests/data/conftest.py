"""Writers of small data sets in the official file formats."""

from __future__ import annotations

import gzip
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_idx(path: Path, values: np.ndarray) -> None:
    header = struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(root: Path, train: int = 20, test: int = 10, packed: bool = True) -> None:
    end = ".gz" if packed else ""
    for part, count in (("train", train), ("t10k", test)):
        write_idx(root / "MNIST" / "raw" / f"{part}-images-idx3-ubyte{end}", pixels(count, 28, 28))
        write_idx(root / "MNIST" / "raw" / f"{part}-labels-idx1-ubyte{end}", np.arange(count) % 10)


def write_cifar10(root: Path, per_batch: int = 10) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate([*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"]):
        content = {
            "batch_label": name,
            "labels": [index % 10 for index in range(per_batch)],
            "data": pixels(per_batch, 3072, seed=number),
        }
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))


def write_image(path: Path, values: np.ndarray) -> None:
    """`values` uint8 [H, W, C]; a lossless format keeps them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def write_tiny(root: Path, wnids: tuple[str, ...] = ("n02", "n01"), per_class: int = 3) -> None:
    """JPEGs of one colour each, so that decoding gives that colour back: red names the class, green the image."""
    folder = root / "tiny-imagenet-200"
    lines = []
    for label, wnid in enumerate(wnids):
        for number in range(per_class):
            colour = np.full((64, 64, 3), (40 * label, 20 * number, 200), dtype=np.uint8)
            write_image(folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", colour)
        write_image(
            folder / "val" / "images" / f"val_{label}.JPEG",
            np.full((64, 64, 3), (40 * label, 100, 200), dtype=np.uint8),
        )
        lines.append(f"val_{label}.JPEG\t{wnid}\t0\t0\t63\t63")
    (folder / "wnids.txt").write_text("\n".join([*wnids, "n99"]) + "\n")
    lines.append("val_7.JPEG\tn99\t0\t0\t63\t63")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(reversed(lines)) + "\n")


@pytest.fixture
def write() -> SimpleNamespace:
    """The writers above, by name."""
    writers: dict[str, Callable] = {
        "pixels": pixels,
        "idx": write_idx,
        "mnist": write_mnist,
        "cifar10": write_cifar10,
        "image": write_image,
        "tiny": write_tiny,
    }
    return SimpleNamespace(**writers)
