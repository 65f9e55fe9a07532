"""What a step of each of AutoAttack's attacks costs an image, in Poise and in `pyautoattack`, in turn, in one process.

    OMP_NUM_THREADS=1 python -m benchmarks.autoattack_steps --models MODELS --data DATA [--networks NAME] [--rounds N]

The environment needs pyautoattack 0.2.0; MODELS and DATA are those of `autoattack_vs_reference`, whose networks these
are, and the zoo's. Epsilon is so small that no image is broken: every lane is full on both sides to the end, and cut
budgets say what full ones cost. Square's schedule is stretched over its queries on both sides. The total is that of an
image that stands: 101, 909, 900 and 5,000 steps of the standard version. The floor is the reference's own passes
(gradients; gradients and forwards; forwards) done on Poise's search copy at its best number of lanes.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.autoattack_vs_reference import ATTACKS, CASES, network
from benchmarks.measuring import Figure, interleaved, page, ratio, table, write
from poise import load
from poise.attacks.autoattack import AutoAttack
from poise.attacks.autoattack.apgd import APGD
from poise.attacks.autoattack.fab import FAB
from poise.attacks.autoattack.square import Square
from poise.core.modes import crafting
from poise.core.processors import native_bfloat16, processor
from poise.data import CIFAR10, MNIST
from poise.models import surrogate
from poise.threats import Linf

EPSILON = 1e-4
STEPS, TARGETS, QUERIES = 10, 2, 200
DONE: dict[str, int] = dict(zip(ATTACKS, (STEPS + 1, TARGETS * (STEPS + 1), TARGETS * STEPS, QUERIES), strict=True))
"""Steps of each attack for each image here, and in the standard version:"""
FULL: dict[str, int] = dict(zip(ATTACKS, (101, 9 * 101, 9 * 100, 5000), strict=True))
NETWORKS = {"lenet5-adversarial": 250, "lenet5-clean": 250, "resnet20-1": 64, "zoo:at_mnist_slim": 250}
"""With how many images."""
LANES = (32, 64, 128, 256)
MOST, TOTAL, COMPONENT = 0.75, 0.5, 0.9
"""Bars: of a network's total in any case, where its floor allows it, and of each attack."""


def problem(name: str, models: Path, data: Path) -> tuple[nn.Module, Tensor, Tensor]:
    """The network and images that it classifies rightly."""
    net = load(name) if name.startswith("zoo:") else network(models, name)
    mnist = name.startswith("zoo:") or CASES[name][0] == "mnist"
    split = (MNIST() if mnist else CIFAR10()).load(data).test.first(2 * NETWORKS[name])
    x, y = split.pixels(), split.labels
    net.eval().requires_grad_(False)
    right = torch.cat([net(part).argmax(1) for part in x.split(100)]) == y
    return net, x[right][: NETWORKS[name]], y[right][: NETWORKS[name]]


def ours(name: str, net: nn.Module, x: Tensor, y: Tensor, precision: Any) -> None:
    components = {
        "apgd-ce": APGD(steps=STEPS),
        "apgd-t": APGD(loss="targeted_dlr", steps=STEPS, targets=TARGETS),
        "fab-t": FAB(targeted=True, steps=STEPS, targets=TARGETS),
        "square": Square(queries=QUERIES),
    }
    attack = AutoAttack(threat=Linf(epsilon=EPSILON), version="custom", attacks=(components[name],))
    left = attack.run(net, x, y, seed=0, precision=precision).survivors
    assert left == (len(x),), "an image was broken: lanes stood empty"


def theirs(name: str, net: nn.Module, x: Tensor, y: Tensor) -> None:
    from pyautoattack import AutoAttack as Reference  # pyright: ignore[reportMissingImports]

    attack = Reference(net, eps=EPSILON, norm="Linf", seed=0, version="standard")
    made = (attack.apgd, attack.apgd_targeted, attack.fab, attack.square)
    parts: dict[str, Any] = dict(zip(ATTACKS, made, strict=True))
    attack.apgd.n_iter = attack.apgd_targeted.n_iter = attack.fab.n_iter = STEPS
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = TARGETS
    attack.fab.targeted, attack.fab.n_restarts = True, 1
    attack.square.n_queries, attack.square.rescale_schedule = QUERIES, True
    parts[name].seed = 0
    parts[name].perturb(x.clone(), y.clone())  # all at once: its batches are of 250


