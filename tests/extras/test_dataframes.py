"""Results as data frames of pandas."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import poise
from poise.attacks import FGSM, PGD
from poise.core.errors import MissingExtraError
from poise.evaluation import Protocol
from poise.threats import Linf
from poise.verbs.agreement import Agreement
from poise.verbs.attack import Attacked
from poise.verbs.results import Evaluation

THREAT = Linf(epsilon=0.1)
PROTOCOL = Protocol(name="toy", attacks=(FGSM(threat=THREAT), PGD(threat=THREAT, step_size=0.05, steps=2)))


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    test = poise.data.Digits(train_images=10, test_images=30).load().test
    return test.pixels(), test.labels


def test_a_record_becomes_a_frame_of_a_row_for_each_column(images: Any) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed; make test-extras has it")
    record: Evaluation = poise.evaluate(network(0), images, PROTOCOL)
    frame = record.to_dataframe()
    assert frame["attack"].tolist() == ["natural", "FGSM", "PGD-2", "worst case"]
    assert frame["accuracy"].tolist() == pytest.approx(
        [record.natural_accuracy, record.accuracy("FGSM"), record.accuracy("PGD-2"), record.worst_case_accuracy]
    )
    assert frame["epsilon"].tolist()[:3] == [0.0, 0.1, 0.1]
    assert set(frame["images"].tolist()) == {30}


def test_other_answers_become_frames_too(images: Any, tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed; make test-extras has it")
    made: Attacked = poise.attack(network(0), PROTOCOL.attacks[0], images)
    assert made.to_dataframe()["attacked"].tolist() == made.predicted.tolist()
    found: Agreement = poise.agreement(network(0), network(1), images, PROTOCOL)
    assert found.to_dataframe().set_index("column")["differ"].to_dict() == {
        name: len(found.differing(name)) for name in found.columns
    }


def test_without_pandas_the_line_that_installs_it_is_said(images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    record = poise.evaluate(network(0), images, Protocol(name="natural", attacks=()))
    imported = builtins.__import__

    def without_pandas(name: str, *rest: Any, **named: Any) -> Any:
        if name == "pandas":
            raise ImportError(name)
        return imported(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without_pandas)
    with pytest.raises(MissingExtraError, match=r"pip install 'poise\[pandas\]'"):
        record.to_dataframe()
