"""What work says of itself while it goes on, and what that tells of the time left. Whoever works calls a `Progress`;
`core/bars.py` draws one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from poise.core.errors import PoiseError

Kind = Literal["training", "evaluation"]
"""Of a stage: what is alike in speed."""
Advance = Callable[[int], None]
"""Is called with the number of units just done."""


class Progress:
    """Says nothing; subclasses draw. May raise Interrupted to stop the work.

    A job has stages, one after the other, and a stage pieces. Costs are forwards of one image through the network.
    """

    evaluations: tuple[str, ...] = ()
    """The checkpoints that are evaluated once a run is trained: whoever will do so says it, as it belongs to the time
    left.
    """

    def expect(self, who: str, kind: Kind, cost: float) -> None:
        """A stage of the job that is still to come."""

    def stage(self, who: str, kind: Kind, cost: float) -> None:
        """A stage begins, expected or not; the one before is over."""

    def spare(self, cost: float) -> None:
        """The stage in progress costs so much less than was thought."""

    def begin(self, what: str, total: int, unit: str, cost: float = 0.0) -> Advance:
        """A piece of work of `total` units begins; returns what is called with the units just done."""
        return lambda done: None

    def note(self, text: str, share: float | None = None) -> None:
        """How the piece in progress stands, in a few words; share: of it that is done, where units don't tell."""

    def end(self) -> None:
        """The piece of work is done."""

    def epoch(self, epoch: int, epochs: int, numbers: Mapping[str, float]) -> None:
        """An epoch is over; numbers are those of its line in metrics.jsonl."""

    def say(self, sentence: str) -> None:
        """Something the user should know."""


class Unbroken(Progress):
    """Another progress, whose output may break while work goes on: a closed pipe, a full disk, a terminal that is gone.

    What cannot be written is left out; everything else that it raises passes.
    """

    def __init__(self, inner: Progress) -> None:
        self.inner, self.evaluations = inner, inner.evaluations

    def expect(self, who: str, kind: Kind, cost: float) -> None:
        with _written():
            self.inner.expect(who, kind, cost)

    def stage(self, who: str, kind: Kind, cost: float) -> None:
        with _written():
            self.inner.stage(who, kind, cost)

    def spare(self, cost: float) -> None:
        with _written():
            self.inner.spare(cost)

    def begin(self, what: str, total: int, unit: str, cost: float = 0.0) -> Advance:
        advance: Advance = lambda done: None  # noqa: E731
        with _written():
            advance = self.inner.begin(what, total, unit, cost)

        def advanced(done: int) -> None:
            with _written():
                advance(done)

        return advanced

    def note(self, text: str, share: float | None = None) -> None:
        with _written():
            self.inner.note(text, share)

    def end(self) -> None:
        with _written():
            self.inner.end()

    def epoch(self, epoch: int, epochs: int, numbers: Mapping[str, float]) -> None:
        with _written():
            self.inner.epoch(epoch, epochs, numbers)

    def say(self, sentence: str) -> None:
        with _written():
            self.inner.say(sentence)


@contextlib.contextmanager
def _written() -> Iterator[None]:
    try:
        yield
    except PoiseError:
        raise
    except (OSError, ValueError):  # ValueError: of a closed file, or a character that the terminal has not
        return


ENOUGH = 2.0
"""Seconds of work from which on its speed is taken for what it will be."""


