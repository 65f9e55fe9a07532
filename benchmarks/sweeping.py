"""What an engine costs beyond the runs themselves: a hundred tiny runs one after another in this process, by workers of
this machine, and on Ray.

    python -m benchmarks sweeping [--quick] [--rounds N]

Processor seconds are of all processes: this one, its workers, and what Ray starts. Without ray its rows are left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.measuring import Figure, page, table
from poise.attacks import PGD, Ascent
from poise.core.progress import Progress
from poise.data import Digits
from poise.engine import Experiment, Monitor
from poise.learners import Policy
from poise.methods import Joint
from poise.objectives import AT
from poise.sweeps.engines import Engine
from poise.sweeps.ledger import Outcome
from poise.sweeps.local import Local
from poise.sweeps.planning import planned
from poise.sweeps.sweep import begin, task_of
from poise.sweeps.tasks import perform
from poise.threats import Linf

RUNS = 100
TINY = Experiment(
    name="tiny",
    data=Digits(train_images=60, test_images=20),
    method=Joint(
        policy=Policy(objective=AT(inner=Ascent(threat=Linf(epsilon=0.1), step_size=0.1, steps=1))), batch_size=30
    ),
    epochs=1,
    monitors=(Monitor(), Monitor(name="pgd-2", attack=PGD(steps=2))),
)
_TICKS = os.sysconf("SC_CLK_TCK")


def used(root: int) -> float:
    """Processor seconds of a process, its living descendants and those that they have waited for."""
    stats: dict[int, tuple[int, float]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                stats[int(entry.name)] = int(fields[1]), sum(map(int, fields[11:15])) / _TICKS
    family, total = {root}, 0.0
    while True:
        more = {pid for pid, (parent, _) in stats.items() if parent in family} - family
        if not more:
            break
        family |= more
    for pid in family:
        total += stats.get(pid, (0, 0.0))[1]
    return total


@dataclasses.dataclass(frozen=True)
class Cost:
    """start: seconds on the clock until a first run was done, less that run's own; seconds: on the clock, for all
    others; processor: seconds of all processes for these; own: those of the runs themselves.
    """

    start: float
    seconds: float
    processor: float
    own: float


def measured(engine: Callable[[], contextlib.AbstractContextManager[Any]], folder: Path, runs: int) -> Cost:
    """`runs` tiny runs, after one more that waits for the engine's start."""
    plan = planned([TINY], {}, runs + 1)
    begin(plan, folder, new=True)
    tasks = [task_of(dataclasses.replace(plan, evaluate=False), point, folder) for point in plan.points]
    clock = time.perf_counter()
    with engine() as made:
        (first,) = made.run(tasks[:1], _unheard, Progress())
        start, clock, before = time.perf_counter() - clock - first.seconds, time.perf_counter(), used(os.getpid())
        outcomes = made.run(tasks[1:], _unheard, Progress())
        seconds, processor = time.perf_counter() - clock, used(os.getpid()) - before
    assert all(outcome.whole for outcome in (first, *outcomes)), [outcome.reason for outcome in outcomes]
    return Cost(start, seconds, processor, sum(outcome.processor_seconds for outcome in outcomes))


def _unheard(outcome: Outcome) -> None:
    """Nobody looks."""


class Plain(Engine):
    """No engine: this process, one run after the other."""

    def run(self, tasks: Any, told: Any, progress: Any) -> list[Outcome]:
        return [perform(task) for task in tasks]


@contextlib.contextmanager
def on_ray() -> Iterator[Any]:
    """A node of two processors, begun and ended here."""
    import ray  # pyright: ignore[reportMissingImports]

    from poise.sweeps.on_ray import OnRay

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20)
    try:
        with OnRay() as engine:
            yield engine
    finally:
        ray.shutdown()


def main(quick: bool, rounds: int) -> str:
    """Run it and return the page."""
    runs = 3 if quick else RUNS
    engines: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
        "no engine, one after another": Plain,
        "this machine, --jobs 1": Local,
        "this machine, --jobs 2": lambda: Local(2),
    }
    with contextlib.suppress(ImportError):
        import ray  # pyright: ignore[reportMissingImports]

        assert ray
        engines["Ray, two processors"] = on_ray
    costs: dict[str, list[Cost]] = {name: [] for name in engines}
    for number in range(rounds):
        for name in list(engines)[:: 1 if number % 2 == 0 else -1]:
            with tempfile.TemporaryDirectory() as folder:
                costs[name].append(measured(engines[name], Path(folder) / "s", runs))
    plain = costs["no engine, one after another"]
    rows = [
        [
            name,
            Figure.of([cost.start for cost in found]).text(1),
            Figure.of([1000 * (cost.processor - cost.own) / runs for cost in found]).text(0),
            Figure.of([cost.processor / own.processor for cost, own in zip(found, plain, strict=True)]).text(),
            Figure.of([cost.seconds / own.seconds for cost, own in zip(found, plain, strict=True)]).text(),
        ]
        for name, found in costs.items()
    ]
    columns = [
        "engine",
        "seconds to start",
        "milliseconds of the processor per run beyond the run",
        "processor, over no engine",
        "clock, over no engine",
    ]
    each = Figure.of([cost.own / runs for cost in plain]).text()
    body = (
        table(columns, rows) + f"\n\n{runs} runs of {each} processor seconds each, after a first that starts workers."
    )
    return page("Engines of sweeps", "python -m benchmarks sweeping", {"Overhead": body})
