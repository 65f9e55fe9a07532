"""Run folders, records and unfinished evaluations that the version before wrote are read and gone on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from poise.attacks import APGD, PGD, AutoAttack, Square
from poise.core.records import EvaluationRecord
from poise.core.verdicts import Verdict
from poise.engine import load, resume
from poise.evaluation import Protocol
from poise.reports.collect import read_runs
from poise.threats import Linf
from poise.verbs.evaluate import evaluate

FORMER = Path(__file__).parents[1] / "former"
THREAT = Linf(epsilon=0.15)


@pytest.fixture
def former(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FORMER, tmp_path / "former"))


def test_its_records_are_read_and_say_what_they_lack(former: Path) -> None:
    record = EvaluationRecord.read(former / "finished" / "records" / "selected.json")
    assert record.lacking == [
        "the time of training",
        "the processors of training",
        "the processors of the evaluation",
        "a digest",
    ]
    assert record.attack_names == ["PGD-2", "PGD-margin-2"] and record.count == 30
    assert Verdict.read(former / "finished" / "records" / "sanity.json")["black_box"].judgement == "pass"
    (run,) = read_runs(former / "finished")
    assert list(run.records) == ["selected", "last", "selected-corruptions-first20"] and len(run.metrics) == 3
    assert load(former / "finished").training is False


def test_its_broken_off_run_ends_with_the_weights_of_the_unbroken_one(former: Path) -> None:
    run = resume(former / "broken-off")
    for name in ("last", "selected"):  # another kind of processor sums in another order: other last bits
        paths = (folder / "checkpoints" / f"{name}.safetensors" for folder in (run.path, former / "finished"))
        ours, theirs = map(load_file, paths)
        assert ours.keys() == theirs.keys()
        for key, weight in ours.items():
            torch.testing.assert_close(
                weight, theirs[key], rtol=1e-4, atol=1e-5, msg=lambda text, at=key: f"{at}: {text}"
            )
    assert run.trained() == {"training_seconds": None, "trained_on": []}, "the first steps are not known"


def test_its_unfinished_evaluation_is_gone_on_with(former: Path) -> None:
    rule = AutoAttack(
        threat=THREAT, version="custom", attacks=(APGD(threat=THREAT, steps=5), Square(threat=THREAT, queries=20))
    )
    protocol = Protocol(name="rule", attacks=(PGD(threat=THREAT, step_size=0.05, steps=2), rule), first=30)
    (kept,) = (former / "finished" / "records").glob(".*.unfinished/part-0.json")
    part = json.loads(kept.read_text())
    record = evaluate(former / "finished", protocol=protocol)
    assert record.attacks[0].seconds == part["seconds"], "it was not made anew"
    again = evaluate(former / "finished", protocol=protocol, again=True)
    assert [attack.predicted for attack in record.attacks] == [attack.predicted for attack in again.attacks]
