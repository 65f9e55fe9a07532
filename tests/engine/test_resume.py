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

from poise.core import holding
from poise.core.errors import CheckpointError, Interrupted, LockedError, RunError, SettingsError, StorageError
from poise.core.files import write_files
from poise.core.settings import to_json
from poise.data import Npz
from poise.engine import Experiment, Monitor, Run, finished, resume, train, train_or_resume
from poise.engine.checkpoints import read_tensors, write_tensors
from poise.evaluation import Protocol
from poise.verbs.evaluate import evaluate

Tiny = Callable[..., Experiment]
KILLED_RUN = Path(__file__).with_name("killed_run.py")
ENDS = ("selected.safetensors", "last.safetensors", "step-000000012.safetensors", "metrics")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def survives_kills(
    experiment: Experiment, folder: Path, kills: int, fingerprint_of: Any, moments: str = "random"
) -> None:
    settings, out = folder / "experiment.json", folder / "killed"
    settings.write_text(json.dumps(to_json(experiment)))
    command = [sys.executable, str(KILLED_RUN), str(settings), str(out), str(kills), "1", moments]
    unbroken = fingerprint_of(train(experiment, folder / "unbroken"))
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=600)
    assert done.returncode == 0, done.stderr
    assert f"killed {kills} times" in done.stdout
    assert fingerprint_of(Run.open(out)) == unbroken
    assert not list(out.rglob("*.part")), "half-written files stay behind"


def test_a_run_killed_at_random_moments_ends_with_the_same_bits(
    tmp_path: Path, tiny_experiment: Tiny, fingerprint_of: Any
) -> None:
    survives_kills(tiny_experiment("generalist", epochs=16, keep_epochs=(2,)), tmp_path, 3, fingerprint_of)


def test_a_run_killed_at_its_writes_and_stopped_when_it_diverged_ends_with_the_same_bits(
    tmp_path: Path, tiny_experiment: Tiny, fingerprint_of: Any
) -> None:
    survives_kills(
        tiny_experiment("generalist", epochs=5, keep_epochs=(2,), keep_last=1), tmp_path, 4, fingerprint_of, "writes"
    )


@pytest.mark.slow
def test_a_hundred_kills_at_every_write(tmp_path: Path, tiny_experiment: Tiny, fingerprint_of: Any) -> None:
    survives_kills(
        tiny_experiment("generalist", epochs=120, keep_epochs=(40,), keep_last=1),
        tmp_path,
        100,
        fingerprint_of,
        "writes",
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["joint", "generalist"])
def test_fifty_kills(tmp_path: Path, tiny_experiment: Tiny, fingerprint_of: Any, method: str) -> None:
    survives_kills(tiny_experiment(method, epochs=200, keep_epochs=(40,)), tmp_path, 50, fingerprint_of)


@pytest.mark.parametrize("steps", [1, 3, 4, 8, 11])
def test_sigterm_saves_within_the_epoch_and_the_run_goes_on(
    tmp_path: Path,
    tiny_experiment: Tiny,
    fingerprint_of: Any,
    steps: int,
    trained: Run,
    stopping: Any,
    steps_taken: list[int],
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=re.escape(f"poise train --resume {tmp_path / 'run'}")):
        train(tiny_experiment(save_every=3), tmp_path / "run", progress=stopping(after=steps))
    assert signal.getsignal(signal.SIGTERM) is before
    assert [path.name for path in Run.open(tmp_path / "run").states()] == [f"step-{steps:09d}"]
    found, wanted = fingerprint_of(resume(tmp_path / "run")), fingerprint_of(trained)
    assert len(steps_taken) == 12, "none is taken twice"
    assert {name: found[name] for name in ENDS} == {name: wanted[name] for name in ENDS}


def test_sigterm_at_the_last_step_ends_the_run_and_stops(
    tmp_path: Path, tiny_experiment: Tiny, fingerprint_of: Any, trained: Run, stopping: Any
) -> None:
    with pytest.raises(Interrupted, match="poise evaluate"):
        train(tiny_experiment(), tmp_path / "run", progress=stopping(after=12))
    assert fingerprint_of(Run.open(tmp_path / "run")) == fingerprint_of(trained)


def test_the_command_interrupted_says_how_to_go_on_and_exits_with_130(
    tmp_path: Path, tiny_experiment: Tiny, trained: Run
) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(to_json(tiny_experiment(epochs=500))))
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-c",
        "from poise.cli import main; main()",
        "train",
        str(settings),
        "--out",
        str(out),
        "--no-evaluate",
    ]
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
    with pytest.raises(
        CheckpointError, match=r"every checkpoint of .* is damaged; the newest: .*step-000000012\.safetensors"
    ):
        resume(run.path)


@pytest.mark.parametrize("change", [{"epochs": 4}, {"seed": 1}], ids=str)
@pytest.mark.parametrize("started", [True, False])
def test_changed_settings_are_refused(
    tmp_path: Path, tiny_experiment: Tiny, change: dict[str, int], started: bool
) -> None:
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


