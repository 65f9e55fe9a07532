"""A process that does one task after the other: `python -m poise.sweeps.worker`, a line of JSON in for each, lines of
JSON out.

It ends when nobody is left who gives it work; a task in progress is then asked to stop and saves its state.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from typing import IO, Any

from poise.core.errors import PoiseError
from poise.core.progress import Progress
from poise.sweeps.tasks import Seat, of_data, perform


class Reported(Progress):
    """What a run says while it goes on, as lines for whoever started it."""

    def __init__(self, out: IO[str]) -> None:
        self.out = out

    def epoch(self, epoch: int, epochs: int, numbers: Mapping[str, float]) -> None:
        values = [
            f"{name.removeprefix('monitor/')} {100 * value:.2f} %"
            for name, value in numbers.items()
            if name.startswith("monitor/")
        ]
        self.say("  ".join([f"epoch {epoch}/{epochs}", *values]))

    def say(self, sentence: str) -> None:
        send(self.out, {"say": sentence})


def send(out: IO[str], message: Mapping[str, Any]) -> None:
    """Raises: OSError where nobody listens any more."""
    out.write(f"{json.dumps(message)}\n")
    out.flush()


def main() -> None:
    # what libraries print must not come between the lines
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put("")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=read, daemon=True).start()
    try:
        while line := lines.get():
            data = json.loads(line)
            outcome = perform(of_data(data["task"]), Seat(**data["seat"]), Reported(out))
            send(out, {"outcome": dataclasses.asdict(outcome)})
            if outcome.state == "interrupted":
                break
    except (KeyboardInterrupt, BrokenPipeError, PoiseError):
        pass
    os._exit(0)  # threads of libraries may not end


if __name__ == "__main__":
    main()
