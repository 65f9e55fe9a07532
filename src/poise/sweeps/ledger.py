"""What lies on disk of a sweep: `plan.json`, and beside every run a file of its tries. Read without torch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from poise.core.documents import line_of, lines_in, opened, parse, sealed, typed
from poise.core.errors import RunError
from poise.core.files import append_line, read_text, write_text

PLAN = "plan.json"
State = Literal["done", "paused", "failed", "interrupted", "lost"]
"""How a try ended. paused: at the epoch that was asked for; lost: with its process or machine."""


@dataclass(frozen=True)
class Point:
    """One run of a sweep. name: of its folder; configuration: the same without the seed; differs: its settings that
    others have otherwise, in words; experiment: all its settings as JSON.
    """

    name: str
    configuration: str
    differs: dict[str, str]
    seed: int
    epochs: int
    experiment: dict[str, Any]


@dataclass(frozen=True)
class Halving:
    """Synchronous successive halving: at each epoch of `rungs` the share `keep` of the configurations, by the monitor
    `by`, goes on.
    """

    rungs: list[int]
    keep: str
    by: str

    @property
    def share(self) -> Fraction:
        return Fraction(self.keep)


@dataclass(frozen=True)
class Needs:
    """What each run needs, whatever engine it runs on: ranks that train it together, and of each rank the processor
    cores, which are its threads (so they are part of what makes its bits), and the accelerators.
    """

    ranks: int = 1
    cpus: int = 1
    gpus: float = 0.0


@dataclass(frozen=True)
class Plan:
    """A sweep as it was asked for; nothing of it changes when it goes on."""

    poise: str
    started: str
    points: list[Point]
    needs: Needs = field(default_factory=Needs)
    halving: Halving | None = None
    evaluate: bool = True
    device: str = "auto"
    data_dir: str | None = None
    imports: list[str] = field(default_factory=list)

    def write(self, folder: Path) -> Path:
        return write_text(folder / PLAN, json.dumps(sealed(asdict(self)), indent=1))

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """Raises: RunError where there is none, or it is damaged."""
        try:
            return typed(cls, opened(parse(read_text(folder / PLAN))))
        except FileNotFoundError:
            raise RunError(f"{folder} is no sweep: it has no {PLAN}") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{folder / PLAN} is damaged: {error}") from None


@dataclass(frozen=True)
class Outcome:
    """How a try of a task ended. seconds: from its beginning; processor_seconds: of its process, of several ranks the
    first one's; cause: the class of what was raised; result: the file that was asked for.
    """

    name: str
    state: State
    reason: str = ""
    cause: str = ""
    node: str = ""
    attempt: int = 1
    seconds: float = 0.0
    processor_seconds: float = 0.0
    result: str = ""

    @property
    def whole(self) -> bool:
        return self.state in ("done", "paused")


def tries_file(run: Path) -> Path:
    """Beside the run's folder, as that is not there before training begins."""
    return run.with_name(f"{run.name}.tries")


def lock_file(run: Path) -> Path:
    """Of whoever trains or evaluates the run as a task."""
    return run.with_name(f"{run.name}.lock")


def note(run: Path, outcome: Outcome) -> None:
    """Write how a try ended."""
    run.parent.mkdir(parents=True, exist_ok=True)
    append_line(tries_file(run), line_of(asdict(outcome)))


def tries(run: Path) -> list[Outcome]:
    """All that are over, the last one last; damaged lines are left out."""
    entries, _ = lines_in(tries_file(run))
    return list(_typed(entries))


def _typed(entries: Iterable[dict[str, Any]]) -> Iterable[Outcome]:
    for entry in entries:
        with contextlib.suppress(ValueError):
            yield typed(Outcome, entry)
