"""What a process of the study does: the next piece of work that nobody else is at, until none is left or it is told to
stop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import torch
from filelock import FileLock, Timeout

from experiments.cifar10.design import Unit
from experiments.cifar10.evaluation import evaluated, inspected
from experiments.cifar10.pilot import pilot
from experiments.cifar10.place import Place
from experiments.cifar10.training import trained, trunk_of
from poise.core.errors import Interrupted
from poise.engine.signals import stop_requested

PROCESSES = 2


def work(place: Place, only_evaluations: bool = False) -> None:
    """One process: pieces of work in the study's order. A signal ends it with everything saved."""
    torch.set_num_threads(1)
    with contextlib.suppress(Interrupted), stop_requested() as signals:
        while not signals and step(place, signals, only_evaluations):
            pass


def step(place: Place, signals: Sequence[int], only_evaluations: bool) -> bool:
    """Do one piece of work; whether there was one. Raises: Interrupted once a signal has come."""
    precision = None if only_evaluations else place.arithmetic()
    if precision is not None and (place.rates is None or place.precision is None):
        with held(place, "pilot") as mine:
            if not mine:
                time.sleep(1)  # the other process is at it, and nothing can be trained before
                return True
            if place.rates is None:
                pilot(place, precision)
            place.decide("arithmetic", {"precision": precision})
        return True
    for unit in place.planned:
        if place.done(unit) or (place.facts(unit) is None and (precision is None or waits(place, unit))):
            continue
        trunk = trunk_of(unit)
        with held(place, unit.name) as mine, held(place, trunk.name if trunk is not None else "") as free:
            if mine and free and not place.done(unit):
                one(place, unit, signals)
                return True
    return False


def waits(place: Place, unit: Unit) -> bool:
    """Whether a further seed of a beta waits until seed 0 has shown which betas the curve has."""
    return place.betas is None and unit.seed > 0 and unit.row.beta not in (None, 1.0)


def one(place: Place, unit: Unit, signals: Sequence[int]) -> None:
    """Train the run, or, where it is trained, evaluate it once."""
    if place.facts(unit) is None:
        with place.timed(unit.name, "training"):
            trained(place, unit)
        place.fix_betas()
    elif missing := place.missing(unit):
        with place.timed(unit.name, f"{missing[0][0]}-{missing[0][1]}"):
            evaluated(place, unit, *missing[0], signals=signals)
    else:
        with place.timed(unit.name, "sanity"):
            inspected(place, unit)


@contextlib.contextmanager
def held(place: Place, name: str) -> Iterator[bool]:
    """Whether nobody else is at this piece of work, and nobody will be meanwhile; without a name always."""
    if not name:
        yield True
        return
    lock = FileLock(place.runs / f".{name}.lock")
    place.runs.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def run(arguments: Sequence[str], processes: int = PROCESSES, patience: float = 60.0) -> int:
    """Processes of one thread at the lowest priority; SIGINT and SIGTERM are handed on, again every minute until all
    have ended.

    arguments: of `python -m experiments.cifar10 work`. Returns the largest exit status.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = ["nice", "-n", "19", sys.executable, "-m", "experiments.cifar10", "work", *arguments]
    with stop_requested() as signals:
        begun = [subprocess.Popen(command, env=environment, start_new_session=True) for _ in range(processes)]
        told = 0.0
        while any(process.poll() is None for process in begun):
            if signals and time.monotonic() - told > patience:
                told = time.monotonic()
                for process in begun:
                    if process.poll() is None:
                        process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
    return max(process.returncode for process in begun)
