"""Advice is what records say, with their source; what nobody measured is not promised."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import poise
from poise.cli import app
from poise.core.errors import SettingsError
from poise.recipes import experiment
from poise.recipes.evidence import Evidence, evidence_of, measured
from poise.verbs import advise as module
from poise.verbs.advise import Advice, advise
from poise.zoo import zoo_network

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def paced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A microsecond for every forward, so that nothing depends on the machine."""
    monkeypatch.setattr(module._Pace, "_forward", lambda *_: 1e-6)


@pytest.fixture(scope="module")
def digits() -> Advice:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module._Pace, "_forward", lambda *_: 1e-6)
        return advise("Digits")


def test_measured_rows_are_those_of_the_results() -> None:
    for name, rows in measured().items():
        for row in rows:
            lines = (ROOT / row["source"]).read_text().replace("\\", "").splitlines()
            line = next(line for line in lines if re.match(rf"\| {name} \|", line))
            assert f"{row['natural']:.2f}" in line and f"{row['robust']:.2f}" in line


def test_the_best_known_comes_first_with_its_source(digits: Advice) -> None:
    robust = [choice.evidence.robust for choice in digits.choices if choice.evidence is not None]
    assert digits.command == "poise train at_digits" and robust == sorted(robust, reverse=True) and len(robust) == 3
    known = {row["robust"] for rows in measured().values() for row in rows if row["column"] == "AutoAttack"}
    assert set(robust) <= known and max(known) == robust[0]
    assert any("benchmarks/results/2026-11-22-digits_objectives" in note for note in digits.sheet().notes)


def test_published_rows_are_evidence() -> None:
    made = experiment("at_cifar10_resnet18")
    assert made.published is not None
    (found,) = evidence_of("at_cifar10_resnet18", made)
    told = dict(zip(made.published.columns, made.published.values, strict=True))
    assert (found.natural, found.robust, found.column) == (told["natural"], told["AA"], "AA")
    assert found.source == f"published: {made.published.table}, {made.published.row}"
    assert Evidence(90, 50, "PGD-20", "x").strong is False


def test_the_time_decides(digits: Advice) -> None:
    first = digits.choices[0]
    half = advise("Digits", hours=first.seconds / 3600 / 2)
    for choice in half.choices:
        assert choice.seconds <= first.seconds / 2 and choice.epochs <= choice.whole
        assert choice.fits or f"epochs={choice.epochs}" in choice.command
    assert half.choices[0].fits, "a cheaper recipe that fits goes before one that is cut short"
    little = advise("Digits", hours=1e-9)
    assert little.command.endswith("--quick") and "teach next to nothing" in little.notes[1]


def test_a_data_set_that_is_not_here_is_advised_on(tmp_path: Path) -> None:
    found = advise("CIFAR10", "ResNet18", hours=1.0, data_dir=tmp_path)
    assert not list(tmp_path.iterdir()) and {choice.network for choice in found.choices} == {"ResNet18"}
    assert all(choice.evidence is not None and choice.evidence.source for choice in found.choices)


def test_trained_networks_are_told_of() -> None:
    record = zoo_network("zoo:at_mnist_slim").record
    (note,) = [note for note in advise("MNIST").notes if "zoo:" in note]
    assert f"{100 * record.worst_case_accuracy:.2f} on {record.count} images" in note


def test_of_ones_own_images_nothing_is_promised(tmp_path: Path) -> None:
    x, y = torch.rand(40, 3, 16, 16), torch.arange(40) % 4
    found = advise((x, y), epsilon="4/255")
    (choice,) = found.choices
    assert choice.evidence is None and "no accuracy is promised" in found.notes[0]
    assert choice.command == "poise train --data YOUR_DATA --model SmallCNN epsilon=4/255"
    assert "?" in found.sheet().rows[0]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"data": "Nothing"}, "names no data set"),
        ({"data": "Digits", "network": "ResNet19"}, r"there is no network 'ResNet19'; did you mean 'ResNet18'\?"),
        ({"data": "Digits", "hours": 0.0}, "hours = 0: must be more than 0"),
        ({"data": "Digits", "threat": "Lnf"}, r"there is no threat 'Lnf'; did you mean 'Linf'\?"),
        ({"data": "Digits", "epsilon": 0.9}, "no recipe for Digits within that threat has a record; there are some"),
    ],
)
def test_refusals(asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        poise.advise(**asked)


def test_the_command_prints_recipe_numbers_and_sources() -> None:
    shown = CliRunner().invoke(app, ["advise", "Digits"]).output
    assert "at_digits" in shown and "50.40" in shown and "advised: poise train at_digits" in shown
    assert "at_digits: benchmarks/results/" in shown
    assert json.dumps(advise("Digits").lines()[0]["robust"]) == "50.4"
