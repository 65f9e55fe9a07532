"""SIGINT, SIGTERM and SIGHUP ask for a stop: of training after the step in progress (of several ranks after the epoch),
of an evaluation after the round."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

_HANG_UP: int | None = getattr(signal, "SIGHUP", None)


@contextlib.contextmanager
def stop_requested() -> Iterator[list[int]]:
    """A list that is non-empty once a signal to stop has come; a second one ends the process at once.

    A terminal that is closed sends SIGHUP more than once, so its second ends nothing; under nohup there is none.
    """
    numbers: list[int] = []
    handlers: dict[int, Any] = {}

    def note(number: int, frame: object) -> None:
        numbers.append(number)
        for signal_number in handlers:
            signal.signal(signal_number, signal.SIG_IGN if signal_number == _HANG_UP else signal.SIG_DFL)

    with contextlib.suppress(ValueError):  # not the main thread: signals are somebody else's business
        for number in (signal.SIGINT, signal.SIGTERM, _HANG_UP):
            if number is not None and not (number == _HANG_UP and signal.getsignal(number) is signal.SIG_IGN):
                handlers[number] = signal.signal(number, note)
    try:
        yield numbers
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
