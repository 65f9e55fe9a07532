"""Sweeps on this machine: ordinary runs, whatever is killed, whatever fails."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import poise
from poise.core import holding
from poise.core.errors import RunError, SettingsError
from poise.core.settings import to_json
from poise.engine import Experiment, Run, train
from poise.sweeps import ledger
from poise.sweeps import sweep as sweeping
from poise.sweeps.engines import Tally, engine_of
from poise.sweeps.ledger import Needs, Outcome, tries
from poise.sweeps.local import Local, Worker, gpus_here, least_used, room
from poise.sweeps.planning import planned
from poise.sweeps.status import standings, summary
from poise.sweeps.tasks import Task, perform
from poise.sweeps.works import POINT
from poise.verbs.evaluate import evaluate

RATE = "method.optimizer.learning_rate"


def task_of(experiment: Experiment, folder: Path, patience: float = 60) -> Task:
    plan = planned([experiment], {})
    return sweeping.task_of(plan, plan.points[0], folder, patience=patience)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Run:
    from tests.sweeps.conftest import TINY  # type: ignore[import-not-found]

    run = train(TINY, tmp_path_factory.mktemp("unbroken") / "run")
    for which in ("selected", "last"):
        evaluate(run, checkpoint=which)
    return run


@pytest.mark.parametrize(
    ("epochs", "jobs"), [(["epoch 2"], 1), pytest.param(["epoch 1", "epoch 2"], 2, marks=pytest.mark.slow)]
)
def test_a_sweep_has_the_runs_that_training_one_by_one_has_though_workers_are_killed(
    tmp_path: Path, tiny: Experiment, heard: Any, fingerprint_of: Any, unbroken: Run, epochs: list[str], jobs: int
) -> None:
    killed: list[str] = []

    def kill(sentence: str) -> None:
        name, _, what = sentence.partition(": ")
        epoch = what.partition("/")[0]
        if name == "tiny-learning_rate=0.05" and epoch in epochs and epoch not in killed:
            killed.append(epoch)
            holder = holding.Holder.of(tmp_path / "s" / name / ".lock")
            if holder is not None:
                os.kill(holder.pid, signal.SIGKILL)

    progress = heard(kill)
    made = poise.sweep(tiny, {RATE: [0.05, 1e30]}, out=tmp_path / "s", jobs=jobs, progress=progress)
    good, bad = (tmp_path / "s" / point.name for point in made.plan.points)
    assert killed == epochs
    assert fingerprint_of(good) == fingerprint_of(unbroken.path)
    assert [(one.state, one.attempt) for one in tries(good)][-1] == ("done", len(tries(good)))
    assert "lost" in {one.state for one in tries(good)}
    assert "killed by SIGKILL" in tries(good)[0].reason
    assert list(made.failed) == [bad.name]
    assert "finite" in made.failed[bad.name]
    assert made.runs == [good]
    words = {one.name: one for one in standings(tmp_path / "s")}
    assert (words[good.name].word, words[good.name].epoch, words[good.name].left) == ("evaluated", 3, 0)
    assert (words[bad.name].word, words[bad.name].reason) == ("failed", made.failed[bad.name])
    assert summary(list(words.values())).startswith("2 runs: 1 evaluated, 1 failed; about 0.0 minutes")


def test_a_point_is_a_run_that_others_read(tmp_path: Path, tiny: Experiment, here: Any) -> None:
    small = dataclasses.replace(tiny, epochs=1)
    made = poise.sweep(small, {"epsilon": [0.1, 0.2]}, seeds=2, out=tmp_path / "s", on=here())
    runs = poise.reports.read_runs(tmp_path / "s")
    assert [run.path for run in runs] == [path.resolve() for path in made.runs]
    labels = [row.label for row in poise.reports.table(runs).rows]
    assert len(labels) == 2
    assert all(f"epsilon {epsilon}" in label for epsilon, label in zip((0.1, 0.2), labels, strict=True))
    assert poise.load(made.runs[0]) is not None


def test_the_command_says_what_failed_by_its_exit_status_and_goes_on(
    tmp_path: Path, tiny: Experiment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], here: Any
) -> None:
    from poise.cli import main

    def typed(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["poise", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    monkeypatch.setattr("poise.sweeps.sweep.engine_of", lambda on, jobs: here())
    settings, folder = tmp_path / "tiny.json", tmp_path / "s"
    settings.write_text(json.dumps(to_json(dataclasses.replace(tiny, epochs=1))))
    status, out, err = typed("sweep", settings, f"{RATE}=.05,1e30", "--dry-run")
    assert (status, out, err) == (
        0,
        "tiny-learning_rate=.05  1 epochs\ntiny-learning_rate=1e30  1 epochs\n2 runs\n",
        "",
    )
    status, out, err = typed("sweep", settings, f"{RATE}=.05,1e30", "--out", folder)
    assert status == 1
    assert "failed: tiny-learning_rate=1e30: " in err
    assert f"1 of 2 runs failed; to try them again: poise sweep --resume {folder}" in err
    assert "natural" in out
    assert typed("sweep", "--resume", folder)[0] == 1
    status, out, _ = typed("status", folder)
    assert status == 0
    assert "2 runs: 1 evaluated, 1 failed" in out
    monkeypatch.setenv("COLUMNS", "40")
    assert "…" not in typed("status", folder)[1], "at no width is the end of a name lost"
    assert typed("sweep", settings, f"{RATE}=.05,.1", "--out", folder)[0] == 2
    for words, sentence in (
        (["sweep", settings, "epochs=1"], "name the folder of the sweep: --out FOLDER"),
        (["sweep"], "name a recipe"),
        (["sweep", "at_digit", "--out", folder], "did you mean 'at_digits'?"),
        (
            ["sweep", "--resume", folder, "--seeds", "2"],
            "--resume takes recipes, grid, seeds and rungs from the folder",
        ),
        (["sweep", settings, "--out", folder, "--by", "pgd"], "--keep and --by are of successive halving"),
        (["sweep", "--resume", tmp_path], "is no sweep: it has no plan.json"),
        (["status", tmp_path / "nothing"], "there is no folder"),
    ):
        status, _, err = typed(*words)
        assert (status, sentence in err) == (2, True), err


def test_runs_and_weights_are_evaluated_by_workers_as_here(
    tmp_path: Path, tiny: Experiment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], here: Any
) -> None:
    from poise.cli import main

    engine = here()
    monkeypatch.setattr("poise.sweeps.engines.engine_of", lambda on: engine)
    run = train(dataclasses.replace(tiny, epochs=1), tmp_path / "run").path
    other, record = train(dataclasses.replace(tiny, epochs=1, seed=1), tmp_path / "other").path, tmp_path / "own.json"
    for words, status, sentence in (
        ([run, "--on", "ray", "--first", 4, "--protocol", "pgd-rst", "--epsilon", ".1"], 0, "selected-pgd-rst"),
        ([run, tmp_path / "no", "--on", "ray"], 2, "there is neither a run nor a file"),
        ([run, "--on", "ray", "--protocol", "soe-lambdas"], 2, "1 of 1 evaluations failed: "),
        ([run, other, "--on", "ray", "--ensemble", "vote", "--out", record], 0, f"record: {record}"),
        ([run, "--ranks", 2, "--corruptions", tmp_path], 2, "leave --on and --ranks out"),
        ([run, "--cpus", 2], 2, "--cpus and --gpus are of workers; add --on or --ranks"),
    ):
        monkeypatch.setattr(sys, "argv", ["poise", "evaluate", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr().err.replace("\n", " ")
        assert (int(ended.value.code or 0), sentence in said) == (status, True), said


@pytest.mark.slow
def test_a_sweep_that_is_asked_to_stop_saves_and_goes_on(
    tmp_path: Path, tiny: Experiment, fingerprint_of: Any, unbroken: Run
) -> None:
    settings, folder = tmp_path / "tiny.json", tmp_path / "s"
    settings.write_text(json.dumps(to_json(tiny)))
    command = [sys.executable, "-c", "from poise.cli import main; main()", "sweep", settings, "--out", folder]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "epoch 1/3" in line:
                process.send_signal(signal.SIGTERM)
                break
        rest = process.stderr.read()
    assert process.returncode == 130
    assert f"stopped; what was done is saved; to go on: poise sweep --resume {folder}" in rest.replace("\n", " ")
    made = poise.sweep(out=folder)
    assert fingerprint_of(made.runs[0]) == fingerprint_of(unbroken.path)


@pytest.mark.slow
def test_a_gang_ends_whole_and_starts_again_with_the_same_size(
    tmp_path: Path, tiny: Experiment, heard: Any, fingerprint_of: Any
) -> None:
    killed: list[int] = []

    def kill(sentence: str) -> None:
        holder = holding.Holder.of(tmp_path / "broken" / "tiny" / ".lock")
        if "epoch 2/3" in sentence and not killed and holder is not None:
            killed.append(holder.pid)
            os.kill(holder.pid, signal.SIGKILL)

    whole = poise.sweep(tiny, out=tmp_path / "whole", ranks=2)
    broken = poise.sweep(tiny, out=tmp_path / "broken", ranks=2, progress=heard(kill))
    assert killed
    assert fingerprint_of(broken.runs[0]) == fingerprint_of(whole.runs[0])
    assert [one.state for one in tries(broken.runs[0])] == ["lost", "done"]


def test_a_lock_that_another_has_is_waited_for_and_never_stolen(tmp_path: Path, tiny: Experiment) -> None:
    task = task_of(tiny, tmp_path, patience=0)
    (tmp_path / "tiny").mkdir()
    with holding.hold(ledger.lock_file(task.run), "it", "is being worked on"):
        outcome = perform(task)
    assert (outcome.state, outcome.cause) == ("failed", "LockedError")
    assert f"is being worked on by another process (process {os.getpid()} on" in outcome.reason
    with Run(task.run).lock():
        assert perform(task).cause == "LockedError"
    assert holding.held(ledger.lock_file(task.run)) is None


def test_what_fails_is_said_in_a_sentence(tmp_path: Path, tiny: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("poise.sweeps.works.train_or_resume", failing)
    for error, sentence in (  # noqa: B007
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory: ["),
        (MemoryError(), "out of memory: MemoryError"),
        (ZeroDivisionError("no\nmore"), "ZeroDivisionError: no"),
        (SettingsError("a is 2"), "a is 2"),
    ):
        outcome = perform(task_of(tiny, tmp_path))
        assert outcome.reason.startswith(sentence)
        assert tries(tmp_path / "tiny")[-1] == outcome
    other = dataclasses.replace(task_of(tiny, tmp_path), poise="0.0.1")
    assert "the task is of 0.0.1; install the same" in perform(other).reason


def test_a_task_is_begun_so_often_and_then_fails(tmp_path: Path) -> None:
    told: list[Outcome] = []
    tally = Tally([Task("a", str(tmp_path / "a"), POINT)], told.append)
    for attempt in (1, 2, 3):
        assert tally.waiting.popleft() == (0, attempt)
        tally.lost(0, attempt, "its node died", "node-1")
    assert not tally.waiting
    assert [(one.state, one.attempt) for one in told] == [("lost", 1), ("lost", 2), ("failed", 3)]
    assert tally.all[0].reason == "its node died, in all 3 tries"


def test_ranks_that_only_waited_in_vain_are_no_failure_of_the_task(tmp_path: Path) -> None:
    tally = Tally([Task("a", str(tmp_path / "a"), POINT, needs=Needs(ranks=2))], lambda outcome: None)
    waited = Outcome("a", "failed", "rank 1 waited in vain", "RankError")
    tally.gang_ended(0, 1, [waited, Outcome("a", "done")])
    assert list(tally.waiting) == [(0, 1), (0, 2)]
    tally.gang_ended(0, 2, [waited, Outcome("a", "failed", "NaN", "NumericalError")])
    assert tally.all[0].reason == "NaN"


@pytest.mark.parametrize(
    ("on", "jobs", "sentence"),
    [
        ("rai", 1, "--on rai: must be ray, ray=ADDRESS, slurm or slurm=PARTITION; did you mean 'ray'"),
        ("ray", 2, "--jobs 2 is of this machine"),
        (None, 0, "jobs = 0: must be at least 1"),
    ],
)
def test_an_engine_that_there_is_not_is_refused(on: str | None, jobs: int, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        engine_of(on, jobs)
    assert isinstance(engine_of(None, 2), Local)


def test_runs_of_this_machine_share_its_gpus_evenly(
    tmp_path: Path, tiny: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, str]] = []
    monkeypatch.setattr("subprocess.Popen", lambda *_, env, **__: given.append(env) or FileNotFoundError())
    for gpu in (None, "6"):
        with pytest.raises(AttributeError):  # no process was begun
            Worker(gpu)
    assert given[1]["CUDA_VISIBLE_DEVICES"] == "6"
    assert given[0].get("CUDA_VISIBLE_DEVICES") == os.environ.get("CUDA_VISIBLE_DEVICES")
    taken: list[str | None] = []
    for _ in range(5):
        taken.append(least_used(["4", "6"], taken))
    assert taken == ["4", "6", "4", "6", "4"]
    assert least_used([], []) is None
    assert (room(0.25, 2), room(1, 2), room(2, 5), room(0.3, 1)) == (8, 2, 2, 3)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus_here() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7")
    assert gpus_here() == ["4", "GPU-7"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(RunError, match=r"--gpus 0\.5: this machine has 0"):
        poise.sweep(tiny, out=tmp_path / "s", gpus=0.5)


def test_a_folder_of_other_things_is_refused(tmp_path: Path, tiny: Experiment, here: Any) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="exists and is not empty"):
        poise.sweep(tiny, out=tmp_path, on=here())
    first = poise.sweep(tiny, out=tmp_path / "s", on=here(), evaluate=False)
    with pytest.raises(RunError, match="holds another sweep"):
        poise.sweep(tiny, {"epochs": [1]}, out=tmp_path / "s", on=here())
    assert poise.sweep(tiny, out=tmp_path / "s", on=here(), evaluate=False).runs == first.runs
