"""An evaluation drawn as progress, and ended by a signal with the sentence that says how to go on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from poise.core.distributed import going_on, join
from poise.core.errors import Interrupted
from poise.engine.progress import Progress
from poise.engine.signals import stop_requested
from poise.evaluation.columns import Watch
from poise.evaluation.predictions import Advance


class Shown(Watch):
    """Draws an evaluation as progress; `title` says whose. Once `signals` are there it ends it, saying that `command`
    goes on.
    """

    def __init__(self, progress: Progress, title: str, command: str, signals: Sequence[int]) -> None:
        self.progress, self.title, self.command, self.signals = progress, title, command, signals

    def begin(self, name: str, count: int) -> Advance:
        advance = self.progress.begin(f"{self.title}: {name}", count, "images")

        def and_stop(done: int) -> None:
            advance(done)
            self._stop()

        return and_stop

    def note(self, text: str) -> None:
        self.progress.note(text)
        self._stop()

    def say(self, sentence: str) -> None:
        self.progress.say(f"{self.title}: {sentence}")

    def _stop(self) -> None:
        if self.signals:
            raise Interrupted(f"stopped, with what was found kept; to go on: {self.command}")


@contextlib.contextmanager
def shown(progress: Progress, title: str, command: str) -> Iterator[Shown]:
    """The watch of an evaluation that `command` goes on with, options aside, if a signal or another rank's end stops
    it.
    """
    hint = f"what was finished is kept, and as many ranks go on with it: {command}, with the same options"
    try:
        with going_on(hint), stop_requested() as signals:
            same = "the same options" if join().size == 1 else "the same options and as many ranks"
            yield Shown(progress, title, f"{command}, with {same}", signals)
    finally:
        progress.end()