def passes(net: nn.Module, x: Tensor, bfloat16: bool) -> dict[str, float]:
    """Seconds per image of what the reference asks of the network in one step, on the search copy."""
    with crafting(net, "evaluating"), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        searched = surrogate(net, faster=True)

        def forward(z: Tensor) -> None:
            with torch.no_grad():
                searched(z)

        def gradient(z: Tensor) -> None:
            leaf = z.clone().requires_grad_(True)
            torch.autograd.grad(F.cross_entropy(searched(leaf).float(), labels[: len(z)], reduction="sum"), leaf)

        labels = torch.zeros(max(LANES), dtype=torch.int64)
        least: list[float] = []
        for call in (forward, gradient):
            widths = [width for width in LANES if width <= len(x)] or [len(x)]
            least.append(min(min(_timed(call, x[:width]) for _ in range(7)) / width for width in widths))
    once, back = least
    return {"apgd-ce": back, "apgd-t": back, "fab-t": back + once, "square": once}


def _timed(call: Callable[[Tensor], None], x: Tensor) -> float:
    begun = time.process_time()
    call(x)
    return time.process_time() - begun


def rows(net: nn.Module, x: Tensor, y: Tensor, rounds: int) -> list[list[str]]:
    """One for each attack and one for the total, in each arithmetic."""
    native = native_bfloat16(torch.device("cpu"))
    kinds = ("float32", "bfloat16") if native else ("float32",)
    floors = {kind: passes(net, x, kind == "bfloat16") for kind in kinds}
    totals: dict[str, list[float]] = {kind: [0.0] * rounds for kind in ("theirs", *kinds)}
    lines = []
    for name in ATTACKS:
        contenders: dict[str, Callable[[], object]] = {"theirs": lambda name=name: theirs(name, net, x, y)}
        contenders |= {kind: lambda name=name, kind=kind: ours(name, net, x, y, kind) for kind in kinds}
        seconds = interleaved(contenders, rounds, warmup=0)
        each = {kind: [value / len(x) / DONE[name] for value in values] for kind, values in seconds.items()}
        for kind, values in each.items():
            totals[kind] = [sum + FULL[name] * value for sum, value in zip(totals[kind], values, strict=True)]
        reference = Figure.of(each["theirs"])
        line = [name, f"{reference.median * 1e6:.1f}"]
        for kind in kinds:
            times = ratio(each[kind], each["theirs"])
            floor = floors[kind][name] / reference.median
            line += [f"{times.text()}{'' if times.median <= COMPONENT else ' **missed**'}", f"{floor:.2f}"]
        lines.append(line)
    reference = Figure.of(totals["theirs"])
    line = ["an image that stands", f"{reference.median * 1e6:.0f}"]
    for kind in kinds:
        times = ratio(totals[kind], totals["theirs"])
        floor = sum(FULL[name] * floors[kind][name] for name in ATTACKS) / reference.median
        bar = min(MOST, max(TOTAL, 1.15 * floor))
        line += [f"{times.text()}, bar {bar:.2f} {'met' if times.median <= bar else '**missed**'}", f"{floor:.2f}"]
    return [*lines, line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sections = {"Processor": f"{processor()}. Microseconds are of processor time for an image and a step."}
    for name in args.networks:
        lines = rows(*problem(name, args.models, args.data), args.rounds)
        kinds = [f"{kind}, times" if place == 0 else "floor" for kind in ("float32", "bfloat16") for place in (0, 1)]
        sections[f"{name}, {NETWORKS[name]} images"] = table(["attack", "reference us", *kinds][: len(lines[0])], lines)
        print(sections[f"{name}, {NETWORKS[name]} images"], flush=True)
        command = f"python -m benchmarks.autoattack_steps --networks {' '.join(args.networks)} --rounds {args.rounds}"
        text = page("AutoAttack's steps beside pyautoattack's", command, sections)
        print(f"written so far: {write('autoattack_steps', text)}", flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