def test_a_run_in_training_is_refused_to_a_second_process(
    tmp_path: Path, tiny_experiment: Tiny, fingerprint_of: Any, trained: Run
) -> None:
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
    with pytest.raises(RunError, match=r"are of another run than its run\.json"):
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


def test_what_was_asked_can_be_asked_again_and_is_begun_gone_on_with_or_there(
    tmp_path: Path, tiny_experiment: Tiny, stopping: Any, fingerprint_of: Any, trained: Run
) -> None:
    path = tmp_path / "run"
    with pytest.raises(Interrupted):
        train_or_resume(tiny_experiment(), path, progress=stopping(7))
    assert Run.open(path).states() and fingerprint_of(train_or_resume(tiny_experiment(), path)) == fingerprint_of(
        trained
    )
    assert fingerprint_of(train_or_resume(tiny_experiment(), path)) == fingerprint_of(trained)
    with pytest.raises(
        RunError,
        match=r"was started with other settings .*; take another folder, or go on with it: poise train --resume",
    ):
        train_or_resume(tiny_experiment(seed=5), path)


def test_a_run_is_finished_when_all_is_written(
    tmp_path: Path, tiny_experiment: Tiny, monkeypatch: pytest.MonkeyPatch, fingerprint_of: Any, trained: Run
) -> None:
    """Broken off in its last epoch, before its metrics, its checkpoint or its last weights were written, it goes on."""
    for name in ("append_metrics", "save_state", "save_weights"):
        path, done = tmp_path / name, getattr(Run, name)

        def breaks(run: Run, what: Any, *given: Any, done: Any = done) -> Any:
            if what in ("last", 12) or (isinstance(what, dict) and what["epoch"] == 3):
                raise StorageError("the disk is full")
            return done(run, what, *given)

        with monkeypatch.context() as full:
            full.setattr(Run, name, breaks)
            with pytest.raises(StorageError):
                train(tiny_experiment(), path)
        run = train_or_resume(tiny_experiment(), path)
        assert fingerprint_of(run) == fingerprint_of(trained), name
        assert run.facts("last")["monitors"] == trained.facts("last")["monitors"] != {}


