"""Locks of folders that several processes work in: held by one of them, who is written beside, waited for and never
stolen.

The lock itself is the operating system's, so that one of a process that died is free at once, and one of a machine that
died as soon as the file system finds out.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from poise.core.documents import opened, parse, sealed, typed
from poise.core.errors import LockedError, StorageError
from poise.core.files import read_text, write_text

T = TypeVar("T")
NODE, TRY = "POISE_NODE", "POISE_TRY"
"""Environment variables in which whoever starts a process says the name of its machine and which try it is."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock: a process of a machine, in which try of its task (1: the first), since when (ISO, UTC)."""

    node: str
    pid: int
    attempt: int
    since: str

    @classmethod
    def here(cls) -> Holder:
        """This process."""
        attempt = os.environ.get(TRY, "1")
        return cls(
            os.environ.get(NODE) or platform.node(),
            os.getpid(),
            int(attempt) if attempt.isdecimal() else 1,
            datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @classmethod
    def of(cls, lock: Path) -> Holder | None:
        """Who took the lock last and did not give it back; None where nobody is known."""
        try:
            return typed(cls, opened(parse(read_text(_beside(lock)))))
        except (OSError, ValueError):
            return None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.node}, try {self.attempt}, since {self.since}"


class Hold:
    """A lock that this process holds until `release` or its end."""

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path, self._lock = path, lock

    def release(self) -> None:
        with contextlib.suppress(OSError):
            _beside(self.path).unlink(missing_ok=True)
        self._lock.release()

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def hold(path: Path, what: str, doing: str) -> Hold:
    """Take the lock file `path`, whose folder is made. what, doing: for the errors, such as a run that "is being
    trained".

    Raises: LockedError, which says who has it, StorageError where it cannot be written.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        holder = Holder.of(path)
        holder_text = f"another process ({holder})" if holder is not None else "another process"
        raise LockedError(f"{what} {doing} by {holder_text}; wait for it, or stop it first") from None
    except OSError as error:
        raise StorageError(f"{what} cannot be written to: {error.strerror or error}") from None
    with contextlib.suppress(StorageError):  # who holds it is a help, not a need
        write_text(_beside(path), json.dumps(sealed(asdict(Holder.here()))))
    return Hold(path, lock)


def held(path: Path) -> Holder | None:
    """Who holds the lock file at this moment; None where it is free, or not there."""
    if not path.exists():
        return None
    with contextlib.suppress(Timeout, OSError), FileLock(path).acquire(timeout=0):
        return None
    return Holder.of(path)


def waiting(
    work: Callable[[], T], patience: float, say: Callable[[str], None] = lambda sentence: None, every: float = 1.0
) -> T:
    """The work's result, tried again every so many seconds while another process holds what it needs.

    A lock is never stolen: two processes in one folder would mix their files. Raises: LockedError after `patience`
    seconds.
    """
    until, message = time.monotonic() + patience, ""
    while True:
        try:
            return work()
        except LockedError as error:
            if time.monotonic() >= until:
                raise LockedError(f"{error} (waited {patience:g} s)") from None
            if message != str(error):
                message = str(error)
                say(f"waiting: {error}")
            time.sleep(every)


def _beside(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}.holder")
