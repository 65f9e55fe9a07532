"""Generalist in one process and in two, beside NT, AT and TRADES: the comparison of Zipper's Table 6, on one machine in
one run.

    OMP_NUM_THREADS=1 python -m benchmarks placement [--quick] [--rounds N]

Two processes of one thread each are started once and stay for all rounds. In each round every contender trains a whole
schedule, shrunk in epochs and batches but not in proportions: redistribution from 62.5 % on, gamma leaving 1 after two
thirds, the global learner made once per epoch as for a validation. Contenders of one process run while the other waits
without working. Seconds are those on the clock, as two processes share the work. NT is there because what Generalist
does is about AT and NT, whose passes, unlike crafting, are in training mode and take gradients of weights: they cost
more than forwards say. What each process sends is counted where torch.distributed is called, on small batches.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.measuring import Figure, page, ratio, table
from poise.core.batches import Now
from poise.core.distributed import ALONE, World, join
from poise.data import CropFlip, Feed, Split
from poise.engine.placement import PlacementName, placed
from poise.engine.ranks import whole_state
from poise.learners import EMA, SGD, Learner, Policy
from poise.methods import Generalist, Joint, Method
from poise.models import DigitsCNN, Network, ResNet18
from poise.objectives import AT, NT, TRADES


@dataclass(frozen=True)
class Setting:
    """A network, its batch, and the schedule: `epochs` of `batches` steps, redistribution every `every` epochs."""

    title: str
    network: Network
    batch: int
    size: int
    epochs: int
    batches: int
    every: int = 1


FULL = Setting("ResNet-18, batch 32, 6 epochs of 1 step", ResNet18(), 32, 32, 6, 1)
QUICK = Setting("DigitsCNN, batch 4, 8x8 images, 6 epochs of 1 step", DigitsCNN(), 4, 8, 6, 1)
ROBUST = Policy(objective=AT(), optimizer=SGD(learning_rate=0.01, weight_decay=3.5e-3), augmentation=CropFlip())
NATURAL = replace(ROBUST, objective=NT(), optimizer=SGD(learning_rate=0.1))


@dataclass(frozen=True)
class Contender:
    """A method on so many processes, placed so."""

    method: Method
    processes: int = 1
    placement: PlacementName = "by-data"


def contenders(setting: Setting) -> dict[str, Contender]:
    """Joint methods keep one average; Generalist keeps that of its global learner and, but for idle learners, of each
    base learner.
    """
    averaged = replace(ROBUST, average=EMA())
    shared: dict[str, Any] = {"batch_size": setting.batch, "redistribute_every": setting.every}
    nested = Generalist(natural=replace(NATURAL, average=EMA()), robust=averaged, **shared)
    idle = Generalist(natural=NATURAL, robust=ROBUST, momentum="reset", **shared)
    at = Joint(policy=averaged, batch_size=setting.batch)
    trades = Joint(policy=replace(averaged, objective=TRADES()), batch_size=setting.batch)
    return {
        "NT": Contender(replace(at, policy=replace(averaged, objective=NT()))),
        "AT": Contender(at),
        "TRADES": Contender(trades),
        "Generalist": Contender(nested),
        "Generalist, idle learners left idle": Contender(idle),
        "Generalist, by learner": Contender(nested, 2, "by-learner"),
        "Generalist, by data": Contender(nested, 2),
        "AT, by data": Contender(at, 2),
        "TRADES, by data": Contender(trades, 2),
    }


class Sent:
    """Bytes that this process handed to torch.distributed, and in how many calls, by what it was doing."""

    def __init__(self) -> None:
        self.doing = ""
        self.calls: dict[str, list[int]] = {}
        for name, position in (("all_reduce", 0), ("all_gather", 1), ("send", 0)):
            setattr(dist, name, self._counted(getattr(dist, name), position))

    def _counted(self, collective: Callable[..., Any], position: int) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if self.doing:
                self.calls.setdefault(self.doing, []).append(args[position].numel() * args[position].element_size())
            return collective(*args, **kwargs)

        return counted


class Trainer:
    """One contender, trained over the whole schedule at every call, each after `prepare`."""

    def __init__(self, contender: Contender, setting: Setting, world: World, sent: Sent | None = None) -> None:
        self.contender, self.setting, self.sent = contender, setting, sent
        self.placement = placed(contender.placement, contender.method, world)
        generator = torch.Generator().manual_seed(1)
        shape = (setting.batches * setting.batch, 3, setting.size, setting.size)
        images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        split = Split(images, torch.randint(10, (len(images),), generator=generator), torch.arange(len(images)))
        self.feeds: dict[str, Feed] = {}
        self.learners: dict[str, Learner] = {}
        for name, stream in contender.method.streams().items():
            if (group := self.placement.group_of_stream(name)) is not None:
                self.feeds[name] = Feed(stream, split, 0, rank=group.rank, world=group.size)

    def prepare(self) -> None:
        """New learners, at their first step."""
        method, setting = self.contender.method, self.setting

        def build(name: str, policy: Policy) -> Learner:
            return Learner(name, policy, setting.network.build((3, setting.size, setting.size), 10, seed=0))

        self.learners = self.placement.local(method.learners(build))

    def __call__(self, epochs: int | None = None) -> None:
        """The whole schedule, or its first `epochs`."""
        method, setting, learners = self.contender.method, self.setting, self.learners
        for step in range((epochs or setting.epochs) * setting.batches):
            now = Now(step // setting.batches + 1, step, setting.epochs, setting.batches, 0)
            opens = isinstance(method, Generalist) and method._redistributes(now, "epoch_start")
            self._doing("a step that redistributes" if opens else "any other step")
            method.step(learners, {name: feed.batch(now) for name, feed in self.feeds.items()}, now)
            if now.step_of_epoch == setting.batches - 1:
                self._doing("a validation")
                method.deployed(learners)
        self._doing("a checkpoint")
        if self.sent is not None:
            whole_state(self.placement, learners)
        self._doing("")

    def _doing(self, what: str) -> None:
        if self.sent is not None:
            self.sent.doing = what

    def times(self) -> dict[str, int]:
        """How often each of what is counted happened in one call."""
        method, setting = self.contender.method, self.setting
        opening = [
            Now(epoch, (epoch - 1) * setting.batches, setting.epochs, setting.batches, 0)
            for epoch in range(1, setting.epochs + 1)
        ]
        opens = sum(isinstance(method, Generalist) and method._redistributes(now, "epoch_start") for now in opening)
        steps = setting.epochs * setting.batches
        return {
            "any other step": steps - opens,
            "a step that redistributes": opens,
            "a validation": setting.epochs,
            "a checkpoint": 1,
        }


def serve(rank: int, folder: Path, quick: bool, rounds: int) -> None:
    """What one of the two processes does; the first one writes what was measured."""
    torch.set_num_threads(1)
    setting = QUICK if quick else FULL
    init = f"file://{folder / 'init'}"
    dist.init_process_group("gloo", init_method=init, rank=rank, world_size=2, timeout=timedelta(hours=2))
    both, sent = join(), Sent()
    found: dict[str, Any] = {"seconds": {}, "sent": {}}
    chosen = contenders(setting)
    trainers = {name: Trainer(each, setting, both if each.processes == 2 else ALONE) for name, each in chosen.items()}
    for number in range(-1, rounds):  # the first one warms up, by an epoch
        for name in list(chosen)[:: 1 if number % 2 == 0 else -1]:
            trainers[name].prepare()
            dist.barrier()
            begun = time.perf_counter()
            if rank == 0 or chosen[name].processes == 2:
                trainers[name](1 if number < 0 else None)
            dist.barrier()
            if number >= 0:
                found["seconds"].setdefault(name, []).append(time.perf_counter() - begun)
    small = replace(setting, batch=4)
    for name, each in contenders(small).items():
        if each.processes == 2:
            sent.calls, trainer = {}, Trainer(each, small, both, sent)
            trainer.prepare()
            trainer()
            times = trainer.times()
            told = {
                what: [sum(sent.calls.get(what, [])) / count, len(sent.calls.get(what, [])) / count]
                for what, count in times.items()
                if count
            }
            found["sent"][name] = both.exchange(json.dumps(told))
    if rank == 0:
        (folder / "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def measured(quick: bool, rounds: int) -> Mapping[str, Any]:
    """Start both processes and read what they found."""
    with tempfile.TemporaryDirectory() as name:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo"),
        }
        command = [sys.executable, "-m", "benchmarks.placement"]
        served = [
            subprocess.Popen([*command, str(rank), name, str(int(quick)), str(rounds)], env=environment)
            for rank in range(2)
        ]
        while any(process.poll() is None for process in served):
            if any(process.poll() for process in served):  # the other one would wait for it
                for process in served:
                    process.terminate()
            time.sleep(0.2)
        if any(process.returncode != 0 for process in served):
            raise SystemExit("a process of the benchmark failed; see above")
        return json.loads((Path(name) / "found.json").read_text())


SERIAL, IDLE = "Generalist", "Generalist, idle learners left idle"
FLOORS = {SERIAL: "26/23 = 1.130", IDLE: "24.0/23 = 1.045", "TRADES": "28/23 = 1.217"}
"""Forwards over those of AT (see `steps`)."""
HOLDS = {SERIAL: "1.17", IDLE: "1.08"}


def one_by_one(seconds: Mapping[str, list[float]], setting: Setting) -> str:
    """What Generalist's learners cost one by one: AT's steps and NT's, the latter only in epochs in which that learner
    isn't idle.
    """
    method = contenders(setting)[IDLE].method
    assert isinstance(method, Generalist)
    moments = [
        Now(epoch, (epoch - 1) * setting.batches, setting.epochs, setting.batches, 0)
        for epoch in range(1, setting.epochs + 1)
    ]
    trained = sum(not method.is_idle("natural", now) for now in moments)
    whole = Figure.of([1 + nt / at for nt, at in zip(seconds["NT"], seconds["AT"], strict=True)])
    part = Figure.of(
        [1 + trained / setting.epochs * nt / at for nt, at in zip(seconds["NT"], seconds["AT"], strict=True)]
    )
    return (
        f"AT and NT one after the other are {whole.text(3)} of AT; with NT in {trained} of {setting.epochs} epochs,"
        f" {part.text(3)}."
    )


def against_at(seconds: Mapping[str, list[float]], setting: Setting) -> str:
    rows = []
    for name, each in seconds.items():
        processes = 2 if ", by " in name else 1
        over = ratio(each, seconds["AT"]).text(3)
        rows.append(
            [
                name,
                processes,
                Figure.of(each).text(2),
                over,
                ratio(each, seconds["TRADES"]).text(3),
                FLOORS.get(name, ""),
            ]
        )
    body = table(["method", "processes", "seconds", "over AT", "over TRADES", "in forwards, over AT"], rows)
    held = [
        f"{name} at most {most}: {'yes' if ratio(seconds[name], seconds['AT']).median <= float(most) else 'NO'}"
        for name, most in HOLDS.items()
    ]
    published = (
        "On one RTX 3090 the paper's Table 6 has TRADES 414, serial 397, parallel 342 minutes: .959 and .826 of TRADES."
    )
    return f"{body}\n\nMust hold, of AT in one process: {'; '.join(held)}.\n{one_by_one(seconds, setting)}\n{published}"


def scaling(seconds: Mapping[str, list[float]]) -> str:
    pairs = {
        "Generalist, by learner": SERIAL,
        "Generalist, by data": SERIAL,
        "AT, by data": "AT",
        "TRADES, by data": "TRADES",
    }
    rows = [[name, ratio(seconds[alone], seconds[name]).text(2)] for name, alone in pairs.items()]
    body = table(["two processes", "times faster than one"], rows)
    return (
        f"{body}\n\nBy learner the robust learner's process is the slower one, so at most 26/23 = 1.13 times; by data"
        " at most 2."
    )


def traffic(sent: Mapping[str, list[str]]) -> str:
    rows = []
    for name, ranks in sent.items():
        for rank, told in enumerate(map(json.loads, ranks)):
            cells = [f"{size / 1024:.1f} ({calls:.1f})" for size, calls in told.values()]
            rows.append([f"{name}, process {rank}", *cells, *[""] * (4 - len(cells))])
    heads = ["KiB (calls) in", "any other step", "a step that redistributes", "a validation", "a checkpoint"]
    if any(len(json.loads(ranks[0])) < 4 for ranks in sent.values()):  # joint methods redistribute nothing
        rows = [[row[0], row[1], "", *row[2:4]] if row[4] == "" else row for row in rows]
    quiet = all(json.loads(told)["any other step"] == [0, 0] for told in sent["Generalist, by learner"])
    held = f"By learner nothing is sent in a step: {'yes' if quiet else 'NO'}."
    said = "A redistribution and a validation are one sum of parameters and floating buffers, and one of counters;"
    last = "for a checkpoint the second process hands over its learner, with momentum and averages."
    return f"{table(heads, rows)}\n\n{held} {said}\n{last}"


def main(quick: bool, rounds: int) -> str:
    """Run it and return the page."""
    found = measured(quick, rounds)
    setting = QUICK if quick else FULL
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    sections = {
        f"A whole schedule of {setting.title}": against_at(found["seconds"], setting),
        "From one process to two, one thread each": scaling(found["seconds"]),
        "What is sent": traffic(found["sent"]),
        "Not measured": (
            f"{gpus} GPU(s) here. Scaling over GPUs and two streams on one (`method.overlap`) are not measured."
        ),
    }
    return page("Generalist in one process and in two", "python -m benchmarks placement", sections)


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "1", int(sys.argv[4]))