def test_the_selected_weights_are_those_that_the_run_goes_on_comparing_with(
    tmp_path: Path, tiny_experiment: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an epoch after the last checkpoint, which on other ranks comes out otherwise when it is trained again."""
    values = iter([0.5, 0.4, 0.9, 0.1, 0.1])
    monkeypatch.setattr("poise.engine.monitoring.measured", lambda *given, **how: next(values))
    made = tiny_experiment(epochs=3, criterion="sum", monitors=(Monitor(),), save_every=2)
    monkeypatch.setattr(
        Run,
        "append_metrics",
        lambda run, line, done=Run.append_metrics: done(run, line) if line["epoch"] < 3 else 1 / 0,
    )
    with pytest.raises(ZeroDivisionError):
        train(made, tmp_path / "run")
    monkeypatch.undo()
    monkeypatch.setattr("poise.engine.monitoring.measured", lambda *given, **how: 0.1)
    run = resume(tmp_path / "run")
    assert (run.facts()["epoch"], run.facts()["monitors"]) == (3, {"monitor/natural": 0.9})
    assert read_tensors(run.states()[0])[1]["best"]["value"] == 0.9


@pytest.mark.parametrize("finished", [True, False])
def test_the_checkpoints_of_another_version_are_refused_in_a_sentence_unless_nothing_is_left_to_do(
    tmp_path: Path, tiny_experiment: Tiny, finished: bool
) -> None:
    run = train(tiny_experiment(), tmp_path / "run")
    for path in run.states():
        tensors, facts = read_tensors(path)
        write_tensors(
            path, tensors, {name: value for name, value in facts.items() if name not in ("state", "format", "sha256")}
        )
    if finished:
        assert resume(run.path) == run
        return
    for file in (run.path / "checkpoints").glob("last.*"):
        file.unlink()
    with pytest.raises(CheckpointError, match="begun by another version of Poise"):
        resume(run.path)


def test_settings_that_poise_has_got_since_do_not_keep_a_run_from_going_on(
    tmp_path: Path,
    tiny_experiment: Tiny,
    monkeypatch: pytest.MonkeyPatch,
    stopping: Any,
    fingerprint_of: Any,
    trained: Run,
) -> None:
    with pytest.raises(Interrupted):
        train(tiny_experiment(), tmp_path / "run", progress=stopping(7))
    group = Run.open(tmp_path / "run").group
    monkeypatch.setattr(Experiment, "group", property(lambda _: "as a later version would have it"))
    run = resume(tmp_path / "run")
    assert fingerprint_of(run) == fingerprint_of(trained)
    assert evaluate(run).group == group == run.group


def test_a_finished_run_without_checkpoints_is_left_as_it_is(tmp_path: Path, tiny_experiment: Tiny) -> None:
    run = train(tiny_experiment(), tmp_path / "run")
    for file in (run.path / "checkpoints").glob("step-*"):
        file.unlink()
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert resume(run.path) == run
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_a_second_process_leaves_the_run_of_the_first_alone(
    tmp_path: Path, tiny_experiment: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the first one is still training, or came to its end while the second loaded its data."""
    path = tmp_path / "run"
    held = Run(path).lock()
    with pytest.raises(RunError, match="being trained by another process"):
        train(tiny_experiment(), path)
    held.release()
    assert not (path / "experiment.json").exists()
    first = train(tiny_experiment(), path)
    before = (path / "experiment.json").read_bytes()
    with monkeypatch.context() as late:
        looked, answers = Run.to_be, iter([Run(path)])
        late.setattr(Run, "to_be", staticmethod(lambda path: next(answers, None) or looked(path)))
        with pytest.raises(RunError, match="exists and is not empty"):
            train(tiny_experiment(seed=5), path)
    assert (first.path / "experiment.json").read_bytes() == before


def test_a_half_written_line_of_metrics_is_passed_over(trained: Run, tmp_path: Path) -> None:
    run = Run(shutil.copytree(trained.path, tmp_path / "run"))
    whole = run.metrics()
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "ep')
    assert run.metrics() == whole
    (run.path / "metrics.jsonl").write_text('{"kind": "ep\n{}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl is damaged at line 1"):
        run.metrics()


def test_files_that_belong_together_are_written_together(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    write_files({first: b"old", second: b"old"})
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be written"):
        write_files({first: b"new", tmp_path / "file" / "b": b"new"})
    assert (first.read_bytes(), second.read_bytes()) == (b"old", b"old")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "file"]


def test_a_protocol_that_takes_what_images_there_are_fits_every_test_set(tmp_path: Path, tiny_experiment: Tiny) -> None:
    protocol = Protocol(name="few", attacks=(), first=1000, chosen="dverge")
    run = train(tiny_experiment(protocol=protocol, epochs=1), tmp_path / "run")
    assert 0 < evaluate(run).count < 1000


@pytest.mark.parametrize("pauses", [[1], [1, 2], [2, 2, 3]])
def test_a_run_paused_at_epochs_ends_with_the_bits_of_the_unbroken_one(
    tmp_path: Path, tiny_experiment: Tiny, fingerprint_of: Any, trained: Run, pauses: list[int]
) -> None:
    experiment, run = trained.experiment, Run(tmp_path / "run")
    for until in pauses:
        run = train_or_resume(experiment, run.path, until=until)
        assert [line["epoch"] for line in run.metrics()] == list(range(1, until + 1))
        assert not finished(run) or until == experiment.epochs
    assert fingerprint_of(resume(run.path)) == fingerprint_of(trained)


def test_a_pause_saves_where_no_checkpoint_was_due_and_one_that_is_over_changes_nothing(
    tmp_path: Path, tiny_experiment: Tiny, steps_taken: list[int]
) -> None:
    run = train(tiny_experiment(epochs=3, save_every=3), tmp_path / "run", until=2)
    paused = len(steps_taken)
    resume(run.path, until=1)
    assert len(steps_taken) == paused
    resume(run.path)
    assert len(steps_taken) == 3 * paused // 2


@pytest.mark.parametrize("until", [0, 4, True, 1.0])
def test_a_pause_at_an_epoch_that_the_run_does_not_have_is_refused(
    tmp_path: Path, tiny_experiment: Tiny, until: Any
) -> None:
    with pytest.raises(SettingsError, match=r"until = .*: must be an epoch of the run, 1 to 3"):
        train(tiny_experiment(epochs=3), tmp_path / "run", until=until)
    assert not (tmp_path / "run").exists()


def test_whoever_holds_a_run_is_named_with_machine_and_try(
    tmp_path: Path, trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.open(shutil.copytree(trained.path, tmp_path / "run"))
    monkeypatch.setenv("POISE_NODE", "node-7")
    monkeypatch.setenv("POISE_TRY", "3")
    with run.lock():
        with pytest.raises(LockedError, match=rf"process {os.getpid()} on node-7, try 3, since 20"):
            resume(run.path)
        assert holding.held(run.path / ".lock") == holding.Holder.of(run.path / ".lock")
    assert holding.held(run.path / ".lock") is None
    assert not list(run.path.glob("*.holder"))


def test_a_lock_is_waited_for_until_its_holder_is_gone_and_no_longer_than_one_has_patience(tmp_path: Path) -> None:
    lock = holding.hold(tmp_path / ".lock", "it", "is being trained")
    said: list[str] = []

    def take() -> str:
        with holding.hold(tmp_path / ".lock", "it", "is being trained"):
            return "had"

    def gone(sentence: str) -> None:
        said.append(sentence)
        lock.release()

    with pytest.raises(LockedError, match=r"waited 0 s"):
        holding.waiting(take, patience=0)
    assert holding.waiting(take, patience=60, say=gone, every=0) == "had"
    assert len(said) == 1
    assert f"process {os.getpid()}" in said[0]
