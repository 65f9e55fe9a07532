"""Times side by side, peaks of memory, and the dated files they are written to."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poise.core.files import write_text

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Figure:
    """A median with the smallest and largest of the values it was taken from."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int = 2, scale: float = 1.0) -> str:
        """`median (low-high)`, each times `scale`."""
        return f"{self.median * scale:.{digits}f} ({self.low * scale:.{digits}f}-{self.high * scale:.{digits}f})"


def interleaved(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Seconds of processor time of each contender in each round (at one thread on a quiet machine: those on the clock).

    clock: another clock, such as one that waits for a GPU.

    All run once per round, one after the other, so that they share whatever disturbs the machine; every other round
    goes backwards, so that none always follows the same neighbour.
    """
    for _ in range(warmup):
        for run in contenders.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in list(contenders)[:: 1 if number % 2 == 0 else -1]:
            begun = clock()
            contenders[name]()
            seconds[name].append(clock() - begun)
    return seconds


def ratio(above: Sequence[float], below: Sequence[float]) -> Figure:
    """The ratio in each round: its median and spread."""
    return Figure.of([a / b for a, b in zip(above, below, strict=True)])


def peak_bytes(run: Callable[[], object]) -> int:
    """The largest number of bytes of tensors alive at one moment of `run`, beyond those alive when it began.

    torch's profiler reports every allocation and release of the CPU allocator; the peak is that of their running sum.
    `run` goes twice and the second time counts, because releases of what was allocated before the profiler began are
    not reported. Workspaces that oneDNN allocates for itself are no tensors and not seen.
    """
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
        with torch.profiler.record_function("measured"):
            run()
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    events: list[Any] = sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    (begun,) = (event.start_ns() for event in events if event.name() == "measured")
    changes = [event.nbytes() for event in events if event.name() == "[memory]" and event.start_ns() >= begun]
    return max(0, *itertools.accumulate(changes))


def machine() -> str:
    """Number of cores, kind of processor, torch's version and threads; the GPU where there is one."""
    import torch

    instructions = torch.backends.cpu.get_cpu_capability()
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return (
        f"{gpu}{os.cpu_count()}-core {platform.machine().replace('_', '-')} CPU with {instructions}, "
        f"torch {torch.__version__.split('+')[0]}, {torch.get_num_threads()} thread(s)"
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; the first column is text, the others are aligned right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def page(title: str, command: str, sections: Mapping[str, str]) -> str:
    """The text of one benchmark's results."""
    day = datetime.date.today().isoformat()
    head = (
        f"# {title}\n\n{day}; `{command}`; {machine()}.\nEvery figure is the median (smallest-largest) of its rounds.\n"
    )
    return "\n".join([head, *(f"## {heading}\n\n{body}\n" for heading, body in sections.items())])


def chip() -> str:
    """The machine's short name for files: the GPU's, else cores and processor."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()}-core {platform.machine()}"
    return "-".join(re.findall(r"[a-z0-9]+", name.lower()))


def write(name: str, text: str, folder: Path = RESULTS) -> Path:
    """Write the results of today's run of benchmark `name` on this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{datetime.date.today().isoformat()}-{name}-{chip()}.md"
    path.write_text(text)
    return path


class Kept:
    """What is known so far of a sitting in several calls, in a file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    def keep(self, name: str, value: Any) -> None:
        self.known[name] = value
        write_text(self.file, json.dumps(self.known, indent=1))
