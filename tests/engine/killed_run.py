"""Trains in child processes that are killed until they have been often enough, then lets one finish.

Run as a script: killed_run.py EXPERIMENT.json OUT KILLS SEED MOMENTS, which are "random", or "writes": the n-th child
then dies before or after its n-th write, one after the other, and one in three stops in a diverged state instead.
Children are forked, so that the import is paid once.
"""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import poise.recipes  # noqa: F401  (registers every class)
from poise.core.errors import Interrupted, NumericalError
from poise.core.progress import Progress
from poise.core.settings import read_file
from poise.engine import Experiment, Run, loop, resume, train
from poise.engine.training import Training
from poise.learners import Learner

STEPS = 4
"""Of an epoch."""
MOMENTS = 41
"""More than an epoch has writes."""


def forked(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    return child


def ended(child: int) -> bool:
    """Whether the child has ended by itself. Raises RuntimeError when it failed."""
    found, status = os.waitpid(child, os.WNOHANG)
    if found and status:
        raise RuntimeError(f"the child ended with status {status}")
    return bool(found)


def written(out: Path) -> int:
    """Lines of metrics: what the run has got to."""
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def dying(at: int, work: Callable[[], object]) -> Callable[[], object]:
    """The work in a process that dies at the moment of this number: before or after a file or folder is synced, or a
    file renamed.
    """
    passed = iter(range(1, at + 1))

    def moment() -> None:
        if next(passed, at) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(call: Callable[..., object]) -> Callable[..., object]:
        def both(*given: object) -> object:
            moment()
            result = call(*given)
            moment()
            return result

        return both

    def begun() -> object:
        os.fsync, os.replace = around(os.fsync), around(os.replace)  # type: ignore[assignment]
        return work()

    return begun


def diverging(at: int, out: Path, work: Callable[[Progress], object]) -> Callable[[], object]:
    """The work in a process in which a weight is NaN after so many steps, when it is asked to stop; nothing of that may
    be saved.
    """
    epochs = loop._epochs  # pyright: ignore[reportPrivateUsage]

    def begun() -> None:
        before = [path.name for path in Run(out).states()]
        learners: dict[str, Learner] = {}

        class Poisoning(Progress):
            left = at

            def begin(self, what: str, total: int, unit: str, cost: float = 0.0) -> Callable[[int], None]:
                return self.advanced

            def advanced(self, done: int) -> None:
                self.left -= 1
                if self.left == 0:
                    with torch.no_grad():
                        next(next(iter(learners.values())).network.parameters()).fill_(torch.nan)
                    signal.raise_signal(signal.SIGTERM)

        def watched(training: Training, until: int | None) -> None:
            learners.update(training.learners)
            epochs(training, until)

        loop._epochs = watched  # pyright: ignore[reportPrivateUsage]
        try:
            work(Poisoning())
        except (Interrupted, NumericalError) as error:  # NumericalError: it was the last step of an epoch
            if "no longer finite" not in str(error):
                raise
        if at < STEPS and [path.name for path in Run(out).states()] != before:
            raise AssertionError("what was saved before was changed")

    return begun


def by_writes(experiment: Experiment, out: Path, kills: int) -> int:
    """Returns how many stopped in a diverged state."""
    diverged = 0

    def go(progress: Progress | None = None) -> None:
        (
            resume(out, progress=progress)
            if (out / "experiment.json").exists()
            else train(experiment, out, progress=progress)
        )

    for number in range(1, kills + 1):
        stops = number % 3 == 0
        work = diverging(1 + number % STEPS, out, go) if stops else dying(1 + number * 7 % MOMENTS, go)
        _, status = os.waitpid(forked(work), 0)
        if status != (0 if stops else signal.SIGKILL):
            raise RuntimeError(f"child {number} ended with status {status}")
        diverged += stops
    _, status = os.waitpid(forked(go), 0)
    if status:
        raise RuntimeError(f"the last child ended with status {status}")
    return diverged


def main(settings: Path, out: Path, kills: int, seed: int, how: str) -> None:
    torch.set_num_threads(1)
    experiment = read_file(Experiment, settings)
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:  # what is imported on first use is imported here, not in every child
        train(dataclasses.replace(experiment, epochs=1, keep_epochs=()), Path(folder) / "first")
        clock = time.perf_counter()
        train(dataclasses.replace(experiment, epochs=2, keep_epochs=()), Path(folder) / "second")
        epoch_seconds = (time.perf_counter() - clock) / 2
    if how == "writes":
        diverged = by_writes(experiment, out, kills)
        print(f"killed {kills} times at writes, of which {diverged} were stops in a diverged state")
        return
    killed = mid_write = 0

    def go() -> None:
        resume(out) if (out / "experiment.json").exists() else train(experiment, out)

    while True:
        child, begun, wanted = forked(go), written(out), moments.choice((0, 1, 1, 2))
        over = False
        while killed < kills and written(out) < begun + wanted and not (over := ended(child)):
            time.sleep(0.001)
        if killed == kills:
            os.waitpid(child, 0)
            break
        at = time.perf_counter() + moments.uniform(0, 1.5 * epoch_seconds)
        while not over and time.perf_counter() < at and not (over := ended(child)):
            time.sleep(0.001)
        if over:
            break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        killed += 1
        mid_write += any(out.rglob(".*.part"))
    print(f"killed {killed} times, {mid_write} of them while a file was written")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
