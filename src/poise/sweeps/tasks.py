"""A task: one run to be trained and evaluated, or one evaluation, in JSON, so that any process which sees the folder
can do it.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from poise import recipes, zoo  # registers the classes that settings name
from poise.core.distributed import RankError, World, join, leave
from poise.core.errors import Interrupted, LockedError, PoiseError
from poise.core.holding import NODE, TRY, Hold, hold, waiting
from poise.core.imports import import_files
from poise.core.progress import Progress
from poise.core.settings import from_json
from poise.core.version import __version__
from poise.engine import Experiment, Run, finished, train_or_resume
from poise.evaluation import Protocol
from poise.evaluation.columns import Searching
from poise.sweeps.ledger import Needs, Outcome, lock_file, note
from poise.verbs.corruptions import corruptions
from poise.verbs.evaluate import evaluate

assert recipes and zoo
PATIENCE = 1800.0
"""Seconds that a task waits for a lock: longer than shared storage keeps those of a machine that is gone."""
_MEETING = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Task:
    """experiment: settings as JSON, trained as far as `until`; None where the run in `folder` is only evaluated.

    evaluate: whether the finished run is evaluated by its own protocol; protocols: as JSON, by which else; asked: what
    `poise.evaluate` is given instead of all these. corrupted: a folder of corrupted images; place: how its ranks are
    placed is the experiment's.
    """

    name: str
    folder: str
    needs: Needs = field(default_factory=Needs)
    experiment: dict[str, Any] | None = None
    until: int | None = None
    evaluate: bool = True
    protocols: list[dict[str, Any]] = field(default_factory=list)
    corrupted: str | None = None
    asked: dict[str, Any] = field(default_factory=dict)
    device: str = "auto"
    data_dir: str | None = None
    imports: dict[str, str] = field(default_factory=dict)
    """Digests by path of the user's own files."""
    patience: float = PATIENCE
    poise: str = __version__

    @property
    def run(self) -> Path:
        return Path(self.folder)


@dataclass(frozen=True)
class Seat:
    """Where a try of a task runs: on which node, as which rank of how many, and where these meet."""

    node: str = ""
    attempt: int = 1
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    address: str = ""
    port: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """As torchrun says it."""
        named = {NODE: self.node or platform.node(), TRY: str(self.attempt)}
        if self.size == 1:
            return named
        meeting = (self.rank, self.size, self.local_rank, self.local_size, self.address, self.port)
        return named | dict(zip(_MEETING, map(str, meeting), strict=True))


def perform(task: Task, seat: Seat = Seat(), progress: Progress | None = None) -> Outcome:
    """Do the task in this process, as one of its ranks if it has several, and say how it ended; whatever is raised is
    the outcome's reason.

    The first rank writes the outcome beside the run.
    """
    before = {name: os.environ.get(name) for name in (*_MEETING, NODE, TRY)}
    if seat.size > 1 or task.needs.ranks == 1:
        for name in _MEETING:
            os.environ.pop(name, None)
    os.environ.update(seat.environment)
    clock, used, cause = time.perf_counter(), time.process_time(), ""
    progress = progress if progress is not None else Progress()
    try:
        torch.set_num_threads(task.needs.cpus)
        _perform(task, progress)
        state, reason = ("done" if task.experiment is None or finished(Run(task.run)) else "paused"), ""
    except Interrupted as error:
        state, reason, cause = "interrupted", str(error), "Interrupted"
    except KeyboardInterrupt:
        state, reason, cause = "interrupted", "stopped between two pieces of work", "Interrupted"
    except Exception as error:
        state, reason, cause = "failed", _said(error), type(error).__name__
    finally:
        leave()
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    spent = {"seconds": time.perf_counter() - clock, "processor_seconds": time.process_time() - used}
    node = seat.node or platform.node()
    outcome = Outcome(task.name, state, reason, cause, node, seat.attempt, **spent)  # type: ignore[arg-type]
    if seat.rank == 0 and cause != RankError.__name__:
        note(task.run, outcome)
    return outcome


def _said(error: Exception) -> str:
    """Why a task failed, in a sentence."""
    text = str(error).strip()
    first = text.partition("\n")[0] or type(error).__name__
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
        return f"out of memory: {first}"
    return first if isinstance(error, PoiseError | OSError) else f"{type(error).__name__}: {first}"


def _perform(task: Task, progress: Progress) -> None:
    if task.poise != __version__:
        raise PoiseError(f"this machine has Poise {__version__}, and the task is of {task.poise}; install the same")
    _import(task.imports)
    world = join()
    lock = world.led(lambda: _held(task, progress))
    try:
        _worked(task, world, progress)
    finally:
        if lock is not None:
            lock.release()


def _held(task: Task, progress: Progress) -> Hold:
    """The lock of the task; that of its run is free once this has returned."""

    def both() -> Hold:
        lock = hold(lock_file(task.run), task.folder, "is being worked on")
        try:
            if (task.run / ".lock").exists():
                Run(task.run).lock().release()
        except LockedError:
            lock.release()
            raise
        return lock

    return waiting(both, task.patience, progress.say)


def _worked(task: Task, world: World, progress: Progress) -> None:
    how: dict[str, Any] = {"device": task.device, "data_dir": task.data_dir, "progress": progress}
    if task.experiment is None:
        asked = dict(task.asked)
        search = Searching(**asked.pop("search", {}))
        evaluate(asked.pop("asked"), search=search, **asked, **how)
        return
    experiment = from_json(Experiment, task.experiment)
    run = train_or_resume(experiment, task.run, imports=task.imports, until=task.until, **how)
    if not world.decided(task.evaluate and finished(run)):
        return
    for which in ("selected", "last"):
        evaluate(run, checkpoint=which, **how)
    for protocol in task.protocols:
        evaluate(run, protocol=from_json(Protocol, protocol), **how)
    if task.corrupted is not None:
        corruptions(run, Path(task.corrupted), **how)


_IMPORTED: dict[str, str] = {}


def _import(files: Mapping[str, str]) -> None:
    """Execute the user's files, each once in a process. Raises: SettingsError for one that is not as it was."""
    for path, digest in files.items():
        if _IMPORTED.get(path) != digest:
            _IMPORTED.update(import_files([Path(path)]))
        if _IMPORTED[path] != digest:
            raise PoiseError(f"{path} is not the file on this machine that it is where the sweep was started")


def to_data(task: Task) -> dict[str, Any]:
    return dataclasses.asdict(task)


def of_data(data: Mapping[str, Any]) -> Task:
    return Task(**{**data, "needs": Needs(**data["needs"])})
