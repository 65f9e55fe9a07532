"""The command under torchrun: the same command, more ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from poise.core.overrides import override
from poise.core.records import EvaluationRecord
from poise.engine import train
from poise.recipes import experiment


@pytest.mark.slow
def test_torchrun_trains_and_evaluates_the_run_of_one_rank_and_only_the_first_speaks(
    tmp_path: Path, torchrun: Any, fingerprint: Any
) -> None:
    attacks = 'protocol.attacks=[{"type": "PGD", "steps": 2}]'
    settings = ["placement=by-learner", "data.train_images=128", "data.test_images=64", attacks]
    done = torchrun(2, "train", "generalist_digits", "--quick", *settings, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("run folder:") == 1 and done.stdout.count("natural") == 1
    assert done.stderr.count("2 ranks, by learner") == 1
    alone = train(override(experiment("generalist_digits", quick=True), settings), tmp_path / "alone", device="cpu")
    assert fingerprint(tmp_path / "run") == fingerprint(alone.path)
    for which in ("selected", "last"):
        record = EvaluationRecord.read(tmp_path / "run" / "records" / f"{which}.json")
        assert [attack.name for attack in record.attacks] == ["PGD-2"]
        assert record.notes["placement"] == {"by": "learner", "ranks": 2, "shares": {"natural": 1, "robust": 1}, "statistics": "averaged"}
