"""On paper: how long plans take on so many accelerators, by what their recipes cost, and what then limits it."""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from poise.attacks.autoattack.lanes import multiply_adds
from poise.core.errors import SettingsError
from poise.core.settings import from_json, to_json
from poise.data import CIFAR10, CIFAR100, MNIST, SVHN, DataSource, Digits, TinyImageNet
from poise.engine import Experiment
from poise.engine.monitoring import monitored
from poise.models import Network
from poise.recipes.rows import IMAGES
from poise.reproduce.plan import Plan, Work

TERAFLOPS = 100.0
"""What an accelerator is taken to do in a second, sustained, where nobody says better."""
TEST_IMAGES: dict[type[DataSource], int] = {
    CIFAR10: 10_000,
    CIFAR100: 10_000,
    Digits: 360,
    MNIST: 10_000,
    SVHN: 26_032,
    TinyImageNet: 10_000,
}
_ENOUGH = 0.999


@dataclass(frozen=True)
class Job:
    """A run: floating-point operations, the accelerators that it takes at once, and the jobs that must be over before,
    by their place.
    """

    name: str
    flop: float
    width: int = 1
    after: tuple[int, ...] = ()


@dataclass(frozen=True)
class Schedule:
    """makespan: floating-point operations that one accelerator does until all is over; starts, ends: of each job, the
    same way; chain: the places of the jobs of which each waits for the one before, of those that take longest.
    """

    jobs: Sequence[Job]
    accelerators: int
    makespan: float
    ends: Sequence[float]
    chain: tuple[int, ...]

    @property
    def work(self) -> float:
        return sum(job.flop for job in self.jobs)

    @property
    def length(self) -> float:
        """Of the chain: what no number of accelerators is faster than."""
        return sum(_time(self.jobs[place]) for place in self.chain)

    @property
    def useful(self) -> int:
        """Accelerators beyond which no more of them can help."""
        return math.ceil(self.work / self.length) if self.length else 0


def _time(job: Job) -> float:
    """A gang shares the work of its run evenly."""
    return job.flop / job.width


def scheduled(jobs: Sequence[Job], accelerators: int) -> Schedule:
    """The longest first, each as soon as what it waits for is over and there is room (list scheduling, Graham 1969: at
    most 2 - 1/n times the best for jobs of one accelerator). Raises: SettingsError for a job that needs more.
    """
    if wide := next((job for job in jobs if job.width > accelerators), None):
        raise SettingsError(f"--gpus {accelerators}: {wide.name} trains on {wide.width} at once")
    order = sorted(range(len(jobs)), key=lambda place: -_time(jobs[place]))
    ends, running, free, now = [math.inf] * len(jobs), list[tuple[float, int]](), accelerators, 0.0
    while order:
        for place in list(order):
            job = jobs[place]
            if job.width <= free and all(ends[before] <= now for before in job.after):
                order.remove(place)
                free -= job.width
                ends[place] = now + _time(job)
                heapq.heappush(running, (ends[place], place))
        now, over = heapq.heappop(running)
        free += jobs[over].width
        while running and running[0][0] <= now:
            free += jobs[heapq.heappop(running)[1]].width
    return Schedule(jobs, accelerators, max(ends, default=0.0), ends, _longest(jobs))


def _longest(jobs: Sequence[Job]) -> tuple[int, ...]:
    """The chain of jobs that wait for each other which takes longest."""

    @cache
    def chain(place: int) -> tuple[float, tuple[int, ...]]:
        before = max((chain(place_before) for place_before in jobs[place].after), default=(0.0, ()), key=_length)
        return before[0] + _time(jobs[place]), (*before[1], place)

    return max((chain(place) for place in range(len(jobs))), default=(0.0, ()), key=_length)[1]


def _length(chain: tuple[float, tuple[int, ...]]) -> float:
    """By which the first of equal chains is taken."""
    return chain[0]


