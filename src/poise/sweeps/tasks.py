"""A task: a piece of work in JSON, so that any process which sees its folder can do it, with what it needs and how it
is held against others.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.distributed import DistError

from poise import recipes, zoo  # registers the classes that settings name
from poise.core.distributed import RankError, join, leave
from poise.core.errors import Interrupted, LockedError, PoiseError
from poise.core.holding import NODE, TRY, Hold, hold, waiting
from poise.core.imports import import_files
from poise.core.progress import Progress
from poise.core.version import __version__
from poise.engine.runs import Run
from poise.sweeps.ledger import Needs, Outcome, lock_file, note

assert recipes and zoo
PATIENCE = 1800.0
"""Seconds that a task waits for a lock: longer than shared storage keeps those of a machine that is gone."""
_MEETING = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


Work = Callable[[Path, Mapping[str, Any], Progress], Mapping[str, str]]
"""Given the folder, what else there is to know, and whom to tell; all ranks call it together. Returns fields of the
outcome where it is not simply done.
"""


@dataclass(frozen=True)
class Task:
    """folder: of the run that it is about, held while it lasts; call: the `Work` that does it, as module:name of
    Poise's; given: what that is given, as JSON.
    """

    name: str
    folder: str
    call: str
    given: dict[str, Any] = field(default_factory=dict)
    needs: Needs = field(default_factory=Needs)
    imports: dict[str, str] = field(default_factory=dict)
    """Digests by path of the user's own files."""
    patience: float = PATIENCE
    poise: str = __version__

    @property
    def run(self) -> Path:
        return Path(self.folder)

    @property
    def work(self) -> Work:
        """Raises: PoiseError for what is none of Poise's."""
        module, _, name = self.call.partition(":")
        if not module.startswith("poise."):
            raise PoiseError(f"{self.call} is no work of Poise's")
        return getattr(importlib.import_module(module), name)


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
        variables = {NODE: self.node or platform.node(), TRY: str(self.attempt)}
        if self.size == 1:
            return variables
        meeting = (self.rank, self.size, self.local_rank, self.local_size, self.address, self.port)
        return variables | dict(zip(_MEETING, map(str, meeting), strict=True))


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
    clock, used = time.perf_counter(), time.process_time()
    progress = progress if progress is not None else Progress()
    try:
        torch.set_num_threads(task.needs.cpus)
        result = {"state": "done", **_perform(task, progress)}
    except Interrupted as error:
        result = {"state": "interrupted", "reason": str(error)}
    except KeyboardInterrupt:
        result = {"state": "interrupted", "reason": "stopped between two pieces of work"}
    except Exception as error:
        lonely = isinstance(error, DistError)  # torch's own word for a rank that does not answer
        result = {"state": "failed", "reason": _said(error), "cause": "RankError" if lonely else type(error).__name__}
    finally:
        leave()
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    costs = {"seconds": time.perf_counter() - clock, "processor_seconds": time.process_time() - used}
    where: dict[str, Any] = {"node": seat.node or platform.node(), "attempt": seat.attempt}
    outcome = Outcome(task.name, **result, **where, **costs)  # type: ignore[arg-type]
    if seat.rank == 0 and outcome.cause != RankError.__name__:
        note(task.run, outcome)
    return outcome


def _said(error: Exception) -> str:
    """Why a task failed, in a sentence."""
    text = str(error).strip()
    first = text.partition("\n")[0] or type(error).__name__
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
        return f"out of memory: {first}"
    return first if isinstance(error, PoiseError | OSError) else f"{type(error).__name__}: {first}"


def _perform(task: Task, progress: Progress) -> Mapping[str, str]:
    if task.poise != __version__:
        raise PoiseError(f"this machine has Poise {__version__}, and the task is of {task.poise}; install the same")
    _import(task.imports)
    world, work = join(), task.work
    lock = world.led(lambda: _held(task, progress))
    try:
        return work(task.run, task.given, progress)
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
