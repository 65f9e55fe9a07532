"""The command under torchrun: the same command, more ranks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from poise.core.overrides import override
from poise.core.records import EvaluationRecord
from poise.engine import train
from poise.recipes import experiment

SETTINGS = [
    "placement=by-learner",
    "data.train_images=128",
    "data.test_images=64",
    'protocol.attacks=[{"type": "PGD", "steps": 2}]',
]


@pytest.mark.slow
def test_two_machines_that_share_the_runs_folder_train_the_run_of_one_rank(tmp_path: Path, fingerprint: Any) -> None:
    """Two agents, as if each were started on a machine of its own: each has one rank, and a store is where they
    meet.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    train_it = ["-c", "from poise.cli import main; main()", "train", "generalist_digits", "--quick", *SETTINGS]
    train_it += ["--device", "cpu", "--out", str(tmp_path / "run")]
    meet = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}", "--no-python"]
    agents = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *meet, f"--node-rank={node}", sys.executable, *train_it],
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for node in (0, 1)
    ]
    said = [agent.communicate(timeout=120)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert [text.count("2 ranks, by learner") for text in said] == [1, 0]
    alone = train(override(experiment("generalist_digits", quick=True), SETTINGS), tmp_path / "alone", device="cpu")
    assert fingerprint(tmp_path / "run") == fingerprint(alone.path)


@pytest.mark.slow
def test_torchrun_trains_and_evaluates_the_run_of_one_rank_and_only_the_first_speaks(
    tmp_path: Path, torchrun: Any, fingerprint: Any
) -> None:
    done = torchrun(2, "train", "generalist_digits", "--quick", *SETTINGS, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("run folder:") == 1 and done.stdout.count("natural") == 1
    assert done.stderr.count("2 ranks, by learner") == 1
    alone = train(override(experiment("generalist_digits", quick=True), SETTINGS), tmp_path / "alone", device="cpu")
    assert fingerprint(tmp_path / "run") == fingerprint(alone.path)
    for which in ("selected", "last"):
        record = EvaluationRecord.read(tmp_path / "run" / "records" / f"{which}.json")
        assert [attack.name for attack in record.attacks] == ["PGD-2"]
        assert record.notes["placement"] == {
            "by": "learner",
            "ranks": 2,
            "shares": {"natural": 1, "robust": 1},
            "statistics": "averaged",
        }
