"""Mean accuracy over common corruptions, on small folders in the two published layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from poise.core.errors import DataError
from poise.core.records import EvaluationRecord
from poise.data import CORRUPTIONS, Data, Split
from poise.evaluation import evaluate, evaluate_corruptions
from poise.evaluation.protocol import Protocol
from poise.reports import collect, table

COUNT, CLASSES = 6, ("dark", "bright")


class Brightness(nn.Module):
    """Bright or dark, by the mean of all pixels."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5], 1)


def natural() -> Data:
    labels = torch.arange(COUNT) % 2
    pixels = (40 + 160 * labels).to(torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4).clone()
    split = Split.of(pixels, labels)
    return Data("Shades", split, split, CLASSES)


def wrong(corruption: int, severity: int) -> int:
    """How many of the images this corruption turns over: up to 4 of 6."""
    return min(severity - 1, corruption % 5)


def cifar_c(root: Path) -> Path:
    root.mkdir()
    data = natural()
    clean = data.test.images.permute(0, 2, 3, 1).numpy()
    for number, name in enumerate(CORRUPTIONS):
        parts = [np.concatenate([255 - clean[: wrong(number, s)], clean[wrong(number, s) :]]) for s in range(1, 6)]
        np.save(root / f"{name}.npy", np.concatenate(parts))
    np.save(root / "labels.npy", np.tile(data.test.labels.numpy(), 5).astype(np.uint8))
    return root


WANTED = {
    name: [1 - wrong(number, severity) / COUNT for severity in range(1, 6)] for number, name in enumerate(CORRUPTIONS)
}


def found(record: EvaluationRecord) -> Any:
    return record.notes["corruptions"]


def test_the_matrix_has_an_accuracy_for_each_corruption_and_severity(tmp_path: Path) -> None:
    data = natural()
    record = evaluate_corruptions(Brightness(), data, cifar_c(tmp_path / "CIFAR-10-C"), notes={"epoch": 4}, run="r")
    assert list(found(record)["accuracies"]) == list(CORRUPTIONS)
    for name, row in WANTED.items():
        assert found(record)["accuracies"][name] == pytest.approx(row)
    assert found(record)["mean"] == record.corruption_accuracy == pytest.approx(np.mean(list(WANTED.values())))
    assert (found(record)["images"], found(record)["folder"]) == (COUNT, "CIFAR-10-C")
    assert (record.natural_accuracy, record.attacks, record.labels) == (1.0, [], data.test.labels.tolist())
    assert (record.notes["epoch"], record.run, record.protocol) == (4, "r", "corruptions")
    assert EvaluationRecord.read(record.write(tmp_path / "r.json")) == record


def test_only_the_first_images_of_each_severity_are_taken(tmp_path: Path) -> None:
    record = evaluate_corruptions(Brightness(), natural(), cifar_c(tmp_path / "c"), first=2)
    assert found(record)["images"] == record.count == 2
    assert found(record)["accuracies"][CORRUPTIONS[4]] == [1.0, 0.5, 0.0, 0.0, 0.0]


def test_folders_of_tiny_imagenet_c_are_read_too(tmp_path: Path) -> None:
    data = natural()
    for number, name in enumerate(CORRUPTIONS):
        for severity in range(1, 6):
            for row in range(COUNT):
                turned = row < wrong(number, severity)
                shade = int(data.test.images[row, 0, 0, 0])
                path = tmp_path / "c" / name / str(severity) / CLASSES[row % 2] / f"{row}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((4, 4, 3), 255 - shade if turned else shade, dtype=np.uint8)).save(path)
    record = evaluate_corruptions(Brightness(), data, tmp_path / "c")
    for name, row in WANTED.items():
        assert found(record)["accuracies"][name] == pytest.approx(row)


def relabelled(root: Path) -> None:
    np.save(root / "labels.npy", np.tile([1, 0, 0, 1, 0, 1], 5))


def shortened(root: Path) -> None:
    for name in CORRUPTIONS:
        np.save(root / f"{name}.npy", np.load(root / f"{name}.npy")[:20])
    np.save(root / "labels.npy", np.array([0, 1, 0, 1]))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: (root / "fog.npy").unlink(), "lacks 1 of the 15 corruptions: fog"),
        (lambda root: (root / "labels.npy").unlink(), r"labels\.npy is missing"),
        (relabelled, "the labels of gaussian_noise are not those of Shades"),
        (shortened, "has 4 images, the natural test set 6"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path, damage: Any, words: str) -> None:
    root = cifar_c(tmp_path / "c")
    damage(root)
    with pytest.raises(DataError, match=words):
        evaluate_corruptions(Brightness(), natural(), root, journal=tmp_path / "j")
    with pytest.raises(DataError, match="no folder"):
        evaluate_corruptions(Brightness(), natural(), tmp_path / "nowhere")


class Killed(BaseException):
    """Ends a process as a signal would."""


class Dying(Brightness):
    left = 13

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise Killed
        return super().forward(x)


def test_a_killed_one_goes_on_with_the_corruption_it_was_at(tmp_path: Path) -> None:
    root, journal, dying = cifar_c(tmp_path / "c"), tmp_path / "j", Dying()
    with pytest.raises(Killed):
        evaluate_corruptions(dying, natural(), root, journal=journal)
    record = evaluate_corruptions(dying, natural(), root, journal=journal)
    assert found(record) == found(evaluate_corruptions(Brightness(), natural(), root))
    # one image to check its answer, natural images, and all but the two corruptions that were kept
    assert -dying.left == 2 + 13 * 5
    assert not journal.exists()


def test_the_mean_is_a_column_beside_those_of_the_attacks(tmp_path: Path) -> None:
    data = natural()
    about: dict[str, Any] = {"run": "r", "group": "g", "checkpoint": "selected"}
    (tmp_path / "records").mkdir()
    (tmp_path / "experiment.json").write_text("{}")
    published = {"table": "T", "row": "R", "columns": {"natural": 90.0, "corruptions": 20.17}, "spread": {}}
    evaluate(Brightness(), data, Protocol(), notes={"published": published}, **about).write(
        tmp_path / "records" / "selected.json"
    )
    record = evaluate_corruptions(Brightness(), data, cifar_c(tmp_path / "c"), **about)
    record.write(tmp_path / "records" / "selected-corruptions.json")
    made = table(collect.read_runs([tmp_path]))
    assert [column.label for column in made.columns] == ["natural", "corruptions"]
    own, paper = made.rows
    assert [cell.value for cell in own.cells] == pytest.approx([100, 100 * found(record)["mean"]])
    assert "15 common corruptions" in own.cells[1].detail
    assert paper.cells[1].value == 20.17
