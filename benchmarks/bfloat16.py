"""An AT step under bfloat16 autocast beside the same step in float32, in turn, in one process: what `precision=auto`
gains on a CPU.

    OMP_NUM_THREADS=1 python -m benchmarks bfloat16 [--quick] [--rounds N]

The bar stands on processors that compute bfloat16 natively; on others the page says so, and why "auto" is float32
there.
"""

from __future__ import annotations

import torch

from benchmarks.measuring import interleaved, page, ratio, table
from benchmarks.steps import NOW, QUICK, Setting, Step
from poise.core.batches import Batch
from poise.core.processors import bfloat16_gain, processor
from poise.learners import SGD, Learner, Policy
from poise.learners.precision import PrecisionName, precision
from poise.models import ResNet18, ResNet20
from poise.objectives import AT

SETTINGS = (
    Setting("ResNet-20, batch 128", ResNet20(), 128),
    Setting("ResNet-18 of width 16, batch 128", ResNet18(width=16), 128),
)
EMULATED = (
    Setting("ResNet-20, batch 16", ResNet20(), 16),
    Setting("ResNet-18 of width 16, batch 16", ResNet18(width=16), 16),
)
BAR = 1.6
"""Times as fast as float32 on native processors."""


def step(setting: Setting, name: PrecisionName) -> Step:
    """One step of AT with PGD-10 in this arithmetic, on a network of its own."""
    at = AT()
    policy = Policy(objective=at, optimizer=SGD(learning_rate=0.01))
    learner = Learner("joint", policy, setting.model(), arithmetic=precision(name, torch.device("cpu")))
    batch = Batch.of(*setting.images())
    return lambda: learner.descend(at, batch, NOW)


def main(quick: bool, rounds: int) -> str:
    native = bool(processor().bfloat16)
    settings = QUICK if quick else SETTINGS if native else EMULATED
    lines = []
    for setting in settings:
        seconds = interleaved({name: step(setting, name) for name in ("float32", "bfloat16")}, rounds)
        times = ratio(seconds["float32"], seconds["bfloat16"])
        verdict = "not native here" if not native else "met" if times.median >= BAR else "missed"
        lines.append([setting.title, times.text(), verdict])
    found = (
        f"{processor()}: {'native' if native else 'no native'} bfloat16; measured in milliseconds, as `auto` does:"
        f" {bfloat16_gain():.2f}."
    )
    columns = ["network", "times as fast in bfloat16", f"bar {BAR:g}"]
    return page(
        "AT steps in bfloat16", "python -m benchmarks bfloat16", {"Processor": found, "Steps": table(columns, lines)}
    )
