"""What a run has cost and on what: time and processors over all stretches in which it was trained."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from poise.core.distributed import World
from poise.core.documents import typed
from poise.core.hardware import Hardware, hardware_of, joined
from poise.learners.precision import Precision


@dataclass
class Stretch:
    """Steps `start` and later, trained on these processors, one for each kind among the ranks."""

    start: int
    processors: list[Hardware]


@dataclass
class History:
    """Grows while a run is trained; its facts lie in checkpoints and beside weights.

    Time is that of steps: monitors are not in it, nor what was lost when a process was killed, as nothing is left of
    either.
    """

    seconds: float | None = 0.0
    """Over all stretches and ranks; None where the run was begun by a version that did not keep it."""
    stretches: list[Stretch] = field(default_factory=list)
    _since: float = 0.0

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> History:
        """What a checkpoint's facts say. Raises: ValueError for facts of another type."""
        seconds = typed(float | None, facts.get("training_seconds"), "training_seconds")
        return cls(seconds, typed(list[Stretch], facts.get("stretches", []), "stretches"))

    def facts(self) -> dict[str, Any]:
        return {"training_seconds": self.seconds, "stretches": [asdict(stretch) for stretch in self.stretches]}

    @property
    def processors(self) -> list[Hardware]:
        """Every one that the run has seen; empty where the first steps are of a version that did not keep it."""
        whole = bool(self.stretches) and self.stretches[0].start == 0
        return joined(*(stretch.processors for stretch in self.stretches)) if whole else []

    def begin(self, step: int, processors: Sequence[Hardware]) -> str:
        """A stretch begins; returns a sentence where it is on something else than the one before, else an empty
        text.
        """
        now, before = joined(processors), self.stretches[-1].processors if self.stretches else None
        if now == before:
            return ""
        self.stretches.append(Stretch(step, now))
        if before is None:
            return ""
        return (
            f"goes on with {_listed(now)}; it was trained with {_listed(before)}, so its last bits are not those of the"
            " unbroken run"
        )

    def start_clock(self) -> None:
        self._since = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds since the clock was started or this was called last."""
        now = time.perf_counter()
        elapsed_seconds, self._since = now - self._since, now
        return elapsed_seconds

    def add(self, seconds: float) -> None:
        if self.seconds is not None:
            self.seconds += seconds


def processors_of(world: World, arithmetic: Precision) -> list[Hardware]:
    """What the ranks train on; all of them call this together."""
    texts = world.exchange(json.dumps(asdict(hardware_of(arithmetic.device, arithmetic.name))))
    return [typed(Hardware, json.loads(text)) for text in texts]


def _listed(processors: Sequence[Hardware]) -> str:
    return " and ".join(map(str, processors))
