"""Tasks on SLURM, by submitit: each is a job that is queued, and queued again where it or its node dies.

Tested by submitit's local executor, which runs the same jobs as processes of this machine; not on a SLURM cluster.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from poise.core.errors import Interrupted, MissingExtraError, RunError, SettingsError
from poise.core.progress import Progress
from poise.engine.signals import stop_requested
from poise.sweeps.engines import Engine, Tally, Told
from poise.sweeps.ledger import Outcome
from poise.sweeps.tasks import Seat, Task, of_data, perform, to_data

_POLL = 2.0
LOGS = ".slurm"
"""In the sweep's folder: what submitit and its jobs write."""


def imported() -> Any:
    """submitit. Raises: MissingExtraError."""
    try:
        import submitit  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError("submitit", "slurm") from None
    return submitit


class Job:
    """What a job does; where its time is up, or another one takes its place, it is queued again and goes on."""

    def __call__(self, task: dict[str, Any], attempt: int) -> dict[str, Any]:
        place = imported().JobEnvironment()
        seat = Seat(place.hostname, attempt)
        if place.num_tasks > 1:
            address, port = _meeting(place)
            local = (place.local_rank, place.num_tasks // max(1, place.num_nodes))
            seat = Seat(place.hostname, attempt, place.global_rank, place.num_tasks, *local, address, port)
        return dataclasses.asdict(perform(of_data(task), seat))

    def checkpoint(self, task: dict[str, Any], attempt: int) -> Any:
        """Asked by submitit before a job ends: what is to be queued in its place."""
        return imported().helpers.DelayedSubmission(self, task, attempt + 1)


def _meeting(place: Any) -> tuple[str, int]:
    """Where the ranks of a job meet: at its first node, at a port by its number, which all of them know."""
    digits = "".join(letter for letter in str(place.job_id) if letter.isdigit())
    return place.hostnames[0], 20_000 + int(digits or "0") % 10_000


class OnSlurm(Engine):
    """Jobs of at most `minutes` in a partition. cluster: "local" runs them on this machine, as submitit's own tests
    do.
    """

    def __init__(
        self, partition: str | None = None, minutes: int = 24 * 60, cluster: Literal["slurm", "local"] = "slurm"
    ) -> None:
        self.partition, self.minutes, self.cluster, self.folder = partition, minutes, cluster, Path(LOGS)

    def require(self) -> None:
        imported()

    def check(self, folder: Path, progress: Progress) -> None:
        """Raises: RunError where this machine cannot submit."""
        self.folder = folder / LOGS
        try:
            self._executor()
        except RuntimeError as error:
            raise RunError(f"--on slurm: this machine cannot submit jobs: {str(error).partition(chr(10))[0]}") from None
        progress.say(f"{folder} has to lie on storage that all nodes of the cluster share under the same path")

    def run(self, tasks: Sequence[Task], told: Told, progress: Progress) -> list[Outcome]:
        if bad := next((task for task in tasks if task.needs.gpus != int(task.needs.gpus)), None):
            raise SettingsError(f"gpus = {bad.needs.gpus:g}: must be a whole number on slurm")
        tally, jobs = Tally(tasks, told), dict[int, tuple[Any, int]]()
        executor = self._executor()
        with stop_requested() as stop:
            while (tally.waiting or jobs) and not stop:
                while tally.waiting:
                    place, attempt = tally.waiting.popleft()
                    executor.update_parameters(**self._parameters(tasks[place]))
                    jobs[place] = executor.submit(Job(), to_data(tasks[place]), attempt), attempt
                for place in [place for place, (job, _) in jobs.items() if job.done()]:
                    job, attempt = jobs.pop(place)
                    _take(job, place, attempt, tally)
                if jobs:
                    time.sleep(_POLL if self.cluster == "slurm" else 0.1)
        if stop:
            for job, _ in jobs.values():
                job.cancel()
            raise Interrupted("stopped, and its jobs cancelled; what was saved is whole")
        return tally.all

    def _executor(self) -> Any:
        return imported().AutoExecutor(folder=self.folder, cluster=self.cluster)

    def _parameters(self, task: Task) -> dict[str, Any]:
        needs, partition = task.needs, {"slurm_partition": self.partition} if self.partition else {}
        return {
            "name": "poise",
            "timeout_min": self.minutes,
            "nodes": 1,
            "tasks_per_node": needs.ranks,
            "cpus_per_task": needs.cpus,
            "gpus_per_node": int(needs.gpus * needs.ranks),
            **partition,
        }


def _take(job: Any, place: int, attempt: int, tally: Tally) -> None:
    """Take down how a job ended."""
    not_completed = imported().core.utils.UncompletedJobError
    try:
        outcomes = [Outcome(**outcome_facts) for outcome_facts in job.results()]
    except not_completed as error:
        tally.lost(place, attempt, f"job {job.job_id} is gone: {str(error).strip().partition(chr(10))[0]}")
        return
    except Exception as error:  # before Poise was there
        reason = f"the job cannot do it: {str(error).strip().rpartition(chr(10))[2]}"
        name = tally.tasks[place].name
        tally.ended(place, Outcome(name, "failed", reason, type(error).__name__, attempt=attempt))
        return
    tally.gang_ended(place, attempt, outcomes)
