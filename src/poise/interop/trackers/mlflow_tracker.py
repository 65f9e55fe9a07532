"""MLflow: a run of an experiment in a local store or on a server."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from poise.core.errors import MissingExtraError, StorageError
from poise.interop.trackers.tracker import Identity, Point, Tracker, plain

_KEY = "poise.run"
"""The tag by which a run is found again."""
_AT_ONCE = 100
_LONGEST = 500


class MLflowTracker(Tracker):
    """At the place, a tracking URI or a folder, else where MLflow's own settings say (MLFLOW_TRACKING_URI); the
    experiment is called poise unless MLFLOW_EXPERIMENT_NAME says otherwise.
    """

    word = "mlflow"
    packages = ("mlflow",)

    def open(self, run: Identity) -> None:
        # else a server that is gone is asked for minutes
        for name, value in (("REQUEST_MAX_RETRIES", "1"), ("REQUEST_TIMEOUT", "20")):
            os.environ.setdefault(f"MLFLOW_HTTP_{name}", value)
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        if self.place.startswith("file:") or "://" not in self.place:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # by plain files, where one says so
        with _told(self.place):
            self._open(run)

    def _open(self, run: Identity) -> None:
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

        local = self.place and "://" not in self.place and not self.place.startswith("file:")
        uri = Path(self.place).expanduser().absolute().as_uri() if local else self.place
        self.client: Any = MlflowClient(uri or None)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "poise")
        experiment = self.client.get_experiment_by_name(name)
        number = self.client.create_experiment(name) if experiment is None else experiment.experiment_id
        there = self.client.search_runs([number], filter_string=f"tags.`{_KEY}` = '{run.key}'")
        if there:
            self.run = there[0].info.run_id
            self.client.set_terminated(self.run, "RUNNING")
        else:
            tags = {_KEY: run.key, "poise.group": run.group}
            self.run = self.client.create_run(number, run_name=run.name, tags=tags).info.run_id
        settings = {plain(name): str(value)[:_LONGEST] for name, value in run.settings.items()}
        missing = [
            (name, text) for name, text in settings.items() if name not in (there[0].data.params if there else {})
        ]
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports]

        for at in range(0, len(missing), _AT_ONCE):
            self.client.log_batch(self.run, params=[Param(*pair) for pair in missing[at : at + _AT_ONCE]])
        tags = self.client.get_run(self.run).data.metrics
        self.steps = {
            tag: {measurement.step for measurement in self.client.get_metric_history(self.run, tag)} for tag in tags
        }

    def known(self) -> Mapping[str, set[int]]:
        return self.steps

    def log(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        now = int(1000 * time.time())
        with _told(self.place):
            for at in range(0, len(points), _AT_ONCE):
                part = points[at : at + _AT_ONCE]
                self.client.log_batch(
                    self.run, metrics=[Metric(plain(tag), value, now, step) for tag, value, step in part]
                )
                for tag, _, step in part:
                    self.steps.setdefault(plain(tag), set()).add(step)

    def results(self, columns: Mapping[str, float], table: str, step: int) -> None:
        with _told(self.place):
            before = self.client.get_run(self.run).data.metrics
            self.log([(tag, value, step) for tag, value in columns.items() if before.get(plain(tag)) != value])
            self.client.set_tag(self.run, "mlflow.note.content", table)

    def page(self, file: Path) -> None:
        with _told(self.place):
            self.client.log_artifact(self.run, str(file))

    def close(self, finished: bool) -> None:
        with _told(self.place):
            self.client.set_terminated(self.run, "FINISHED" if finished else "KILLED")


@contextlib.contextmanager
def _told(place: str) -> Iterator[None]:
    """Raises: StorageError in one sentence, without addresses, which may hold a password."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "mlflow", "mlflow") from None
    except Exception as error:  # of many libraries
        where = "the MLflow store" if "@" in place or not place else f"the MLflow store {place}"
        code = getattr(error, "error_code", None)
        raise StorageError(f"{where} cannot be used ({type(error).__name__}{f', {code}' if code else ''})") from None
