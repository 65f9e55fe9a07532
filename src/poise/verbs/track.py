"""Runs shown in the programs where users look at curves: as they go on, or afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from poise.core.documents import digest_of_content
from poise.core.errors import Interrupted, RunError, SettingsError
from poise.core.files import check_writable
from poise.core.holding import Hold, held, hold
from poise.core.progress import Progress
from poise.core.records import EvaluationRecord
from poise.core.settings import to_json
from poise.engine.callbacks import Callback
from poise.engine.loop import finished
from poise.engine.runs import Run
from poise.engine.signals import stop_requested
from poise.interop.trackers import Identity, Tracker, tracker
from poise.interop.trackers.tracker import Point, plain
from poise.reports import read_runs, table, to_markdown, write_report

PREFIXES = {"loss/": "train/loss/", "watch/": "train/watch/", "monitor/": "val/", "learning_rate/": "lr/"}
NAMES = {
    "epoch": "epoch",
    "images_per_second": "images/per_second",
    "training_seconds": "time/training_seconds",
    "monitor_seconds": "time/monitor_seconds",
}


def tag_of_metric(name: str) -> str:
    """The standard tag of a number in metrics.jsonl: train/, val/, lr/, time/, images/; all else is train/."""
    if name in NAMES:
        return NAMES[name]
    return next(
        (f"{tag}{name.removeprefix(prefix)}" for prefix, tag in PREFIXES.items() if name.startswith(prefix)),
        f"train/{name}",
    )


def points_of(line: Mapping[str, Any]) -> list[Point]:
    """The numbers of a line of metrics.jsonl, at its step."""
    numbers = {name: value for name, value in line.items() if type(value) in (int, float) and name != "step"}
    return [(plain(tag_of_metric(name)), float(value), int(line["step"])) for name, value in numbers.items()]


class Tracking(Callback):
    """Brings what a run's folder says to a tracker, and nothing twice.

    An epoch is put down once a checkpoint holds it, so that none that is trained again after a break is there double;
    what is missing there is added whenever it is called, so that a break leaves no gap.
    """

    def __init__(self, to: str | Tracker) -> None:
        self.tracker = tracker(to) if isinstance(to, str) else to
        self.run: Run | None = None
        self.hold: Hold | None = None

    def epoch(self, run: Run, line: Mapping[str, Any]) -> None:
        self.bring(run)

    def evaluation(self, run: Run, record: EvaluationRecord) -> None:
        self.bring(run)

    def end(self, run: Run) -> None:
        try:
            self.bring(run)
            self._results(run)
        finally:
            self.close(finished(run))

    def bring(self, run: Run) -> int:
        """Put down what is there and was not put down yet; returns of how many epochs."""
        self._open(run)
        tags_known, last = self.tracker.known(), _safe_step(run)
        lines = [line for line in run.metrics() if line.get("step", 0) <= last]
        points = [point for line in lines for point in points_of(line)]
        new = [(tag, value, step) for tag, value, step in points if step not in tags_known.get(tag, ())]
        if new:
            self.tracker.log(new)
        return len({step for _, _, step in new})

    def _results(self, run: Run) -> None:
        """The record's columns, in [0, 1], and the page."""
        try:
            run_list = read_runs(run.path)
        except RunError:  # it was not evaluated yet
            return
        columns = {
            plain(f"record/{name}/{column}"): value
            for name, record in run_list[0].records.items()
            for column, value in columns_of(record).items()
        }
        step = max((line["step"] for line in run.metrics()), default=0)
        self.tracker.results(columns, to_markdown(table(run_list)), step)
        self.tracker.page(write_report([run.path], run.path / "report.html"))

    def _open(self, run: Run) -> None:
        if self.run is not None and self.run.path == run.path:
            return
        if self.run is not None:
            self.close(finished(self.run))
        word, place = self.tracker.word, self.tracker.place
        mark = f"{word}-{digest_of_content(place)[:6]}" if place else word
        self.hold = hold(run.path / f".track-{mark}.lock", str(run.path), f"is being tracked to {word}")
        try:
            self.tracker.open(identity(run))
        except BaseException:
            self.hold.release()
            raise
        self.run = run

    def close(self, done: bool) -> None:
        if self.run is not None:
            self.run = None
            try:
                self.tracker.close(done)
            finally:
                if self.hold is not None:
                    self.hold.release()


def columns_of(record: EvaluationRecord) -> dict[str, float]:
    """Accuracies in [0, 1] by column: natural, each attack, and the worst case."""
    accuracies = {name: record.accuracy(name) for name in record.attack_names}
    worst = {"worst case": record.worst_case_accuracy} if accuracies else {}
    return {"natural": record.natural_accuracy, **accuracies, **worst}


def identity(run: Run) -> Identity:
    """The run as trackers know it: its key is of all that it was started with."""
    about, experiment = run.about, run.experiment
    name = f"{run.path.resolve().parent.name}-{run.name}" if run.name.startswith("seed-") else run.name
    key = digest_of_content(about)[:16]
    settings = dict(_flat(to_json(experiment), ""))
    return Identity(plain(name), key, run.path, run.group, experiment.seed, settings)


def _flat(data: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(data, dict | list) and data:
        items = data.items() if isinstance(data, dict) else enumerate(data)
        return [pair for name, item in items for pair in _flat(item, f"{path}.{name}" if path else str(name))]
    return [(path, "none" if data is None else data if isinstance(data, int | float | str) else str(data))]


def _safe_step(run: Run) -> int:
    """The last step that no break can take back."""
    if finished(run):
        return max((line.get("step", 0) for line in run.metrics()), default=0)
    return max((int(path.name.removeprefix("step-")) for path in run.states()), default=0)


def track(
    run: Run | str | Path,
    to: str | Tracker,
    *,
    follow: bool = True,
    every: float = 5.0,
    progress: Progress | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> int:
    """Bring a run to a tracker: what is there of it, and while another process trains it what comes; returns of how
    many epochs.

    to: "tensorboard", "mlflow" or "wandb", with a place behind a colon. follow: wait for what comes; every: seconds
    between two looks. Raises: MissingExtraError, SettingsError, RunError, StorageError; Interrupted after a signal.
    """
    if not every > 0:
        raise SettingsError(f"every = {every:g}: must be more than 0 seconds")
    tracking = Tracking(to)
    run = Run.open(run) if not isinstance(run, Run) else run
    check_writable(run.path / "report.html")
    progress, runs_brought = progress or Progress(), 0
    with stop_requested() as signals:
        try:
            while True:
                going = held(run.path / ".lock") is not None  # asked first, so that the last epoch is not missed
                runs_brought += tracking.bring(run)
                if not (follow and going) or finished(run) or signals:
                    break
                progress.note(f"{runs_brought} epochs")
                pause(every)
        except RunError:
            tracking.close(False)
            raise
        tracking.end(run)
        if signals:
            raise Interrupted(f"stopped after {runs_brought} epochs; the same command goes on")
    return runs_brought
