"""`poise evaluate` under torchrun writes the record of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poise.attacks import APGD, AutoAttack, Square
from poise.core.records import EvaluationRecord
from poise.data import Digits
from poise.engine import Run, train
from poise.evaluation import Protocol
from poise.threats import Linf
from poise.verbs.evaluate import evaluate


@pytest.mark.slow
def test_two_ranks_write_the_record_of_one(tmp_path: Path, tiny: Any) -> None:
    threat = Linf(epsilon=0.05)
    alone = APGD(threat=threat, steps=5, loss="dlr")
    rule = AutoAttack(
        threat=threat, version="custom", attacks=(Square(queries=10), APGD(steps=3), APGD(steps=5, loss="dlr"))
    )
    protocol = Protocol(name="tiny", attacks=(rule, alone), first=40)
    experiment = replace(tiny(), data=Digits(train_images=90, test_images=60), protocol=protocol, epochs=1)
    run = train(experiment, tmp_path / "run", device="cpu")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "--no-python",
        sys.executable,
        "-c",
    ]
    command += ["from poise.cli import main; main()", "evaluate", str(run.path), "--device", "cpu"]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("record: ") == 1
    path = run.path / "records" / "selected.json"
    shared = EvaluationRecord.read(path)
    assert evaluate(Run.open(run.path), device="cpu", again=True).path == path
    single = EvaluationRecord.read(path)
    assert (shared.labels, shared.natural, shared.notes) == (single.labels, single.natural, single.notes)
    assert len(shared.attacks) == len(single.attacks) == 2
    for one, two in zip(shared.attacks, single.attacks, strict=True):
        assert (one.name, one.settings, one.predicted) == (two.name, two.settings, two.predicted)
        assert {**one.notes, "seconds": 0} == {**two.notes, "seconds": 0}
    assert len(set(shared.attacks[0].notes["broken_by"])) >= 3
    assert not [file for file in path.parent.iterdir() if file.name not in ("selected.json", "gallery-selected.npz")]
