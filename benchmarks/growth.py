"""How the seconds of an AT step grow with batch, steps of the ascent, width, classes, and processes.

    OMP_NUM_THREADS=1 python -m benchmarks growth [--quick] [--rounds N]

One setting changes at a time; the others stay at the base. All sizes of one setting take turns, so their ratios hold on
a busy machine too. Processes share one batch and sum their gradients (gloo), one thread each; those are seconds on the
clock, of a fresh set of processes for each number, and need as many idle cores.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.measuring import Figure, interleaved, page, ratio, table
from poise.attacks import Ascent
from poise.core.batches import Batch, Now
from poise.core.distributed import World, join, leave
from poise.learners import SGD, Learner, Policy
from poise.models import ResNet20
from poise.objectives import AT

NOW = Now(epoch=1, step=0, epochs=2, steps_per_epoch=2, seed=0)
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Setting:
    """An AT step on a ResNet-20."""

    batch: int = 16
    steps: int = 10
    width: int = 16
    classes: int = 10
    size: int = 32

    def step(self, world: World | None = None) -> Callable[[], object]:
        objective = AT(inner=Ascent(steps=self.steps))
        network = ResNet20(width=self.width).build((3, self.size, self.size), self.classes, seed=0)
        learner = Learner("joint", Policy(objective=objective, optimizer=SGD(learning_rate=0.01)), network)
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(self.batch, 3, self.size, self.size, generator=generator)
        batch = Batch.of(x, torch.randint(self.classes, (self.batch,), generator=generator))
        if world is not None and world.size > 1:
            learner.world = world
            batch = batch.split(-(-self.batch // world.size))[world.rank]
        return lambda: learner.descend(objective, batch, NOW)


BASE, QUICK = Setting(), Setting(batch=4, steps=2, width=4, size=8)
GROWTH: dict[str, tuple[int, ...]] = {
    "batch": (1, 2, 4),
    "steps": (1, 2, 4),
    "width": (1, 2, 4),
    "classes": (1, 10, 20),
}
"""What grows, and by which factors."""
PROCESSES = (1, 2)


def grown(base: Setting, name: str, rounds: int) -> list[list[str]]:
    """A row for every size of one setting; the ratio is to the smallest, round by round."""
    sizes = [getattr(base, name) * factor for factor in GROWTH[name]]
    seconds = interleaved({str(size): replace(base, **{name: size}).step() for size in sizes}, rounds)
    smallest = seconds[str(sizes[0])]
    return [
        [f"{name} {size}", f"{size / sizes[0]:g}", Figure.of(values).text(0, 1000), ratio(values, smallest).text()]
        for size, values in zip(sizes, seconds.values(), strict=True)
    ]


def worker(quick: bool, rounds: int) -> None:
    """One of several processes; the first prints seconds on the clock of each round."""
    torch.set_num_threads(1)
    world = join()
    step = (QUICK if quick else BASE).step(world)
    step()
    for _ in range(rounds):
        world.exchange("ready")
        begun = time.perf_counter()
        step()
        world.exchange("done")
        if world.leads:
            print(f"seconds {time.perf_counter() - begun}", flush=True)
    leave()


def shared(count: int, quick: bool, rounds: int) -> list[float]:
    """Seconds on the clock of a step that `count` processes share. Raises: CalledProcessError where one fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "benchmarks.growth",
        "--worker",
        "--rounds",
        str(rounds),
        *(["--quick"] if quick else []),
    ]
    common = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    started = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    spoken = [process.communicate()[0] for process in started]
    for process in started:
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
    return [float(line.split()[1]) for line in spoken[0].splitlines() if line.startswith("seconds ")]


def processes(quick: bool, rounds: int) -> list[list[str]]:
    alone: Sequence[float] = []
    rows = []
    for count in PROCESSES:
        seconds = shared(count, quick, rounds)
        alone = alone or seconds
        rows.append([f"processes {count}", str(count), Figure.of(seconds).text(0, 1000), ratio(seconds, alone).text()])
    return rows


def main(quick: bool, rounds: int) -> str:
    """Run it and return the page."""
    base = QUICK if quick else BASE
    columns = ["setting", "times as large", "a step, ms", "times the first"]
    shown = f"Base: {', '.join(f'{name} {value}' for name, value in vars(base).items())} pixels; AT on a ResNet-20."
    sections = {
        "Processor seconds": (
            table(columns, [row for name in GROWTH for row in grown(base, name, rounds)]) + f"\n\n{shown}"
        ),
        "Seconds on the clock of processes that share a batch": table(columns, processes(quick, rounds)),
    }
    return page("How a step's cost grows", "python -m benchmarks growth", sections)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    worker(given.quick, given.rounds) if given.worker else print(main(given.quick, given.rounds))
