"""One's own folder, network and loss, as a newcomer types them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from poise.core.records import EvaluationRecord

Poise = Callable[..., tuple[int, str, str]]
CODE = """
from torch import nn
from torch.nn.functional import cross_entropy


class MyNet(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, classes))

    def forward(self, x):
        return self.layers(x)


def my_loss(logits, y):
    return cross_entropy(logits, y, reduction="none")
"""
SMALL = ("epochs=1", 'protocol.attacks=[{"type": "FGSM"}]', "data.image_size=8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Twelve photographs of two classes, of several sizes, and a file of code."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mynet_of_test.py").write_text(CODE)
    for name, grey in (("cats", 50), ("dogs", 200)):
        (tmp_path / "my_photos" / name).mkdir(parents=True)
        for number in range(6):
            pixels = np.full((9 + number, 12, 3), grey, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "my_photos" / name / f"{number}.png")
    yield tmp_path
    sys.modules.pop("mynet_of_test", None)


def test_a_folder_and_a_network_of_ones_own_are_trained_and_evaluated(poise: Poise, folder: Path) -> None:
    own = ("--data", "my_photos", "--model", "mynet_of_test.py:MyNet", "--objective", "mynet_of_test:my_loss")
    status, _, err = poise("train", *own, "epsilon=4/255", *SMALL, "--out", "run")
    assert status == 0, err
    experiment = json.loads((folder / "run" / "experiment.json").read_text())
    assert experiment["model"]["code"]["name"] == "MyNet"
    assert experiment["method"]["policy"]["objective"]["code"]["name"] == "my_loss"
    assert experiment["method"]["policy"]["objective"]["inner"]["threat"]["epsilon"] == 4 / 255
    assert EvaluationRecord.read(folder / "run" / "records" / "last.json").attack_names == ["FGSM"]
    assert list(json.loads((folder / "run" / "run.json").read_text())["imports"]) == ["mynet_of_test.py"]
    assert poise("evaluate", "run", "--import", "mynet_of_test.py", "--first", 2)[0] == 0


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (("--model", "mynet_of_test.py:MyNat"), "mynet_of_test.py has no 'MyNat'; did you mean 'MyNet'?"),
        (("--model", "mynett.py:MyNet"), "--import mynett.py: there is no such file"),
        (("--model", "nomodule:MyNet"), "No module named 'nomodule'; must be a name, file.py:NAME or module:NAME"),
        (("--model", "ResNet81"), "names no registered network 'ResNet81'; did you mean 'ResNet18'?"),
        (("--objective", "TRADE"), "names no registered objective 'TRADE'; did you mean 'TRADES'?"),
        (("epoch=3",), "did you mean 'epochs'?"),
        (("--data", "my_photo"), "must be a data set (poise list data), a folder of images or an .npz archive"),
        (("--resume", "run"), "give no recipe, settings, --seeds, --quick, --out, --data, --model or --objective"),
        (("--quick",), "--quick is of recipes"),
        ((), "set image_size, as by data.image_size=64, to resize them all"),
    ],
)
def test_what_is_mistyped_is_answered_by_what_was_meant(
    poise: Poise, folder: Path, typed: tuple[str, ...], sentence: str
) -> None:
    status, _, err = poise("train", "--data", "my_photos", *typed, "--out", "run")
    assert status == 2
    assert sentence in err and not (folder / "run").exists()


def test_whoever_leaves_out_the_own_code_is_told_which_file_it_is_in(poise: Poise, folder: Path) -> None:
    from poise.core import code

    status, _, err = poise(
        "train", "--data", "my_photos", "--model", "mynet_of_test.py:MyNet", *SMALL, "--out", "run", "--no-evaluate"
    )
    assert status == 0, err
    code._GIVEN.pop("MyNet")  # as in another process
    status, _, err = poise("evaluate", "run")
    assert status == 2 and err.endswith("pass it again: --import mynet_of_test.py\n")
