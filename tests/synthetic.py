"""Data sets of random pixels in the official formats, small enough for tests."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def write_cifar10(root: Path) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(
            pickle.dumps({"labels": [index % 10 for index in range(50)], "data": pixels(50, 3072)}, 2)
        )


def write_cifar100(root: Path) -> None:
    folder = root / "cifar-100-python"
    folder.mkdir()
    for name, count in (("train", 200), ("test", 50)):
        (folder / name).write_bytes(
            pickle.dumps({"fine_labels": [index % 100 for index in range(count)], "data": pixels(count, 3072)}, 2)
        )


def write_svhn(root: Path) -> None:
    (root / "SVHN").mkdir()
    for name, count in (("train", 200), ("test", 50)):
        labels = np.arange(count)[:, None] % 10 + 1
        savemat(root / "SVHN" / f"{name}_32x32.mat", {"X": pixels(32, 32, 3, count), "y": labels.astype(np.uint8)})


def write_mnist(root: Path) -> None:
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 200), ("t10k", 50)):
        for kind, values in (
            ("images-idx3", pixels(count, 28, 28)),
            ("labels-idx1", (np.arange(count) % 10).astype(np.uint8)),
        ):
            head = struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape)
            (folder / f"{part}-{kind}-ubyte").write_bytes(head + values.tobytes())


def write_tiny(root: Path) -> None:
    folder, names = root / "tiny-imagenet-200", [f"n{label:02d}" for label in range(10)]
    lines = []
    for label, name in enumerate(names):
        for number in range(20):
            path = folder / "train" / name / "images" / f"{name}_{number}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((64, 64, 3), 10 * label + number, dtype=np.uint8)).save(path)
        for number in range(5):
            (folder / "val" / "images").mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((64, 64, 3), 10 * label, dtype=np.uint8)).save(
                folder / "val" / "images" / f"val_{label}_{number}.JPEG"
            )
            lines.append(f"val_{label}_{number}.JPEG\t{name}\t0\t0\t63\t63")
    (folder / "wnids.txt").write_text("\n".join(names) + "\n")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")


def write_pool(root: Path) -> None:
    content = {"data": pixels(60, 32, 32, 3), "extrapolated_targets": np.arange(60) % 10}
    (root / "ti_500K_pseudo_labeled.pickle").write_bytes(pickle.dumps(content, 4))
    for bench in ("cifar10_resnet18", "cifar10_wrn32-10", "cifar100_resnet18"):
        np.savez(root / f"nt_{bench}_labels.npz", image=pixels(60, 32, 32, 3), label=np.arange(60) % 10)


WRITERS: dict[str, tuple[Callable[[Path], None], ...]] = {
    "cifar10": (write_cifar10, write_pool),
    "cifar100": (write_cifar100,),
    "svhn": (write_svhn,),
    "mnist": (write_mnist,),
    "tiny": (write_tiny,),
}
