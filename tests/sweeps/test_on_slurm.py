"""Sweeps by submitit, whose local executor runs as processes what would be jobs of SLURM."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import poise
from poise.core import holding
from poise.core.errors import RunError, SettingsError
from poise.engine import Experiment, train
from poise.sweeps.ledger import tries
from poise.sweeps.on_slurm import OnSlurm

pytest.importorskip("submitit", reason="submitit is not installed; make test-extras has it")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def test_a_job_whose_process_is_killed_is_submitted_again_and_what_fails_is_reported(
    tmp_path: Path, tiny: Experiment, fingerprint_of: Any
) -> None:
    longer = dataclasses.replace(tiny, epochs=6)
    unbroken, run = train(longer, tmp_path / "unbroken"), tmp_path / "s" / "tiny-learning_rate=0.05"
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while not killed and not over.is_set():
            holder, metrics = holding.Holder.of(run / ".lock"), run / "metrics.jsonl"
            if holder is not None and metrics.exists() and metrics.read_bytes().count(b"\n") >= 2:
                os.kill(holder.pid, signal.SIGKILL)
                killed.append(holder.pid)
            time.sleep(0.002)

    thread = threading.Thread(target=kill)
    thread.start()
    rates = {"method.optimizer.learning_rate": [0.05, 1e30]}
    try:
        made = poise.sweep(longer, rates, out=tmp_path / "s", on=OnSlurm(cluster="local"), evaluate=False)
    finally:
        over.set()
        thread.join()
    assert killed
    assert fingerprint_of(made.runs[0]) == fingerprint_of(unbroken.path)
    assert [(one.state, one.attempt) for one in tries(run)] == [("lost", 1), ("done", 2)]
    assert "no longer finite" in made.failed["tiny-learning_rate=1e+30"]


def test_two_ranks_of_a_job_train_together(tmp_path: Path, tiny: Experiment) -> None:
    small = dataclasses.replace(tiny, epochs=1)
    made = poise.sweep(small, out=tmp_path / "s", on=OnSlurm(cluster="local"), ranks=2, evaluate=False)
    assert not made.failed
    assert poise.Run.open(made.runs[0]).about["placement"]["ranks"] == 2


def test_what_slurm_has_not_is_refused_before_any_work(tmp_path: Path, tiny: Experiment) -> None:
    with pytest.raises(SettingsError, match=r"gpus = 0\.25: must be a whole number on slurm"):
        poise.sweep(tiny, out=tmp_path / "a", on=OnSlurm(cluster="local"), gpus=0.25)
    with pytest.raises(RunError, match="--on slurm: this machine cannot submit jobs"):
        poise.sweep(tiny, out=tmp_path / "b", on="slurm")
    assert not (tmp_path / "b" / "tiny").exists()
