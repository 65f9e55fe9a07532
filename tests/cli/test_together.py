"""`poise evaluate --ensemble`: finished runs of any architectures judged as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from poise.attacks import PGD
from poise.core.records import EvaluationRecord
from poise.data import Digits
from poise.data.corruptions import CORRUPTIONS
from poise.engine import Experiment, Run, train
from poise.evaluation import Protocol
from poise.learners import SGD, Policy
from poise.methods import Joint
from poise.models import Collaboration, DigitsCNN
from poise.objectives import NT
from poise.threats import Linf

Poise = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three networks of three architectures, one of another fold and one that is judged at another epsilon."""
    folder = tmp_path_factory.mktemp("runs")
    attack = PGD(threat=Linf(epsilon=0.1), step_size=0.05, steps=2)
    made = Experiment(
        data=Digits(train_images=120, test_images=40),
        model=DigitsCNN(width=4),
        method=Joint(policy=Policy(objective=NT(), optimizer=SGD(learning_rate=0.1)), batch_size=30),
        epochs=2,
        criterion="last",
        protocol=Protocol(name="toy", attacks=(attack,)),
    )
    stronger = Protocol(name="other", attacks=(dataclasses.replace(attack, threat=Linf(epsilon=0.2)),))
    changes = {
        "a": {},
        "b": {"model": DigitsCNN(width=8), "seed": 1},
        "c": {"model": Collaboration(member=DigitsCNN(width=4), members=2), "seed": 2},
        "fold": {"data": Digits(train_images=120, test_images=40, fold=1)},
        "stronger": {"protocol": stronger},
    }
    return {
        name: train(dataclasses.replace(made, name=name, **each), folder / name, device="cpu").path
        for name, each in changes.items()
    }


@pytest.mark.parametrize("form", ["mean-probabilities", "mean-logits", "vote"])
def test_runs_answer_together(poise: Poise, runs: dict[str, Path], tmp_path: Path, form: str) -> None:
    out, three = tmp_path / "together.json", [runs[name] for name in "abc"]
    status, shown, err = poise("evaluate", "--ensemble", form, *three, "--out", out, "--device", "cpu")
    assert status == 0, err
    assert "PGD-2" in shown
    record = EvaluationRecord.read(out)
    networks = [Run.open(path).network() for path in three]
    test = Run.open(three[0]).experiment.data.load().test
    with torch.no_grad():
        logits = torch.stack([network(test.pixels()) for network in networks])
    votes = torch.stack([(logits.argmax(-1) == label).sum(0) for label in range(10)], 1) + 1e-3 * logits.softmax(
        -1
    ).mean(0)
    wanted = {"mean-probabilities": logits.softmax(-1).mean(0), "mean-logits": logits.mean(0), "vote": votes}[form]
    assert record.natural == wanted.argmax(1).tolist()
    assert record.notes["ensemble"]["output"] == form
    assert [member["run"] for member in record.notes["ensemble"]["members"]] == ["a", "b", "c"]
    assert len(record.notes["experts"]["members"]) == 3
    assert "is there already" in poise("evaluate", "--ensemble", form, *three, "--out", out, "--device", "cpu")[2]
    other = "vote" if form != "vote" else "mean-logits"
    assert (
        "is there already"
        not in poise("evaluate", "--ensemble", other, *three, "--out", out, "--device", "cpu", "--first", 40)[2]
    )
    assert EvaluationRecord.read(out).notes["ensemble"]["output"] == other
    assert not list(tmp_path.glob(".*")), "no journal stays behind"


def test_they_are_judged_on_other_images_and_under_corruptions_too(
    poise: Poise, runs: dict[str, Path], tmp_path: Path
) -> None:
    two, test = [runs["a"], runs["b"]], Digits(fold=2, test_images=30).load().test
    images = test.images.permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "photos.npz", x_test=images, y_test=test.labels.numpy(), x_train=images, y_train=test.labels)
    asked = ("evaluate", "--ensemble", "mean-logits", *two, "--out", tmp_path / "together.json", "--device", "cpu")
    status, _, err = poise(*asked, "--data", tmp_path / "photos.npz")
    assert status == 0, err
    with torch.no_grad():
        logits = torch.stack([Run.open(path).network()(test.pixels()) for path in two]).mean(0)
    assert EvaluationRecord.read(tmp_path / "together.json").natural == logits.argmax(1).tolist()

    corrupted, own = tmp_path / "Digits-C", Run.open(two[0]).experiment.data.load().test
    corrupted.mkdir()
    for name in CORRUPTIONS:
        np.save(corrupted / f"{name}.npy", np.tile(own.images.permute(0, 2, 3, 1).numpy(), (5, 1, 1, 1)))
    np.save(corrupted / "labels.npy", np.tile(own.labels.numpy(), 5))
    status, _, err = poise(*asked[:-3], tmp_path / "corrupted.json", *asked[-2:], "--corruptions", corrupted)
    assert status == 0, err
    record = EvaluationRecord.read(tmp_path / "corrupted.json")
    assert record.corruption_accuracy == pytest.approx(record.natural_accuracy)
    assert record.notes["ensemble"]["output"] == "mean-logits"


@pytest.mark.parametrize(
    ("names", "extra", "sentence"),
    [
        ("a", ("--out", "x.json"), "an ensemble has at least two members"),
        (("a", "b"), (), "--ensemble takes run folders and --out FILE for the record"),
        (("a", "b"), ("--out", "x.json", "--model", "DigitsCNN"), "leave --model out"),
        (("a", "b"), ("--out", "x.json", "--data", "CIFAR10", "--corruptions", "C"), "leave --data out"),
        (("a", "b"), ("--out", "x.json", "--data", "MNIST"), "MNIST"),
        (("a", "fold"), ("--out", "x.json"), "have different test images; an ensemble's members must have the same"),
        (
            ("a", "stronger"),
            ("--out", "x.json"),
            "not evaluated by the same protocol (a by toy, stronger by other); name one with --protocol",
        ),
        (
            ("a", "stronger"),
            ("--out", "x.json", "--protocol", "gradient"),
            "(a by gradient-eps0.1, stronger by gradient-eps0.2)",
        ),
        (("a", "b"), ("--out", "x.json", "--epsilon", "0.2"), "add --protocol standard"),
    ],
)
def test_what_is_no_ensemble_is_refused_in_a_sentence(
    poise: Poise,
    runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, ...],
    extra: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = poise("evaluate", "--ensemble", "vote", *(runs[name] for name in names), *extra)
    assert status == 2
    assert sentence in " ".join(err.split())
    assert list(tmp_path.iterdir()) == []
