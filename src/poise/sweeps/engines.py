"""Where tasks run: what every engine does alike, and which one a word means."""

from __future__ import annotations

import collections
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from poise.core.errors import SettingsError, did_you_mean
from poise.core.progress import Progress
from poise.sweeps.ledger import Outcome, note
from poise.sweeps.tasks import Task

TRIES = 3
"""How often a task is begun whose process or machine dies."""
Told = Callable[[Outcome], None]


class Engine(ABC):
    """Runs tasks, each in a process of its own kind, and starts those again whose process or machine dies; a context
    around its use.
    """

    def __enter__(self) -> Self:
        """Connect to what it needs, for several `run`s."""
        return self

    def __exit__(self, *_: object) -> None:  # noqa: B027  not every engine connects to something
        """Part from it."""

    def require(self) -> None:  # noqa: B027  not every engine needs a library
        """Before anything is written. Raises: MissingExtraError where the engine's library is missing."""

    def check(self, folder: Path, progress: Progress) -> None:  # noqa: B027
        """Before any work. Raises: RunError where `folder` is not seen by all machines."""

    @abstractmethod
    def run(self, tasks: Sequence[Task], told: Told, progress: Progress) -> list[Outcome]:
        """How each task ended, in their order; `told` hears of each as it ends.

        Raises: PoiseError for what keeps all of them from running, before any work; Interrupted after SIGINT or
        SIGTERM, with everything saved.
        """


@dataclass
class Tally:
    """Which tasks wait, in which try, and how the others ended."""

    tasks: Sequence[Task]
    told: Told
    tries: int = TRIES
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    waiting: collections.deque[tuple[int, int]] = field(default_factory=collections.deque)
    """(place of the task, number of the try)"""

    def __post_init__(self) -> None:
        self.waiting.extend((place, 1) for place in range(len(self.tasks)))

    def ended(self, place: int, outcome: Outcome) -> None:
        self.outcomes[place] = outcome
        self.told(outcome)

    def lost(self, place: int, attempt: int, why: str, node: str = "") -> None:
        """The process or machine of a try is gone: the task waits again, unless it was tried often enough."""
        task = self.tasks[place]
        outcome = Outcome(task.name, "lost", why, "Lost", node, attempt)
        note(task.run, outcome)
        if attempt < self.tries:
            self.told(outcome)
            self.waiting.append((place, attempt + 1))
        else:
            self.ended(place, replace(outcome, state="failed", reason=f"{why}, in all {attempt} tries"))

    def gang_ended(self, place: int, attempt: int, outcomes: Sequence[Outcome]) -> None:
        """All ranks of a task have said how they ended; where one only waited in vain for another, that one is gone."""
        outcomes_own = [outcome for outcome in outcomes if outcome.cause not in ("RankError", "RefusedError")]
        bad = next((outcome for outcome in outcomes_own if not outcome.whole), None)
        if bad is None and len(outcomes_own) < len(outcomes):
            self.lost(place, attempt, next(result.reason for result in outcomes if result not in outcomes_own))
        else:
            self.ended(place, bad or outcomes[0])

    @property
    def all(self) -> list[Outcome]:
        return [self.outcomes[place] for place in range(len(self.tasks))]


def engine_of(on: str | Engine | None, jobs: int = 1) -> Engine:
    """The engine that a word means: none (here, `jobs` at a time), "ray", "ray=ADDRESS", "slurm" or "slurm=PARTITION".

    Raises: SettingsError.
    """
    if isinstance(on, Engine):
        return on
    if jobs < 1:
        raise SettingsError(f"jobs = {jobs}: must be at least 1")
    if on is None:
        from poise.sweeps.local import Local

        return Local(jobs)
    if jobs != 1:
        raise SettingsError(f"--jobs {jobs} is of this machine; on {on} as many run at a time as there is room for")
    kind, _, where = on.partition("=")
    if kind == "ray":
        from poise.sweeps.on_ray import OnRay

        return OnRay(where or None)
    if kind == "slurm":
        from poise.sweeps.on_slurm import OnSlurm

        return OnSlurm(where or None)
    hint = did_you_mean(kind, ("ray", "slurm"))
    raise SettingsError(f"--on {on}: must be ray, ray=ADDRESS, slurm or slurm=PARTITION{hint}")
