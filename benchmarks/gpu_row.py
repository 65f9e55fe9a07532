"""A row trained within minutes, archived as fp16, and AutoAttack on the archived weights."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_archive
from poise import recipes
from poise.attacks import APGD, AutoAttack, Square
from poise.core.errors import Interrupted
from poise.core.exact import exact
from poise.core.progress import Progress
from poise.engine import Experiment, Run, resume, train
from poise.engine.checkpoints import facts_file
from poise.engine.devices import choose_device
from poise.engine.loop import finished
from poise.evaluation import Protocol
from poise.evaluation.predictions import accuracy, predict
from poise.recipes.rows import redistributing
from poise.threats import Linf


class Said(Progress):
    """Sentences and epochs as lines of text."""

    def __init__(self) -> None:
        self.begun = time.perf_counter()

    def say(self, sentence: str) -> None:
        print(f"  {time.perf_counter() - self.begun:6.1f} s  {sentence}", flush=True)

    def epoch(self, epoch: int, epochs: int, numbers: Mapping[str, float]) -> None:
        shown = {name: numbers[name] for name in numbers if name.startswith("monitor/") or name == "images_per_second"}
        self.say(f"epoch {epoch}/{epochs}  " + "  ".join(f"{name} {value:.4g}" for name, value in shown.items()))


def row(toy: bool) -> Experiment:
    """Generalist on CIFAR-10 in 30 epochs, monitored on 1,000 images every ten, by the fastest kernels."""
    epochs, images = (2, 20) if toy else (30, 1000)
    made = recipes.experiment("generalist_digits" if toy else "generalist_cifar10_resnet18", quick=toy)
    data = dataclasses.replace(made.data, train_images=60, test_images=40) if toy else made.data
    return dataclasses.replace(
        made,
        name="gpu_first",
        data=data,
        method=redistributing(made.method, epochs=epochs),
        epochs=epochs,
        monitors=tuple(dataclasses.replace(monitor, first=images) for monitor in made.monitors),
        monitor_every=2 if toy else 10,
        save_every=2 if toy else 5,
        deterministic=False,
        protocol=Protocol(),
        published=None,
        also_published=(),
    )


@contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Training is asked to stop, as by SIGTERM, when the time is over; it then saves and raises Interrupted.

    Before its first step and after its last one there is nothing to save: Interrupted is raised at once.
    """

    def outside(number: int, frame: object) -> None:
        raise Interrupted(f"stopped after {seconds:g} s, outside of training's steps")

    before = signal.signal(signal.SIGTERM, outside)
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)


def train_row(out: Path, data: Path | None, device: str, seconds: float, toy: bool) -> Run:
    """Train, or go on, for so long; what is there is archived."""
    path = out / "run"
    common: dict[str, Any] = {"device": device, "data_dir": data, "progress": Said()}
    try:
        with stopped_after(seconds):
            if not (path / "experiment.json").exists():
                train(row(toy), path, **common)
            elif not finished(Run.open(path)):
                resume(path, **common)
    except Interrupted as stop:
        print(f"{stop}\nrun the same command again")
    run = Run.open(path)
    if facts_file(run.weights_path("selected")).exists():
        for file in gpu_archive.write(run, "selected", out / "archive"):
            print(f"{file.name} {file.stat().st_size / 2**20:.1f} MiB")
    return run


def attack_row(run: Run, out: Path, data: Path | None, device: str, seconds: float, toy: bool) -> dict[str, Any]:
    """AutoAttack on 1,000 images, of the archived weights in float32 without TF32; begun again it goes on."""
    if not (out / "archive" / "selected.json").exists():
        return {"epochs": "no epoch was monitored yet; run the same command again"}
    experiment, network, facts = gpu_archive.read(out / "archive", "selected")
    place, begun = choose_device(device), time.perf_counter()
    test = experiment.data.load(data).test
    test = test.first(min(1000, len(test)))
    network = network.to(place)
    threat = Linf(epsilon=0.2 if toy else 8 / 255)
    attack = (
        AutoAttack(threat=threat, version="custom", attacks=(APGD(steps=3), Square(queries=5)))
        if toy
        else AutoAttack(threat=threat)
    )
    found: dict[str, Any] = {
        "epoch": facts["epoch"],
        "natural": f"{100 * accuracy(predict(network, test, 500), test):.2f} %",
    }

    def progress(report: Any) -> None:
        if time.perf_counter() - begun > seconds:
            raise Interrupted(
                f"stopped in {report.attack}, {report.survivors} of {len(test)} images left; run the same command again"
            )

    x, y = test.pixels().to(place), test.labels.to(place)
    try:
        result = attack.run(
            network, x, y, ids=test.ids, precision="auto", state_path=out / "autoattack.safetensors", progress=progress
        )
    except Interrupted as stop:
        return found | {"AutoAttack": str(stop)}
    with torch.no_grad(), exact(place):
        again = torch.cat([network(part.to(place)).argmax(1).cpu() for part in result.x_adv.split(500)])
    gpu_archive.record(out / "archive", "selected", again, test.ids)
    return found | {
        f"AutoAttack on {len(test)} images": f"{100 * accuracy(again, test):.2f} %",
        "verdicts that changed when asked again": int((again != result.predicted).sum()),
        "survivors": ", ".join(f"{name} {left}" for name, left in zip(result.attacks, result.survivors, strict=True)),
        "seconds of AutoAttack": f"{sum(result.seconds):.0f}",
    }
