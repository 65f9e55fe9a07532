"""What a run says while it goes on. The engine calls these; the command line draws them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

from poise.core.errors import PoiseError


class Progress:
    """Says nothing; subclasses draw."""

    def begin(self, what: str, total: int, unit: str) -> Callable[[int], None]:
        """A piece of work of `total` units begins; returns what is called with the units just done."""
        return lambda done: None

    def note(self, text: str) -> None:
        """How the work in progress stands, in a few words."""

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
        self.inner = inner

    def begin(self, what: str, total: int, unit: str) -> Callable[[int], None]:
        advance: Callable[[int], None] = lambda done: None  # noqa: E731
        with _written():
            advance = self.inner.begin(what, total, unit)

        def advanced(done: int) -> None:
            with _written():
                advance(done)

        return advanced

    def note(self, text: str) -> None:
        with _written():
            self.inner.note(text)

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
