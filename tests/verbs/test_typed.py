"""The same questions, typed: folders of seeds, lists of epsilons, seeds, weights in a file, runs that answer
together.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from poise.cli import main
from poise.core.records import EvaluationRecord
from poise.engine import Run
from poise.engine.checkpoints import read_facts

Poise = Callable[..., tuple[int, str, str]]
SMALL_DIGITS = '{"type": "Digits", "train_images": 120, "test_images": 40}'


@pytest.fixture
def poise(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Poise:
    """Types `poise ARGUMENTS`; gives the exit status, what came on stdout and on stderr."""

    def typed(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["poise", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return typed


@pytest.fixture
def seeds(finished: dict[str, Run], tmp_path: Path) -> Path:
    """A folder of two seeds."""
    for name, run in finished.items():
        shutil.copytree(run.path, tmp_path / "seeds" / name, ignore=shutil.ignore_patterns("records", "adversarial"))
    return tmp_path / "seeds"


@pytest.fixture
def weights(finished: dict[str, Run], tmp_path: Path) -> Path:
    file = tmp_path / "mine.safetensors"
    file.write_bytes(safetensors.torch.save(finished["seed-0"].network().state_dict()))
    (tmp_path / "nets_of_typed_test.py").write_text(
        "from poise.models import DigitsCNN\n\ndef build(classes):\n    return DigitsCNN(width=4).build((1, 8, 8),"
        " classes, 0)\n"
    )
    return file


def test_a_folder_of_seeds_stands_for_its_runs(poise: Poise, seeds: Path) -> None:
    status, shown, err = poise(
        "evaluate", seeds, "--protocol", "gradient", "--epsilon", "0.05,1/10", "--first", "10", "--seed", "1"
    )
    assert status == 0, err
    names = [json.loads(path.read_text())["seed"] for path in sorted(seeds.glob("*/records/*seed1.json"))]
    assert names == [0, 3]
    record = EvaluationRecord.read(next(seeds.glob("seed-3/records/*.json")))
    assert (record.evaluation_seed, record.protocol) == (1, "gradient-eps0.05-0.1-first10")
    assert {attack.settings["threat"]["epsilon"] for attack in record.attacks} == {0.05, 0.1}
    assert err.count("record:") == 2
    assert "natural" in shown


def test_several_norms_are_typed_with_commas_and_shown_with_their_union(poise: Poise, seeds: Path) -> None:
    asked = ("--threat", "Linf,L1", "--epsilon", "1/10,2", "--first", "10", "--seed", "1")
    status, shown, err = poise("evaluate", seeds / "seed-3", "--protocol", "strict", *asked)
    assert status == 0, err
    record = EvaluationRecord.read(next((seeds / "seed-3" / "records").glob("*l1*.json")))
    assert record.attack_names[::3] == ["PGD-20 at Linf 0.1", "PGD-20 at L1 2"]
    assert "union of L1 2, Linf 0.1" in " ".join(shown.split())
    status, _, err = poise("sanity", seeds / "seed-3", "--threat", "L1", "--epsilon", "2", "--first", "16")
    assert (status, "no such" in err) == (0, False), err


def test_agreement_is_typed_with_two_runs(poise: Poise, seeds: Path) -> None:
    status, shown, err = poise("agreement", seeds / "seed-0", seeds / "seed-3", "--images")
    assert status == 0, err
    assert "only seed-3" in shown
    assert "natural:" in shown
    assert (seeds / "seed-0" / "records" / "selected.json").exists()


@pytest.mark.parametrize("verb", ["attack", "export", "pseudo-label", "agreement"])
def test_weights_in_a_file_are_asked_as_runs_are(
    poise: Poise, seeds: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.chdir(weights.parent)
    own = ("--model", "nets_of_typed_test:build", "--data", SMALL_DIGITS)
    words: dict[str, tuple[Any, ...]] = {
        "attack": (weights, "PGD", "steps=1", "threat.epsilon=0.1"),
        "export": (weights, "--to", "exported.safetensors"),
        "pseudo-label": (weights, "--out", "pool.npz"),
        "agreement": (weights, seeds / "seed-3", "--protocol", "gradient", "--epsilon", "0.1", "--first", "10"),
    }
    status, shown, err = poise(verb, *words[verb], *own)
    assert status == 0, err
    assert shown
    status, _, err = poise(verb, *words[verb], "--data", SMALL_DIGITS)
    assert (status, "needs --model" in err) == (2, True)
    if verb == "attack":
        (file,) = weights.parent.glob("mine.PGD-1-0.1-*.safetensors")
        assert read_facts(file.with_suffix(""))["checkpoint"] == str(weights)


def test_runs_are_inspected_together(poise: Poise, seeds: Path, tmp_path: Path) -> None:
    quick = (
        "steps=2",
        "autoattack_steps=2",
        "targets=1",
        "queries=10",
        "gradient_examples=16",
        "gradient_samples=2",
        "substitute_steps=2",
    )
    budgets = [part for setting in quick for part in ("--set", setting)]
    status, shown, err = poise(
        "sanity", seeds, "--ensemble", "mean-logits", "--first", "16", "--out", tmp_path / "verdict.json", *budgets
    )
    assert status in (0, 1), err
    assert "sanity of mean-logits of seed-0, seed-3" in shown
    assert json.loads((tmp_path / "verdict.json").read_text())["count"] == 16


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("evaluate", "RUN", "--protocol", "gradient", "--epsilon", "0.1,0.1"), "every one of a list must be another"),
        (("evaluate", "RUN", "--epsilon", "0.1,0.2"), "add --protocol standard"),
        (("evaluate", "RUN", "--protocol", "gradient", "--epsilon", "0.1,wide"), "wide"),
        (("evaluate", "RUN", "--corruptions", "RUN", "--seed", "1"), "--corruptions is an evaluation of its own"),
        (("attack", "RUN", "--model", "ResNet18"), "--model goes with weights in a file"),
        (("agreement", "RUN", "RUN", "--model", "ResNet18"), "--model goes with weights in a file"),
        (("agreement", "RUN", "nothing"), "there is no run folder nothing"),
    ],
)
def test_what_cannot_be_typed_is_refused(poise: Poise, seeds: Path, words: tuple[str, ...], sentence: str) -> None:
    status, _, err = poise(*(seeds / "seed-0" if word == "RUN" else word for word in words))
    assert (status, "Traceback" in err) == (2, False)
    assert sentence in " ".join(err.split())
