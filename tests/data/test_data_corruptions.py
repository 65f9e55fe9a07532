"""CIFAR-C and Tiny-ImageNet-C, on small files in their formats."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from poise.core.errors import DataError, InputError
from poise.data import CORRUPTIONS, Data, Split, corrupted


def data_of(classes: tuple[str, ...], size: int) -> Data:
    split = Split.of(torch.zeros(len(classes), 3, size, size, dtype=torch.uint8), torch.arange(len(classes)))
    return Data("x", split, split, classes)


CIFAR = data_of(tuple("0123456789"), 32)


def write_cifar_c(root: Path, write: SimpleNamespace, **changed: Any) -> np.ndarray:
    images = changed.get("images", write.pixels(20, 32, 32, 3))
    np.save(root / "fog.npy", images)
    np.save(root / "labels.npy", changed.get("labels", np.tile([3, 1, 4, 9], 5)))
    return images


def test_there_are_15_standard_corruptions() -> None:
    assert len(set(CORRUPTIONS)) == 15


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_cifar_c_gives_the_severity_asked_for(tmp_path: Path, write: SimpleNamespace, severity: int) -> None:
    images = write_cifar_c(tmp_path, write)
    split = corrupted(tmp_path, "fog", severity, CIFAR)
    np.testing.assert_array_equal(split.images.numpy(), images[4 * severity - 4 : 4 * severity].transpose(0, 3, 1, 2))
    assert split.labels.tolist() == [3, 1, 4, 9]
    assert split.ids.tolist() == [0, 1, 2, 3]


def test_labels_of_one_severity_serve_all(tmp_path: Path, write: SimpleNamespace) -> None:
    write_cifar_c(tmp_path, write, labels=np.array([3, 1, 4, 9], dtype=np.uint8))
    assert corrupted(tmp_path, "fog", 5, CIFAR).labels.tolist() == [3, 1, 4, 9]


def test_unknown_corruptions_and_severities_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no corruption 'fogg'; did you mean 'fog'"):
        corrupted(tmp_path, "fogg", 1, CIFAR)
    for severity in (0, 6, True):
        with pytest.raises(InputError, match="must be one of 1, 2, 3, 4, 5"):
            corrupted(tmp_path, "fog", severity, CIFAR)


def test_a_missing_corruption_is_refused_with_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither fog\.npy nor a folder fog.*zenodo"):
        corrupted(tmp_path, "fog", 1, CIFAR)


BAD = {
    "count": ({"images": np.zeros((19, 32, 32, 3), np.uint8)}, "not five severities"),
    "labels": ({"labels": np.zeros(7, int)}, "not five severities"),
    "shape": ({"images": np.zeros((20, 3, 32, 32), np.uint8)}, r"uint8 \[N, 32, 32, 3\]"),
    "floats": ({"images": np.zeros((20, 32, 32, 3))}, "must be uint8"),
    "label 10": ({"labels": np.full(20, 10)}, "outside 0 to 9"),
    "objects": ({"images": np.array([{}] * 20, dtype=object)}, r"fog\.npy is not a whole"),
}


@pytest.mark.parametrize(("changed", "reason"), BAD.values(), ids=BAD.keys())
def test_malformed_cifar_c_files_are_refused(
    tmp_path: Path, write: SimpleNamespace, changed: dict[str, Any], reason: str
) -> None:
    write_cifar_c(tmp_path, write, **changed)
    with pytest.raises(DataError, match=reason):
        corrupted(tmp_path, "fog", 1, CIFAR)


def test_truncated_and_missing_arrays_are_refused(tmp_path: Path, write: SimpleNamespace) -> None:
    write_cifar_c(tmp_path, write)
    (tmp_path / "fog.npy").write_bytes((tmp_path / "fog.npy").read_bytes()[:-1])
    with pytest.raises(DataError, match=r"fog\.npy is not a whole"):
        corrupted(tmp_path, "fog", 1, CIFAR)
    write_cifar_c(tmp_path, write)
    (tmp_path / "labels.npy").unlink()
    with pytest.raises(DataError, match=r"labels\.npy is missing"):
        corrupted(tmp_path, "fog", 1, CIFAR)


def test_tiny_imagenet_c_is_read_for_the_classes_of_the_data(tmp_path: Path, write: SimpleNamespace) -> None:
    data = data_of(("n02", "n01"), 64)
    for severity in (1, 2):
        for red, wnid in enumerate(("n02", "n01", "n00")):
            for number in range(2):
                colour = np.full((64, 64, 3), (60 * red, 100 * number, 50 * severity), dtype=np.uint8)
                write.image(tmp_path / "snow" / str(severity) / wnid / f"val_{number}.JPEG", colour)
    split = corrupted(tmp_path, "snow", 2, data)
    assert split.labels.tolist() == [0, 1, 0, 1]
    expected = torch.tensor([[0, 0, 100], [60, 0, 100], [0, 100, 100], [60, 100, 100]])
    assert (split.images[:, :, 5, 5].int() - expected).abs().max() <= 3
    with pytest.raises(DataError, match="cannot be read"):
        corrupted(tmp_path, "snow", 3, data)
    (tmp_path / "snow" / "1" / "n01" / "val_1.JPEG").write_bytes(b"\xff\xd8broken")
    with pytest.raises(DataError, match=r"val_1\.JPEG is not a readable image"):
        corrupted(tmp_path, "snow", 1, data)
