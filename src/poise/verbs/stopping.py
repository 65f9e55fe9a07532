"""Work that a signal ends, with the sentence that says how to go on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from poise.core.distributed import going_on, join
from poise.core.errors import Interrupted
from poise.core.progress import Advance, Kind, Progress
from poise.engine.signals import stop_requested


class Stoppable(Progress):
    """The progress of what is done to `title`. Once `signals` are there it ends the work, saying that `command` goes
    on.
    """

    def __init__(self, progress: Progress, title: str, command: str, signals: Sequence[int]) -> None:
        self.progress, self.title, self.command, self.signals = progress, title, command, signals

    def stage(self, who: str, kind: Kind, cost: float) -> None:
        self.progress.stage(who or self.title, kind, cost)

    def spare(self, cost: float) -> None:
        self.progress.spare(cost)

    def begin(self, what: str, total: int, unit: str, cost: float = 0.0) -> Advance:
        advance = self.progress.begin(what, total, unit, cost)

        def and_stop(done: int) -> None:
            advance(done)
            self._stop()

        return and_stop

    def note(self, text: str, share: float | None = None) -> None:
        self.progress.note(text, share)
        self._stop()

    def end(self) -> None:
        self.progress.end()

    def say(self, sentence: str) -> None:
        self.progress.say(f"{self.title}: {sentence}")

    def _stop(self) -> None:
        if self.signals:
            raise Interrupted(f"stopped, with what was found kept; to go on: {self.command}")


@contextlib.contextmanager
def stoppable(progress: Progress, title: str, command: str) -> Iterator[Stoppable]:
    """The progress of an evaluation that `command` goes on with, options aside, if a signal or another rank's end
    stops it.
    """
    hint = f"what was finished is kept, and as many ranks go on with it: {command}, with the same options"
    try:
        with going_on(hint), stop_requested() as signals:
            same = "the same options" if join().size == 1 else "the same options and as many ranks"
            yield Stoppable(progress, title, f"{command}, with {same}", signals)
    finally:
        progress.end()
