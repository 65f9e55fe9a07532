"""What TensorBoard, MLflow and Weights & Biases have of a run, read back by their own code, is what its folder says."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import poise
from poise.core.errors import LockedError, MissingExtraError, SettingsError
from poise.data import Digits
from poise.engine import Callback, Experiment, Run
from poise.evaluation import Protocol
from poise.interop.trackers import tracker
from poise.interop.trackers.tensorboard_tracker import TensorBoardTracker
from poise.learners import Policy
from poise.methods import Joint
from poise.models import DigitsCNN
from poise.objectives import NT
from poise.verbs.track import Tracking, columns_of, points_of, tag_of_metric, track

needs = {
    name: pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is in the extras")
    for name in ("tensorboard", "mlflow", "wandb")
}
Curves = dict[str, list[tuple[int, float]]]


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


class Killing(Callback):
    def __init__(self, at: int) -> None:
        self.at = at

    def epoch(self, run: Run, line: Mapping[str, Any]) -> None:
        if line["epoch"] == self.at:
            raise Killed


def small(**changes: Any) -> Experiment:
    settings: dict[str, Any] = {
        "name": "tracked",
        "data": Digits(train_images=60, test_images=20),
        "model": DigitsCNN(width=4),
        "method": Joint(policy=Policy(objective=NT()), batch_size=30),
        "protocol": Protocol(name="natural", attacks=()),
        "precision": "float32",
        "epochs": 5,
        "save_every": 2,
    }
    return Experiment(**{**settings, **changes})


def expected(run: Run) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in run.metrics():
        for tag, value, step in points_of(line):
            curves.setdefault(tag, []).append((step, value))
    return curves


def of_tensorboard(folder: Path) -> Curves:
    """Every event of every file, so that nothing is hidden that is there twice."""
    from tensorboard.backend.event_processing.event_file_loader import (  # pyright: ignore[reportMissingImports]
        LegacyEventFileLoader,
    )

    curves: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.glob("events.out.tfevents.*")):
        for event in LegacyEventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    curves.setdefault(value.tag, []).append((event.step, value.simple_value))
    return {tag: sorted(points) for tag, points in curves.items()}


def of_mlflow(place: str, name: str = "run") -> tuple[Curves, Any]:
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

    client = MlflowClient(place)
    (found,) = client.search_runs([client.get_experiment_by_name("poise").experiment_id])
    history = {tag: client.get_metric_history(found.info.run_id, tag) for tag in found.data.metrics}
    return {tag: sorted((one.step, one.value) for one in points) for tag, points in history.items()}, found


def let_go(dead: Tracking) -> None:
    """What the system does with the lock of a process that ended."""
    assert dead.hold is not None
    dead.hold.release()


def broken_off_and_resumed(out: Path, to: str) -> Run:
    """Killed after an epoch that no checkpoint has, gone on with to the end, and evaluated."""
    dead = Tracking(to)
    with pytest.raises(Killed):
        poise.train(small(), out, callbacks=[dead, Killing(3)])
    let_go(dead)
    tracking = Tracking(to)
    run = poise.train(out, callbacks=[tracking])
    poise.evaluate(run, callbacks=[tracking])
    track(run, to)
    return run


@needs["tensorboard"]
def test_tensorboard_has_the_metrics_once_after_a_kill(tmp_path: Path) -> None:
    run = broken_off_and_resumed(tmp_path / "run", "tensorboard")
    curves = of_tensorboard(run.path / "tensorboard")
    record = {f"record/selected/{name}": value for name, value in columns_of(run_record(run)).items()}
    assert {tag: [value for _, value in curves.pop(tag)] for tag in record} == {
        tag: [pytest.approx(value)] for tag, value in record.items()
    }
    assert curves == {
        tag: [(step, pytest.approx(value, rel=1e-6)) for step, value in points] for tag, points in expected(run).items()
    }
    assert [step for step, _ in curves["val/natural"]] == [2, 4, 6, 8, 10]
    assert {tag.partition("/")[0] for tag in curves} == {"epoch", "train", "val", "lr", "time", "images"}
    assert (run.path / "tensorboard" / "report.html").read_bytes() == (run.path / "report.html").read_bytes()


@needs["tensorboard"]
def test_a_kill_while_an_epoch_is_put_down_leaves_neither_gap_nor_double(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, dead = TensorBoardTracker.log, Tracking("tensorboard")

    def half(self: Any, points: Any) -> None:
        log(self, points[:2])
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(TensorBoardTracker, "log", half)
        poise.train(small(), tmp_path / "run", callbacks=[dead])
    let_go(dead)
    run = poise.train(
        tmp_path / "run", callbacks=[Tracking(f"tensorboard:{tmp_path / 'logs'}"), Tracking("tensorboard")]
    )
    (folder,) = (tmp_path / "logs").iterdir()
    for place in (run.path / "tensorboard", folder):
        assert {tag: [step for step, _ in points] for tag, points in of_tensorboard(place).items()} == {
            tag: [step for step, _ in points] for tag, points in expected(run).items()
        }


@needs["mlflow"]
def test_mlflow_has_the_metrics_once_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    place = (tmp_path / "store").as_uri()
    run = broken_off_and_resumed(tmp_path / "run", f"mlflow:{place}")
    curves, found = of_mlflow(place)
    record = {f"record/selected/{name}": value for name, value in columns_of(run_record(run)).items()}
    assert dict(curves) == expected(run) | {tag: [(10, value)] for tag, value in record.items()}
    assert found.info.status == "FINISHED" and found.info.run_name == "run"
    assert found.data.params["epochs"] == "5" and found.data.params["method.policy.objective.type"] == "NT"
    (page,) = Path(found.info.artifact_uri.removeprefix("file://")).iterdir()
    assert page.name == "report.html" and "natural" in found.data.tags["mlflow.note.content"]


@needs["wandb"]
def test_wandb_keeps_a_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    run = poise.train(small(epochs=2), tmp_path / "run", callbacks=[Tracking("wandb:trial")])
    assert track(run, "wandb:trial") == 0, "all is there already"
    assert list((run.path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert_nowhere(tmp_path, os.environ["WANDB_API_KEY"])


def assert_nowhere(folder: Path, secret: str) -> None:
    for file in folder.rglob("*"):
        assert not file.is_file() or secret.encode() not in file.read_bytes(), file


@needs["tensorboard"]
def test_a_run_is_followed_while_another_process_trains_it(tmp_path: Path) -> None:
    run, looks = poise.train(small(), tmp_path / "run", until=2), []

    def train_on(seconds: float) -> None:
        looks.append(seconds)
        run_lock.release()
        poise.train(run, until=2 + 2 * len(looks) if len(looks) == 1 else None)
        if len(looks) == 1:
            hold_again()

    def hold_again() -> None:
        nonlocal run_lock
        run_lock = run.lock()

    run_lock = run.lock()
    assert track(run, "tensorboard", every=0.5, pause=train_on) == 5
    assert looks == [0.5, 0.5]
    assert [step for step, _ in of_tensorboard(run.path / "tensorboard")["epoch"]] == [2, 4, 6, 8, 10]
    first = Tracking("tensorboard")
    first.bring(run)
    with pytest.raises(LockedError, match="is being tracked to tensorboard by"):
        track(run, "tensorboard")
    first.close(True)


def run_record(run: Run) -> Any:
    return poise.evaluate(run)


def test_tags_are_standard() -> None:
    assert {name: tag_of_metric(name) for name in ("loss/robust/robust", "monitor/pgd-10", "learning_rate/joint")} == {
        "loss/robust/robust": "train/loss/robust/robust",
        "monitor/pgd-10": "val/pgd-10",
        "learning_rate/joint": "lr/joint",
    }
    assert tag_of_metric("geometry/distance") == "train/geometry/distance"


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow", "wandb"])
def test_what_is_missing_is_said_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    found: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == kind else found(name, *rest))
    with pytest.raises(MissingExtraError, match=rf"'{kind}' is needed here .*: pip install 'poise\[{kind}\]'$"):
        Tracking(kind)
    with pytest.raises(SettingsError, match=r"there is no kind 'tensorbord'; did you mean 'tensorboard'\?"):
        tracker("tensorbord:x")


@needs["mlflow"]
def test_a_store_that_cannot_be_used_costs_nothing_and_tells_no_password(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from poise.core.progress import Progress

    said: list[str] = []

    class Hearing(Progress):
        def say(self, sentence: str) -> None:
            said.append(sentence)

    tracking = Tracking("mlflow:http://me:s3cret-word@127.0.0.1:9/")
    run = poise.train(small(epochs=1), tmp_path / "run", callbacks=[tracking], progress=Hearing())
    (sentence,) = [each for each in said if "Tracking" in each]
    assert "the MLflow store cannot be used" in sentence and "s3cret" not in sentence
    assert len(run.metrics()) == 1
    assert_nowhere(tmp_path, "s3cret-word")
