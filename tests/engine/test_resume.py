"""A run that was broken off, however it was, ends with the bits of the unbroken one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poise.core.errors import CheckpointError, Interrupted, RunError
from poise.core.settings import to_json
from poise.data import Npz
from poise.engine import Experiment, Run, resume, train

Tiny = Callable[..., Experiment]
KILLED_RUN = Path(__file__).with_name("killed_run.py")
ENDS = ("selected.safetensors", "last.safetensors", "step-000000012.safetensors", "metrics")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def survives_kills(experiment: Experiment, folder: Path, kills: int, fingerprint_of: Any) -> None:
    settings, out = folder / "experiment.json", folder / "killed"
    settings.write_text(json.dumps(to_json(experiment)))
    command = [sys.executable, str(KILLED_RUN), str(settings), str(out), str(kills), "1"]
    unbroken = fingerprint_of(train(experiment, folder / "unbroken"))
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=600)
    assert done.returncode == 0, done.stderr
    assert f"killed {kills} times" in done.stdout
    assert fingerprint_of(Run.open(out)) == unbroken
    assert not list(out.rglob("*.part")), "half-written files stay behind"


def test_a_run_killed_at_random_moments_ends_with_the_same_bits(tmp_path: Path, tiny_experiment: Tiny, fingerprint_of: Any) -> None:
    survives_kills(tiny_experiment("generalist", epochs=16, keep_epochs=(2,)), tmp_path, 3, fingerprint_of)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["joint", "generalist"])
def test_fifty_kills(tmp_path: Path, tiny_experiment: Tiny, fingerprint_of: Any, method: str) -> None:
    survives_kills(tiny_experiment(method, epochs=200, keep_epochs=(40,)), tmp_path, 50, fingerprint_of)


@pytest.mark.parametrize("steps", [1, 3, 4, 8, 11])
def test_sigterm_saves_within_the_epoch_and_the_run_goes_on(
    tmp_path: Path, tiny_experiment: Tiny, fingerprint_of: Any, steps: int, trained: Run, stopping: Any
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=re.escape(f"poise train --resume {tmp_path / 'run'}")):
        train(tiny_experiment(save_every=3), tmp_path / "run", progress=stopping(after=steps))
    assert signal.getsignal(signal.SIGTERM) is before
    assert [path.name for path in Run.open(tmp_path / "run").states()] == [f"step-{steps:09d}"]
    found, wanted = fingerprint_of(resume(tmp_path / "run")), fingerprint_of(trained)
    assert {name: found[name] for name in ENDS} == {name: wanted[name] for name in ENDS}


def test_sigterm_at_the_last_step_ends_the_run_and_stops(
    tmp_path: Path, tiny_experiment: Tiny, fingerprint_of: Any, trained: Run, stopping: Any
) -> None:
    with pytest.raises(Interrupted, match="poise evaluate"):
        train(tiny_experiment(), tmp_path / "run", progress=stopping(after=12))
    assert fingerprint_of(Run.open(tmp_path / "run")) == fingerprint_of(trained)


def test_the_command_interrupted_says_how_to_go_on_and_exits_with_130(tmp_path: Path, tiny_experiment: Tiny, trained: Run) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(to_json(tiny_experiment(epochs=500))))
    out = tmp_path / "run"
    command = [sys.executable, "-c", "from poise.cli import main; main()", "train", str(settings), "--out", str(out), "--no-evaluate"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        deadline = time.monotonic() + 60
        while not (out / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "".join(said.split()).endswith("".join(f"togoon:poisetrain--resume{out}".split()))


def damage(path: Path, kind: str) -> str:
    """Damage the checkpoint `path`; returns the name of the file that must be named."""
    tensors, facts = path.with_suffix(".safetensors"), path.with_suffix(".json")
    data = tensors.read_bytes()
    if kind == "truncated":
        tensors.write_bytes(data[: len(data) // 2])
    elif kind == "flipped byte":
        tensors.write_bytes(data[:-100] + bytes([data[-100] ^ 1]) + data[-99:])
    elif kind == "missing json":
        facts.unlink()
    elif kind == "missing tensors":
        tensors.unlink()
    elif kind == "altered json":
        facts.write_text(facts.read_text().replace('"step": 12', '"step": 11'))
        return facts.name
    return facts.name if kind == "missing json" else tensors.name


@pytest.mark.parametrize("kind", ["truncated", "flipped byte", "missing json", "missing tensors", "altered json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    tmp_path: Path, tiny_experiment: Tiny, fingerprint_of: Any, trained: Run, lines_of: Any, kind: str, stopping: Any
) -> None:
    run = train(tiny_experiment(), tmp_path / "run")
    name = damage(run.states()[0], kind)
    progress = stopping()
    resume(run.path, progress=progress)
    assert len(progress.said) == 1
    assert str(run.path / "checkpoints" / name) in progress.said[0]
    assert "going back" in progress.said[0]
    assert fingerprint_of(run) == fingerprint_of(trained)
    assert [line["epoch"] for line in lines_of(run)] == [1, 2, 3]


def test_a_damaged_checkpoint_does_not_push_out_a_whole_one(
    tmp_path: Path, tiny_experiment: Tiny, fingerprint_of: Any, trained: Run, stopping: Any
) -> None:
    run = train(tiny_experiment(keep_epochs=(1,), keep_last=1), tmp_path / "run")
    damage(run.states()[0], "truncated")
    with pytest.raises(Interrupted):
        resume(run.path, progress=stopping(after=2))
    assert [path.name for path in run.states()] == ["step-000000006", "step-000000004"]
    found, wanted = fingerprint_of(resume(run.path)), fingerprint_of(trained)
    assert {name: found[name] for name in ENDS} == {name: wanted[name] for name in ENDS}


def test_all_checkpoints_damaged_is_an_error_that_names_the_newest(tmp_path: Path, tiny_experiment: Tiny) -> None:
    run = train(tiny_experiment(), tmp_path / "run")
    for path in run.states():
        damage(path, "truncated")
    with pytest.raises(CheckpointError, match=r"every checkpoint of .* is damaged; the newest: .*step-000000012\.safetensors"):
        resume(run.path)


@pytest.mark.parametrize("change", [{"epochs": 4}, {"seed": 1}], ids=str)
@pytest.mark.parametrize("started", [True, False])
def test_changed_settings_are_refused(tmp_path: Path, tiny_experiment: Tiny, change: dict[str, int], started: bool) -> None:
    run = train(tiny_experiment(), tmp_path / "run")
    if not started:
        for path in (run.path / "checkpoints").iterdir():
            path.unlink()
    (run.path / "experiment.json").write_text(json.dumps(to_json(tiny_experiment(**change))))
    with pytest.raises(RunError, match=r"experiment\.json was changed"):
        resume(run.path)


def test_a_data_set_that_was_changed_is_refused(tmp_path: Path, tiny_experiment: Tiny) -> None:
    file = tmp_path / "own.npz"
    images, labels = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8), np.arange(60) % 3
    np.savez(file, x_train=images, y_train=labels, x_test=images, y_test=labels)
    run = train(tiny_experiment(data=Npz(path=str(file)), epochs=1), tmp_path / "run")
    images[0, 0, 0] += 1
    np.savez(file, x_train=images, y_train=labels, x_test=images, y_test=labels)
    with pytest.raises(RunError, match=r"the data set .* was changed since the run was started"):
        resume(run.path)


def test_a_run_in_training_is_refused_to_a_second_process(tmp_path: Path, tiny_experiment: Tiny, fingerprint_of: Any, trained: Run) -> None:
    run = Run.open(shutil.copytree(trained.path, tmp_path / "run"))
    held = run.lock()
    with pytest.raises(RunError, match="is being trained by another process"):
        resume(run.path)
    held.release()
    assert fingerprint_of(resume(run.path)) == fingerprint_of(trained)


def test_another_runs_checkpoint_is_refused(tmp_path: Path, tiny_experiment: Tiny) -> None:
    runs = [train(tiny_experiment(seed=seed, epochs=1), tmp_path / str(seed)) for seed in (0, 1)]
    for path in (runs[0].path / "checkpoints").iterdir():
        path.replace(runs[1].path / "checkpoints" / path.name)
    with pytest.raises(RunError, match="changed since the run was started"):
        resume(runs[1].path)


def test_metrics_half_written_by_a_killed_process_are_written_again(
    tmp_path: Path, tiny_experiment: Tiny, fingerprint_of: Any, trained: Run, stopping: Any
) -> None:
    with pytest.raises(Interrupted):
        train(tiny_experiment(), tmp_path / "run", progress=stopping(after=6))
    run = Run.open(tmp_path / "run")
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "epoch", "epoch": 2, "step": 8}\n{"kind": "epo')
    assert fingerprint_of(resume(run.path))["metrics"] == fingerprint_of(trained)["metrics"]


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, tiny_experiment: Tiny, fingerprint_of: Any) -> None:
    run = train(tiny_experiment(), tmp_path / "run")
    before = fingerprint_of(run)
    assert fingerprint_of(resume(run.path)) == before
