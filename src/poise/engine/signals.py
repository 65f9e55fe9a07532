"""SIGINT and SIGTERM ask training to stop after the step in progress (several ranks: after the epoch), an evaluation after the round."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def stop_requested() -> Iterator[list[int]]:
    """A list that is non-empty once SIGINT or SIGTERM has come; a second signal ends the process at once."""
    received: list[int] = []
    found: dict[int, Any] = {}

    def note(number: int, frame: object) -> None:
        received.append(number)
        for each in found:
            signal.signal(each, signal.SIG_DFL)

    with contextlib.suppress(ValueError):  # not the main thread: signals are somebody else's business
        for number in (signal.SIGINT, signal.SIGTERM):
            found[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in found.items():
            signal.signal(number, handler)
