"""The command under torchrun: the same command, more ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from poise.core.settings import override
from poise.engine import train
from poise.recipes import experiment


@pytest.mark.slow
def test_torchrun_trains_the_run_of_one_rank_and_only_the_first_speaks(tmp_path: Path, fingerprint: Any) -> None:
    settings = ["placement=by-learner", "data.train_images=128", "data.test_images=64"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python", sys.executable, "-c"]
    command += ["from poise.cli import main; main()", "train", "generalist_digits", "--quick", *settings, "--out", str(tmp_path / "run")]
    command += ["--no-evaluate", "--device", "cpu"]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("run folder:") == 1
    alone = train(override(experiment("generalist_digits", quick=True), settings), tmp_path / "alone", device="cpu")
    assert fingerprint(tmp_path / "run") == fingerprint(alone.path)
