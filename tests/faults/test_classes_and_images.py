"""Which class a label means is never a guess, and no image is passed over without a word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from poise.attacks import PGD
from poise.core.errors import DataError, InputError, PoiseError
from poise.data import Data, Folder, Npz, Split
from poise.evaluation import Protocol, evaluate
from poise.evaluation.predictions import predict
from poise.threats import Linf


def folders(root: Path, classes: Sequence[object], count: int = 3) -> Path:
    """A folder for each class; images of class k have the level 20 k."""
    for number, name in enumerate(classes):
        (root / str(name)).mkdir(parents=True, exist_ok=True)
        level = 20 * (name if isinstance(name, int) else number)
        for image in range(count):
            Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(root / str(name) / f"{image}.png")
    return root


class Reader(nn.Module):
    """Class k where the image's mean is 20 k levels."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.arange(classes) * 20 / 255)

    def forward(self, x: Tensor) -> Tensor:
        return -50 * (x.mean((1, 2, 3))[:, None] - self.centres).square()


QUICK = Protocol(attacks=(PGD(threat=Linf(epsilon=0.001), steps=1),))


@pytest.mark.parametrize("names", [range(12), [f"{n:02}" for n in range(12)], range(3, 12), [0, 10, 9, 3]], ids=str)
def test_folders_named_by_numbers_are_classes_in_the_order_of_the_numbers(
    tmp_path: Path, names: Sequence[object]
) -> None:
    data = Folder(path=str(folders(tmp_path / "data", names))).whole()
    assert data.classes == tuple(str(name) for name in sorted(names, key=lambda name: int(str(name))))
    split = data.test
    assert (
        split.pixels().mean((1, 2, 3)) * 255 - 20 * torch.tensor([int(data.classes[y]) for y in split.labels])
    ).abs().max() < 1e-3 or (data.classes[0].startswith("0"))
    said = any("in the order of their numbers" in note for note in data.notes)
    assert said == (list(data.classes) != sorted(data.classes))


@pytest.mark.parametrize("names", [["b", "a", "c10", "c9"], ["1", "two", "10"], ["1.5", "10", "2"]], ids=str)
def test_other_names_are_in_their_order_as_text(tmp_path: Path, names: list[str]) -> None:
    assert Folder(path=str(folders(tmp_path / "data", names))).whole().classes == tuple(sorted(names))


def test_a_perfect_network_is_right_on_all_images_of_numbered_folders(tmp_path: Path) -> None:
    data = Folder(path=str(folders(tmp_path / "data", range(12)))).whole()
    assert evaluate(Reader(12), data, QUICK).natural_accuracy == 1


@pytest.mark.parametrize(
    ("names", "outputs"),
    [([0, 1, 5], 12), (["cat", "dog"], 10), (["cat", "dog", "emu"], 2), (range(12), 10), ([1, 2], 3)],
    ids=str,
)
def test_networks_with_other_outputs_than_there_are_classes_are_refused(
    tmp_path: Path, names: Sequence[object], outputs: int
) -> None:
    data = Folder(path=str(folders(tmp_path / "data", names))).whole()
    more = rf"{outputs} logits for the {len(names)} classes of data .*, must return one for each, in order"
    fewer = (
        rf"data has labels in \[0, {len(names) - 1}\], must be in \[0, {outputs - 1}\] for a network of {outputs}"
        r" logits"
    )
    with pytest.raises(InputError, match=more if outputs > len(names) else fewer):
        evaluate(Reader(outputs), data, QUICK)


def test_more_outputs_than_classes_called_0_1_2_are_the_labels_own_numbers(tmp_path: Path) -> None:
    data = Folder(path=str(folders(tmp_path / "data", range(3)))).whole()
    assert evaluate(Reader(12), data, QUICK).natural_accuracy == 1


