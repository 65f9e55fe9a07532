"""What a run says while it goes on. The engine calls these; the command line draws them."""

from __future__ import annotations

from collections.abc import Callable, Mapping


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
