"""A user's own images: folders and .npz files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from poise.core.errors import DataError, SettingsError, UntrustedFileError
from poise.data import Folder, Npz


def write_classes(root: Path, write: SimpleNamespace, counts: dict[str, int], size: tuple[int, int] = (6, 5)) -> None:
    for label, (name, count) in enumerate(counts.items()):
        for number in range(count):
            write.image(root / name / f"{number}.png", np.full((*size, 3), (10 * label, number, 0), dtype=np.uint8))


def test_train_and_test_folders_are_read_by_class_in_turn(tmp_path: Path, write: SimpleNamespace) -> None:
    write_classes(tmp_path / "pets" / "train", write, {"cat": 3, "dog": 2})
    write_classes(tmp_path / "pets" / "val", write, {"cat": 1, "dog": 1})
    (tmp_path / "pets" / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "pets" / "train" / ".hidden").mkdir()
    data = Folder(path="pets").load(tmp_path)
    assert (data.name, data.classes, data.shape) == ("pets", ("cat", "dog"), (3, 6, 5))
    assert data.train.labels.tolist() == [0, 1, 0, 1, 0]
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 10, 0, 10, 0]
    assert data.train.images[:, 1, 0, 0].tolist() == [0, 0, 1, 1, 2]
    assert data.test.labels.tolist() == [0, 1]


def test_a_folder_without_splits_is_split_by_class(tmp_path: Path, write: SimpleNamespace) -> None:
    write_classes(tmp_path, write, {"a": 10, "b": 5})
    data = Folder(path=str(tmp_path), test_fraction=0.2).load()
    assert data.test.labels.bincount().tolist() == [2, 1]
    assert sorted(data.train.ids.tolist() + data.test.ids.tolist()) == list(range(15))
    other = Folder(path=str(tmp_path), split_seed=1).load()
    assert other.test.ids.tolist() != data.test.ids.tolist()


def test_images_are_resized_and_made_grey_on_request(tmp_path: Path, write: SimpleNamespace) -> None:
    write_classes(tmp_path, write, {"a": 2, "b": 2})
    write_classes(tmp_path, write, {"c": 2}, size=(9, 9))
    assert Folder(path=str(tmp_path), image_size=4).load().shape == (3, 4, 4)
    assert Folder(path=str(tmp_path), image_size=4, channels=1).load().shape == (1, 4, 4)
    with pytest.raises(DataError, match=r"has shape \[3, 9, 9\], not \[3, 6, 5\] as required; set image_size"):
        Folder(path=str(tmp_path)).load()


def test_folders_that_hold_no_data_set_are_refused(tmp_path: Path, write: SimpleNamespace) -> None:
    with pytest.raises(DataError, match=f"there is no nothing .*{tmp_path}"):
        Folder(path="nothing").load(tmp_path)
    with pytest.raises(DataError, match="holds 0 subfolders"):
        Folder(path=str(tmp_path)).load()
    write_classes(tmp_path, write, {"a": 2, "b": 2})
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no images"):
        Folder(path=str(tmp_path)).load()
    (tmp_path / "empty").rmdir()
    write_classes(tmp_path, write, {"single": 1})
    with pytest.raises(DataError, match="has a single image"):
        Folder(path=str(tmp_path)).load()
    file = tmp_path / "a" / "0.png"
    with pytest.raises(DataError, match="is not a folder"):
        Folder(path=str(file)).load()
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(DataError, match=r"0\.png is not a readable image"):
        Folder(path=str(tmp_path)).load()


def test_only_images_of_8_bits_are_read(tmp_path: Path, write: SimpleNamespace) -> None:
    write_classes(tmp_path, write, {"a": 2, "b": 2})
    write.image(tmp_path / "b" / "1.png", np.full((6, 5), 1000, dtype=np.uint16))
    with pytest.raises(DataError, match=r"1\.png has pixels of mode I;16; only images of 8 bits"):
        Folder(path=str(tmp_path)).load()


def test_images_of_suspicious_size_are_refused(
    tmp_path: Path, write: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(tmp_path, write, {"a": 2, "b": 2})
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 29)
    with pytest.raises(DataError, match="decompression bomb"):
        Folder(path=str(tmp_path)).load()


def test_train_without_test_and_strange_test_classes_are_refused(tmp_path: Path, write: SimpleNamespace) -> None:
    write_classes(tmp_path / "train", write, {"a": 1, "b": 1})
    with pytest.raises(DataError, match="neither test nor val"):
        Folder(path=str(tmp_path)).load()
    write_classes(tmp_path / "test", write, {"a": 1, "z": 1})
    with pytest.raises(DataError, match="z is a class that"):
        Folder(path=str(tmp_path)).load()


@pytest.mark.parametrize("wrong", [{"path": ""}, {"path": "x", "channels": 2}, {"path": "x", "test_fraction": 1.0}, {}])
def test_folder_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"Folder\."):
        Folder(**wrong)


def arrays(**changed: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
    return {"x_train": images, "y_train": np.arange(6) % 3, "x_test": images[:3], "y_test": np.arange(3)} | changed


def load(path: Path, content: dict[str, Any], **settings: Any) -> Any:
    np.savez(path / "own.npz", **content)
    return Npz(path="own.npz", **settings).load(path)


def test_npz_is_read_in_either_order_of_axes(tmp_path: Path) -> None:
    expected = torch.from_numpy(arrays()["x_train"].transpose(0, 3, 1, 2).copy())
    first = {"x_train": expected.numpy(), "x_test": expected[:3].numpy()}
    for content in (arrays(), arrays(**first), arrays(y_train=(np.arange(6) % 3)[:, None])):
        data = load(tmp_path, content)
        assert torch.equal(data.train.images, expected)
        assert data.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
        assert (data.name, data.classes, data.notes) == ("own", ("0", "1", "2"), ())
    grey = arrays(x_train=np.zeros((6, 4, 5), np.uint8), x_test=np.zeros((3, 4, 5), np.uint8))
    assert load(tmp_path, grey).shape == (1, 4, 5)


def test_an_ambiguous_order_of_axes_needs_the_setting(tmp_path: Path) -> None:
    content = arrays(x_train=np.zeros((6, 3, 5, 3), np.uint8), x_test=np.zeros((3, 3, 5, 3), np.uint8))
    with pytest.raises(DataError, match="fits either order"):
        load(tmp_path, content)
    assert load(tmp_path, content, layout="NCHW").shape == (3, 5, 3)
    assert load(tmp_path, content, layout="NHWC").shape == (3, 3, 5)
    with pytest.raises(DataError, match="fits neither order"):
        load(tmp_path, arrays(x_train=np.zeros((6, 4, 5, 2), np.uint8)))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_float_images_are_rounded_and_the_record_says_so(tmp_path: Path, dtype: str) -> None:
    whole = arrays()
    content = arrays(**{name: (whole[name] / 255).astype(dtype) for name in ("x_train", "x_test")})
    data = load(tmp_path, content)
    assert torch.equal(data.train.images, load(tmp_path, whole).train.images)
    assert data.notes == ("x_train: float images rounded to 256 levels", "x_test: float images rounded to 256 levels")


FLOATS = np.full((6, 4, 5, 3), 0.5)
BAD_ARRAYS = {
    "above 1": ({"x_train": FLOATS * 2.1}, r"\[0, 1\], not from 1\.05 to 1\.05"),
    "below 0": ({"x_train": -FLOATS}, r"\[0, 1\]"),
    "nan": ({"x_train": FLOATS * np.nan}, "not finite"),
    "infinite": ({"x_train": FLOATS * np.inf}, "not finite"),
    "int64 images": ({"x_train": FLOATS.astype(np.int64)}, "uint8 or floats"),
    "five axes": ({"x_train": FLOATS[None]}, "3 or 4 axes"),
    "shapes differ": ({"x_test": np.zeros((3, 5, 5, 3), np.uint8)}, "differ in shape"),
    "negative label": ({"y_train": np.arange(6) - 1}, "outside 0 to"),
    "test label beyond": ({"y_test": np.array([0, 1, 3])}, r"y_test: labels run from 0 to 3, outside 0 to 2"),
    "label beyond the images": ({"y_train": np.array([0, 1, 2, 0, 1, 10**12])}, "too large for 6 images"),
    "float labels": ({"y_train": np.zeros(6)}, "whole number"),
    "one-hot labels": ({"y_train": np.eye(6, dtype=int)}, "whole number"),
    "label short": ({"y_train": np.arange(5)}, "6 images but 5 labels"),
    "no images": ({"x_train": np.zeros((0, 4, 5, 3), np.uint8), "y_train": np.zeros(0, int)}, "no images"),
}


@pytest.mark.parametrize(("changed", "reason"), BAD_ARRAYS.values(), ids=BAD_ARRAYS.keys())
def test_arrays_that_are_no_data_set_are_refused(tmp_path: Path, changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=f"own.*{reason}"):
        load(tmp_path, arrays(**changed))


def test_an_npz_that_lacks_an_array_is_refused(tmp_path: Path) -> None:
    content = arrays()
    del content["y_test"]
    with pytest.raises(DataError, match=r"own\.npz lacks the array 'y_test'"):
        load(tmp_path, content)


class Trap:
    """Pickles as a call that makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.path,)


def test_an_npz_of_pickled_objects_is_not_unpickled(tmp_path: Path) -> None:
    made = tmp_path / "made"
    with pytest.raises(UntrustedFileError, match=r"own\.npz holds pickled objects"):
        load(tmp_path, arrays(x_train=np.array([Trap(made)], dtype=object)))
    assert not made.exists()


def test_damaged_npz_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez_compressed(path, **arrays())
    whole = path.read_bytes()
    broken = bytearray(whole)
    broken[120] ^= 255
    for content in (whole[: len(whole) // 2], bytes(broken), b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"own\.npz"):
            Npz(path=str(path)).load()
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"not an \.npz archive"):
        Npz(path=str(tmp_path / "one.npy")).load()
    with pytest.raises(DataError, match=r"there is no absent\.npz"):
        Npz(path="absent.npz").load(tmp_path)
