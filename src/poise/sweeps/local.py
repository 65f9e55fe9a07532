"""Tasks on this machine, so many at a time, each in worker processes that outlive it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Self

import torch

from poise.core.errors import Interrupted, RunError
from poise.core.progress import Progress
from poise.engine.signals import stop_requested
from poise.sweeps.engines import Engine, Tally, Told
from poise.sweeps.ledger import Outcome
from poise.sweeps.tasks import Seat, Task, to_data

COMMAND = (sys.executable, "-m", "poise.sweeps.worker")


class Worker:
    """A worker process and the lines that it sends. gpu: the only one that it sees, as CUDA_VISIBLE_DEVICES names
    it.
    """

    def __init__(self, gpu: str | None = None) -> None:
        self.gpu = gpu
        environment = os.environ | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
        # of a process group of its own, so that Ctrl-C at a terminal comes once, by `ask_to_stop`
        self.process = subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, env=environment
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.given, self.sent = self.process.stdin, self.process.stdout
        os.set_blocking(self.sent.fileno(), False)
        self._rest, self._asked = b"", False

    def ask_to_stop(self) -> None:
        """Once: a second signal would end it before it has saved."""
        if not self._asked:
            self._asked = True
            with contextlib.suppress(OSError):
                self.process.send_signal(signal.SIGTERM)

    def give(self, task: Task, seat: Seat) -> None:
        line = json.dumps({"task": to_data(task), "seat": dataclasses.asdict(seat)})
        with contextlib.suppress(BrokenPipeError):  # it is dead, which its pipe will say
            self.given.write(f"{line}\n".encode())
            self.given.flush()

    def messages(self) -> tuple[list[dict[str, object]], bool]:
        """What it has sent since, and whether it lives."""
        data = self.sent.read()
        alive = data is None or data != b""
        *lines, self._rest = (self._rest + (data or b"")).split(b"\n")
        return [json.loads(line) for line in lines], alive

    def end(self, number: signal.Signals | None = None) -> None:
        """Close its input, or send it a signal, and wait for its end."""
        with contextlib.suppress(OSError):
            self.given.close() if number is None else self.process.send_signal(number)
        self.process.wait()
        for pipe in (self.given, self.sent):
            with contextlib.suppress(OSError):
                pipe.close()

    @property
    def ended_by(self) -> str:
        code = self.process.wait()
        return f"its process was killed by {signal.Signals(-code).name}" if code < 0 else f"its process ended ({code})"


@dataclasses.dataclass
class Crew:
    """The workers that do one task together, one for each rank."""

    workers: list[Worker]
    place: int
    attempt: int
    outcomes: dict[int, Outcome] = dataclasses.field(default_factory=dict)


class Local(Engine):
    """`jobs` tasks at a time, each of one process on a GPU of its own where there are as many, else in turn.

    Workers outlive a task, and a `run` inside the engine's context.
    """

    def __init__(self, jobs: int = 1) -> None:
        self.jobs, self._idle, self._depth = jobs, list[Worker](), 0

    def __enter__(self) -> Self:
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        while self._idle and not self._depth:
            self._idle.pop().end()

    def run(self, tasks: Sequence[Task], told: Told, progress: Progress) -> list[Outcome]:
        tally, crews, gpus = Tally(tasks, told), list[Crew](), gpus_here()
        jobs = min([self.jobs, *(room(task.needs.gpus, len(gpus)) for task in tasks if task.needs.gpus)])
        with self, stop_requested() as stop, selectors.DefaultSelector() as selector:
            try:
                while crews or (tally.waiting and not stop):
                    while tally.waiting and len(crews) < jobs and not stop:
                        crews.append(self._begun(tally, crews, gpus, selector))
                    for key, _ in selector.select(timeout=0.5):
                        crew, rank = key.data
                        _heard(crew, rank, tally, progress, selector)
                    for crew in [crew for crew in crews if len(crew.outcomes) == len(crew.workers)]:
                        crews.remove(crew)
                        self._idle += _over(crew, tally, selector)
                    for worker in (worker for crew in crews for worker in crew.workers if stop):
                        worker.ask_to_stop()
            finally:
                for worker in (worker for crew in crews for worker in crew.workers):
                    worker.end()
        stopped_outcomes = [outcome for outcome in tally.outcomes.values() if outcome.state == "interrupted"]
        if stop or stopped_outcomes:
            raise Interrupted("stopped; what was done is saved")
        return tally.all

    def _begun(self, tally: Tally, crews: Sequence[Crew], gpus: Sequence[str], watched: selectors.BaseSelector) -> Crew:
        place, attempt = tally.waiting.popleft()
        task = tally.tasks[place]
        size = task.needs.ranks
        # ranks of a gang see all GPUs, of which each takes that of its number
        gpu = least_used(gpus, [worker.gpu for crew in crews for worker in crew.workers]) if size == 1 else None
        workers = [self._worker(gpu) for _ in range(size)]
        crew, port = Crew(workers, place, attempt), free_port() if size > 1 else 0
        for rank, worker in enumerate(workers):
            watched.register(worker.sent, selectors.EVENT_READ, (crew, rank))
            worker.give(task, Seat("", attempt, rank, size, rank, size, "127.0.0.1" if size > 1 else "", port))
        return crew

    def _worker(self, gpu: str | None) -> Worker:
        """An idle one that sees this GPU, or a new one."""
        worker_idle = next((worker for worker in self._idle if worker.gpu == gpu), None)
        if worker_idle is None:
            return Worker(gpu)
        self._idle.remove(worker_idle)
        return worker_idle


def gpus_here() -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    numbers = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    count = torch.cuda.device_count()
    return numbers[:count] if numbers else [str(number) for number in range(count)]


def room(gpus: float, here: int) -> int:
    """Processes that have so many GPUs each, or a share of one. Raises: RunError for more than there are."""
    if gpus > here:
        raise RunError(f"--gpus {gpus:g}: this machine has {here}")
    return here // int(gpus) if gpus >= 1 else here * int(1 / gpus)


def least_used(gpus: Sequence[str], taken: Sequence[str | None]) -> str | None:
    """The GPU, the first of several, on which fewest of these processes are; None where there is none."""
    return min(gpus, key=taken.count, default=None)


def _heard(crew: Crew, rank: int, tally: Tally, progress: Progress, watched: selectors.BaseSelector) -> None:
    worker, task = crew.workers[rank], tally.tasks[crew.place]
    if worker.sent.closed:  # it was ended with its crew
        return
    messages, alive = worker.messages()
    for message in messages:
        if "say" in message and rank == 0:
            progress.say(f"{task.name}: {message['say']}")
        if isinstance(outcome := message.get("outcome"), dict):
            crew.outcomes[rank] = Outcome(**outcome)
    if alive:
        return
    watched.unregister(worker.sent)
    if rank in crew.outcomes:
        return
    # a gang ends whole: survivors that went on alone would be another run
    why = worker.ended_by
    for number, member in enumerate(crew.workers):
        if number != rank and number not in crew.outcomes:
            member.end(signal.SIGKILL)
        crew.outcomes.setdefault(number, Outcome(task.name, "lost", why, "Lost"))


def _over(crew: Crew, tally: Tally, watched: selectors.BaseSelector) -> list[Worker]:
    """Take down how a task ended; returns the workers that may do another one."""
    for worker in crew.workers:
        with contextlib.suppress(KeyError, ValueError):
            watched.unregister(worker.sent)
    outcomes = [crew.outcomes[rank] for rank in range(len(crew.workers))]
    if any(outcome.state == "lost" for outcome in outcomes):
        why = next(outcome.reason for outcome in outcomes if outcome.state == "lost")
        tally.lost(crew.place, crew.attempt, why)
    else:
        tally.gang_ended(crew.place, crew.attempt, outcomes)
    if len(crew.workers) == 1 and outcomes[0].state in ("done", "paused", "failed"):
        return crew.workers
    for worker in crew.workers:
        worker.end()
    return []


def free_port() -> int:
    """One on which nothing listens on this machine."""
    try:
        with socket.socket() as probe:
            probe.bind(("", 0))
            return int(probe.getsockname()[1])
    except OSError as error:
        raise RunError(f"this machine has no free port for ranks to meet at: {error}") from None
