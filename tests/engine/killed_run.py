"""Trains in a child process that is killed at random moments until it has been killed often enough, then lets it finish.

Run as a script: killed_run.py EXPERIMENT.json OUT KILLS SEED. The children are forked, so that the import is paid once.
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
from poise.core.settings import read_file
from poise.engine import Experiment, resume, train


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


def main(settings: Path, out: Path, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    experiment = read_file(Experiment, settings)
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:  # what is imported on first use is imported here, not in every child
        train(dataclasses.replace(experiment, epochs=1, keep_epochs=()), Path(folder) / "first")
        clock = time.perf_counter()
        train(dataclasses.replace(experiment, epochs=2, keep_epochs=()), Path(folder) / "second")
        epoch_seconds = (time.perf_counter() - clock) / 2
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
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