def jobs_of(plans: Iterable[Plan]) -> tuple[list[Job], list[str]]:
    """What the plans lack, each run once though several items show it, and the names of those whose number of images
    isn't known.
    """
    works: dict[str, list[Work]] = {}
    for plan in plans:
        for work in plan.missing:
            works.setdefault(str(work.folder), []).append(work)
    works_counted = {
        folder: works_of_folder for folder, works_of_folder in works.items() if _known(works_of_folder[0].experiment)
    }
    place = {folder: number for number, folder in enumerate(works_counted)}
    jobs = []
    for works_of_folder in works_counted.values():
        first = works_of_folder[0]
        width = len(first.experiment.method.policies()) if first.line.by_learner else 1
        sources = dict.fromkeys(str(source) for work in works_of_folder for source in work.sources)
        after = tuple(place[source] for source in sources if source in place)
        jobs.append(Job(f"{first.experiment.name}, seed {first.experiment.seed}", flop(works_of_folder), width, after))
    return jobs, [
        works_of_folder[0].experiment.name for folder, works_of_folder in works.items() if folder not in works_counted
    ]


def _known(experiment: Experiment) -> bool:
    return type(experiment.data) in IMAGES and experiment.data.shape is not None


def flop(works: Sequence[Work]) -> float:
    """Of a run that several pieces of work ask for: training, monitors, and each protocol once. Corruptions, inspection
    and the making of transfer images are not counted.
    """
    first = works[0]
    experiment, forwards_asked = first.experiment, first.forwards if first.state in ("missing", "begun") else 0.0
    if forwards_asked:
        forwards_asked += sum(monitored(experiment, epoch) for epoch in range(1, experiment.epochs + 1)) * _monitoring(
            experiment
        )
    count = _count(experiment, "test")
    checkpoints = 1 if experiment.criterion == "last" else 2
    if any(work.judged for work in works):
        forwards_asked += checkpoints * experiment.protocol.forwards(count)
    protocols = {protocol.name: protocol for work in works for protocol in work.protocols}
    forwards_asked += sum(protocol.forwards(count) for protocol in protocols.values())
    return 2 * _multiply_adds(json.dumps(to_json(experiment.model)), experiment.data.shape) * forwards_asked


def _monitoring(experiment: Experiment) -> float:
    cost = 0.0
    for monitor in experiment.monitors:
        count = _count(experiment, monitor.split)
        images = count if monitor.first is None else min(count, monitor.first)
        cost += images * (1 if monitor.attack is None else 1 + monitor.attack.forwards())
    return cost


def _count(experiment: Experiment, split: str) -> int:
    """Images of a split."""
    data = experiment.data
    train = min(getattr(data, "train_images", None) or math.inf, IMAGES[type(data)])
    if split == "test" or (split == "selection" and experiment.selection == "test"):
        return int(min(getattr(data, "test_images", None) or math.inf, TEST_IMAGES[type(data)]))
    return round(train * experiment.held_out) if split == "selection" else int(train)


@cache
def _multiply_adds(model: str, shape: tuple[int, int, int]) -> int:
    """Of a forward; the number of classes hardly matters."""
    network = from_json(Network, json.loads(model)).blank().build(shape, 10, 0)  # type: ignore[type-abstract]
    return multiply_adds(network.eval(), torch.zeros(1, *shape))


def said(schedule: Schedule, teraflops: float, uncounted: Sequence[str]) -> list[str]:
    """The makespan in words, and what limits it."""
    if not schedule.jobs:
        return ["all is there"]

    def hours(flop: float) -> str:
        return f"{flop / (teraflops * 1e12) / 3600:,.1f} h"

    n, chain = schedule.accelerators, " then ".join(schedule.jobs[place].name for place in schedule.chain)
    busy = schedule.work / (n * schedule.makespan)
    lines = [
        f"{len(schedule.jobs)} runs, {schedule.work / 1e18:,.1f} exaFLOP by their recipes' costs in forwards:"
        f" {hours(schedule.work)} of one accelerator at {teraflops:g} TFLOP/s",
        f"on {n} accelerator{'s' * (n > 1)}: {hours(schedule.makespan)}, busy {100 * busy:.0f} % of the time",
    ]
    if schedule.length >= _ENOUGH * schedule.makespan:
        lines.append(
            f"what limits it: {chain}, {hours(schedule.length)} by itself; about"
            f" {schedule.useful} accelerators would do as well"
        )
    else:
        lines.append(
            f"what limits it: the accelerators; beyond {schedule.useful} of them it would be {chain},"
            f" {hours(schedule.length)} by itself"
        )
    if uncounted:
        names = ", ".join(dict.fromkeys(uncounted))
        lines.append(f"not counted, as their number of images isn't known here: {names}")
    lines.append("not counted: corruptions, inspection, and the making of transfer images")
    return lines
