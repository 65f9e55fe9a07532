"""What an H200 would take by count, for each path: FLOP, bytes and launches of the host, counted on the pretended GPU.

    python -m benchmarks.gpu_counts [--quick]

Counts are of unfused kernels in float32. They are exact for the batch and the steps that the table names, though taken
at one and two
images and steps: each is a sum of parts proportional to neither, to one, or to both. The times are bounds by
arithmetic, no measurements: FLOP at the card's dense bf16 rate, bytes at half of what float32 moves, launches at a
guess of 5 microseconds each.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from benchmarks.measuring import page, table, write
from benchmarks.pretended import Gpu, Tally, pretended_gpu
from poise.attacks import PGD, Ascent, Square
from poise.core.batches import Batch, Now
from poise.learners import SGD, Learner, Policy
from poise.learners.precision import precision
from poise.methods import Generalist
from poise.models import Network, ResNet18, ResNet20
from poise.objectives import AT, MART, NT, TRADES, Objective, SqueezeTraining

FLOPS, BANDWIDTH, LAUNCH = 989e12, 4.8e12, 5e-6
GPU = torch.device("cuda")
NOW = Now(epoch=111, step=110 * 391, epochs=120, steps_per_epoch=391, seed=0)
Path = Callable[[Gpu, Network, int, int, int], tuple[Tally, Tally]]
"""(gpu, network, image size, images, steps) -> what was counted, and of that what a recording repeats by one launch."""


def shown(size: int, images: int) -> Batch:
    return Batch.of(torch.rand(images, 3, size, size, device=GPU), torch.zeros(images, dtype=torch.int64, device=GPU))


def learner(network: Network, size: int, objective: Objective[Any]) -> Learner:
    built = network.build((3, size, size), 10, seed=0).to(GPU)
    return Learner(
        "joint",
        Policy(objective=objective, optimizer=SGD(learning_rate=0.01)),
        built,
        arithmetic=precision("float32", GPU),
    )


def counted(gpu: Gpu, run: Callable[[], object]) -> Tally:
    """Of a second call: the first allocates what is kept."""
    run()
    before = gpu.tally
    run()
    return gpu.tally - before


def training_step(objective: Objective[Any]) -> Path:
    def path(gpu: Gpu, network: Network, size: int, images: int, steps: int) -> tuple[Tally, Tally]:
        inner = getattr(objective, "inner", None)
        asked = objective if inner is None else replace(objective, inner=replace(inner, steps=steps))  # type: ignore[call-overload]
        ours, batch = learner(network, size, asked), shown(size, images)
        crafted = Tally() if inner is None else counted(gpu, lambda: ours.craft(asked, batch, NOW.within("joint")))
        return counted(gpu, lambda: ours.descend(asked, batch, NOW)), crafted

    return path


def generalist_step(gpu: Gpu, network: Network, size: int, images: int, steps: int) -> tuple[Tally, Tally]:
    robust, optimizer = AT(inner=Ascent(steps=steps)), SGD(learning_rate=0.01)
    method = Generalist(
        natural=Policy(objective=NT(), optimizer=optimizer), robust=Policy(objective=robust, optimizer=optimizer)
    )
    batch = shown(size, images)

    def build(name: str, policy: Policy) -> Learner:
        return Learner(
            name, policy, network.build((3, size, size), 10, seed=0).to(GPU), arithmetic=precision("float32", GPU)
        )

    learners = method.learners(build)
    crafted = counted(gpu, lambda: learners["robust"].craft(robust, batch, NOW.within("robust")))
    return counted(gpu, lambda: method.step(learners, dict.fromkeys(learners, batch), NOW)), crafted


def attack(made: Callable[[int], Any]) -> Path:
    def path(gpu: Gpu, network: Network, size: int, images: int, steps: int) -> tuple[Tally, Tally]:
        built, batch = network.build((3, size, size), 10, seed=0).to(GPU).eval(), shown(size, images)
        with torch.no_grad():
            labels = built(batch.x).argmax(1)
        return counted(gpu, lambda: made(steps)(built, batch.x, labels)), Tally()

    return path


PATHS: dict[str, tuple[Path, int, int]] = {
    "AT step": (training_step(AT()), 128, 10),
    "NT step": (training_step(NT()), 128, 1),
    "TRADES step": (training_step(TRADES()), 128, 10),
    "MART step": (training_step(MART()), 128, 10),
    "Squeeze Training step": (training_step(SqueezeTraining()), 128, 10),
    "Generalist step": (generalist_step, 128, 10),
    "PGD-20 of a monitor": (attack(lambda steps: PGD(steps=steps)), 256, 20),
    "Square, 100 queries": (attack(lambda steps: Square(queries=steps)), 256, 100),
}
"""With the images and steps that the table is of."""


def extended(path: Path, network: Network, size: int, images: int, steps: int) -> tuple[Tally, Tally]:
    """The counts at so many images and steps, from those at one and two of each."""
    found = {}
    for few in (1, 2):
        for short in (1, 2):
            with pretended_gpu() as gpu:
                found[few, short] = path(gpu, network, size, few, short)

    def at(part: int, name: str) -> int:
        a, b, c, d = (getattr(found[key][part], name) for key in ((1, 1), (2, 1), (1, 2), (2, 2)))
        return a + (images - 1) * (b - a) + (steps - 1) * (c - a) + (images - 1) * (steps - 1) * (d - b - c + a)

    return tuple(Tally(**{name: at(part, name) for name in vars(Tally())}) for part in (0, 1))  # type: ignore[return-value]


def row(name: str, whole: Tally, recorded: Tally) -> list[str]:
    launches = whole.launches - recorded.launches + (recorded.launches > 0)
    milliseconds = [1000 * seconds for seconds in (whole.flop / FLOPS, whole.bytes / 2 / BANDWIDTH, launches * LAUNCH)]
    counts = [f"{whole.kernels}", f"{launches}", f"{whole.flop / 1e9:.0f}", f"{whole.bytes / 1e9:.1f}"]
    return [name, *counts, *(f"{value:.2f}" for value in milliseconds), f"{max(milliseconds):.2f}"]


def main(quick: bool) -> str:
    network, size = (ResNet20(width=4), 8) if quick else (ResNet18(), 32)
    rows = []
    for name, (path, images, steps) in PATHS.items():
        images, steps = (2, 2) if quick else (images, steps)
        rows.append(row(f"{name}, {images} images", *extended(path, network, size, images, steps)))
    columns = [
        "path",
        "kernels",
        "launches",
        "GFLOP",
        "GB, float32",
        "ms by FLOP",
        "ms by bytes",
        "ms by launches",
        "ms at least",
    ]
    title = "What an H200 would take by count"
    text = page(title, "python -m benchmarks.gpu_counts", {"ResNet-18, 32x32; crafting recorded": table(columns, rows)})
    return text.replace(
        "Every figure is the median (smallest-largest) of its rounds.",
        "Counts and what follows from them, no measurements.",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a toy network: shows that it runs, writes nothing")
    given = parser.parse_args()
    text = main(given.quick)
    print(text)
    if not given.quick:
        print(f"written: {write('gpu_counts', text)}")