@dataclass
class Forecast:
    """The time left of a job: what its stages still cost, each at the speed of its kind.

    A piece that has gone on for a while goes at its own speed, whatever its cost was taken for; the rest of its stage
    at the stage's; a stage to come at the last one's of its kind, before there is any at the present one's.
    """

    clock: Callable[[], float] = time.monotonic
    to_come: dict[tuple[str, Kind], float] = field(default_factory=dict)
    over: set[tuple[str, Kind]] = field(default_factory=set)
    speeds: dict[Kind, float] = field(default_factory=dict)
    """Seconds for a cost of one, of the last stage of each kind."""
    begun: float | None = None
    """When the job was."""
    now: tuple[str, Kind] | None = None
    cost: float = 0.0
    """Of the stage in progress; what the pieces over have cost of it, and when it began:"""
    done: float = 0.0
    since: float = 0.0
    at_work: bool = False
    piece: float = 0.0
    """Cost of the piece in progress; the share of it that is done, when that changed last, and when it began:"""
    share: float = 0.0
    changed: float = 0.0
    piece_since: float = 0.0

    def expect(self, who: str, kind: Kind, cost: float) -> None:
        if (who, kind) not in self.over and (who, kind) != self.now:
            self.to_come[who, kind] = cost

    def stage(self, who: str, kind: Kind, cost: float) -> None:
        self.finish()
        self.now, self.cost, self.done, self.since = (who, kind), cost, 0.0, self.clock()
        self.to_come.pop(self.now, None)
        self.begun = self.since if self.begun is None else self.begun

    def finish(self) -> None:
        """The stage in progress is over."""
        self.end()
        if self.now is not None:
            if self.done > 0:
                self.speeds[self.now[1]] = (self.clock() - self.since) / self.done
            self.over.add(self.now)
        self.now, self.cost, self.done = None, 0.0, 0.0

    def spare(self, cost: float) -> None:
        self.cost -= cost

    def begin(self, cost: float) -> None:
        self.end()
        self.at_work, self.piece, self.share, self.piece_since = True, cost, 0.0, self.clock()
        self.changed = self.piece_since
        self.begun = self.piece_since if self.begun is None else self.begun

    def at(self, share: float) -> None:
        """So much of the piece is done."""
        if share > self.share:
            self.share, self.changed = min(share, 1.0), self.clock()

    def end(self) -> None:
        """The piece is over, however much of it was asked for."""
        self.done += self.piece
        self.at_work, self.piece, self.share = False, 0.0, 0.0

    def left(self) -> float | None:
        """Seconds until all is done; None as long as nothing has gone on for long enough to tell."""
        speed = self._speed()
        seconds = self._left_of_piece(speed) if self.at_work else 0.0
        later: list[tuple[Kind, float]] = []
        if self.now is not None:
            later.append((self.now[1], self.cost - self.done - self.piece))
        later.extend((stage[1], cost) for stage, cost in self.to_come.items())
        for kind, cost in later:
            speed_of_kind = speed if self.now is not None and kind == self.now[1] else self.speeds.get(kind)
            speed_used = speed_of_kind if speed_of_kind is not None else speed
            if seconds is None or (cost > 0 and speed_used is None):
                return None
            seconds += max(0.0, cost) * (speed_used or 0.0)
        return seconds

    def _speed(self) -> float | None:
        """Seconds for a cost of one, as far as it is known now."""
        gone, units_asked = self.clock() - self.since, self.done + self.share * self.piece
        if units_asked > 0 and gone >= ENOUGH:
            return gone / units_asked
        last_speed = [*self.speeds.values()][-1:]
        return None if self.now is None else self.speeds.get(self.now[1], *last_speed)

    def _left_of_piece(self, speed: float | None) -> float | None:
        gone = self.changed - self.piece_since
        if self.share > 0 and gone >= ENOUGH:  # what went by since it was last heard of is no longer left
            return max(0.0, (1 - self.share) / self.share * gone - (self.clock() - self.changed))
        return None if speed is None or not self.piece else (1 - self.share) * self.piece * speed

    def whole(self) -> tuple[float, float] | None:
        """(share of the job that is done, seconds left), by time, so that the two never contradict each other."""
        seconds_left = self.left()
        if seconds_left is None or self.begun is None:
            return None
        gone = self.clock() - self.begun
        return gone / (gone + seconds_left) if gone + seconds_left > 0 else 1.0, seconds_left


def clock(seconds: float) -> str:
    """ "48 s", "3:05 min", "2:41 h"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02} min" if whole < 3600 else f"{whole // 3600}:{whole // 60 % 60:02} h"