@pytest.mark.parametrize("label", [-1, 4, 100])
def test_labels_without_an_output_are_refused_wherever_they_come_in(label: int) -> None:
    x, y = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, label])
    split = Split.of((x * 255).to(torch.uint8), y)
    calls: list[Callable[[], object]] = [
        lambda: PGD(steps=1)(Reader(4), x, y),
        lambda: predict(Reader(4), split),
        lambda: Data("own", split, split, ("a", "b", "c", "d")),
    ]
    for call in calls:
        with pytest.raises(PoiseError, match=r"\[0, 3\]|from .* outside 0 to 3"):
            call()


def test_two_folders_of_one_number_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two of one number"):
        Folder(path=str(folders(tmp_path / "data", ["1", "01", "2"]))).whole()


PASSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file of another kind": (lambda root: (root / "a" / "x.gif").write_bytes(b"GIF89a"), "1 files .gif passed over"),
    "an array": (lambda root: np.save(root / "b" / "x.npy", np.zeros(3)), "1 files .npy passed over"),
    "a hidden image": (
        lambda root: (root / "a" / "0.png").rename(root / "a" / ".0.png"),
        "1 hidden images passed over",
    ),
    "an image beside the classes": (
        lambda root: (root / "a" / "0.png").rename(root / "0.png"),
        "1 images beside the folders of classes",
    ),
    "a folder in a class": (lambda root: (root / "a" / "more").mkdir(), "1 folders in folders of classes passed over"),
    "a file without suffix": (
        lambda root: (root / "a" / "0.png").rename(root / "a" / "0"),
        "1 files without suffix passed over",
    ),
}


@pytest.mark.parametrize(("change", "words"), PASSED.values(), ids=PASSED)
def test_what_is_passed_over_is_said(tmp_path: Path, change: Callable[[Path], object], words: str) -> None:
    change(folders(tmp_path / "data", ["a", "b"]))
    data = Folder(path=str(tmp_path / "data")).whole()
    assert any(words in note for note in data.notes), data.notes
    assert words in data.remark
    assert Folder(path=str(tmp_path / "data")).load().notes == data.notes


@pytest.mark.parametrize("suffix", [".PNG", ".JPG", ".JpEg", ".BMP"])
def test_suffixes_may_be_written_large(tmp_path: Path, suffix: str) -> None:
    folders(tmp_path / "data", ["a", "b"])
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png" if suffix == ".PNG" else tmp_path / f"x{suffix.lower()}")
    next(tmp_path.glob("x.*")).rename(tmp_path / "data" / "a" / f"x{suffix}")
    data = Folder(path=str(tmp_path / "data")).whole()
    assert (len(data.test), data.notes) == (7, ())


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "an empty class": (lambda root: (root / "c").mkdir(), "c holds no images"),
    "a truncated image": (
        lambda root: (root / "a" / "0.png").write_bytes((root / "a" / "0.png").read_bytes()[:42]),
        "0.png",
    ),
    "no image at all": (lambda root: (root / "a" / "0.png").write_bytes(b"text"), "0.png is not a readable image"),
    "an empty file": (lambda root: (root / "a" / "0.png").write_bytes(b""), "0.png is not a readable image"),
    "another size": (lambda root: Image.new("RGB", (9, 8)).save(root / "b" / "1.png"), "image_size"),
}


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused_by_its_name(
    tmp_path: Path, change: Callable[[Path], object], words: str
) -> None:
    change(folders(tmp_path / "data", ["a", "b"]))
    with pytest.raises(DataError, match=words):
        Folder(path=str(tmp_path / "data")).whole().full_digest  # noqa: B018  decodes every image


def test_arrays_that_an_archive_has_beside_its_own_are_said(tmp_path: Path) -> None:
    x, y = np.zeros((4, 8, 8), np.uint8), np.arange(4) % 2
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x, y_test=y, x_val=x, extra=y)
    assert any("extra, x_val are passed over" in note for note in Npz(path=str(tmp_path / "own.npz")).load().notes)
