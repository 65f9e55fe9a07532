"""On what the items of `gpu_speed` are timed, and by which clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.measuring import interleaved
from poise.core.batches import Batch, Now
from poise.data import Split
from poise.learners import SGD, Learner, Policy
from poise.learners.compiled import compilation
from poise.learners.precision import PrecisionName, precision
from poise.models import Network
from poise.objectives import Objective

Step = Callable[[], object]
Numbers = dict[str, Any]
NOW = Now(epoch=111, step=110 * 391, epochs=120, steps_per_epoch=391, seed=0)


@dataclass(frozen=True)
class Setting:
    """A network, a batch and a device on which it is timed."""

    network: Network
    batch: int
    device: torch.device
    size: int = 32
    rounds: int = 5
    repeats: int = 3
    """Steps in each round."""

    def model(self) -> nn.Module:
        return self.network.build((3, self.size, self.size), 10, seed=0).to(self.device)

    def split(self) -> Split:
        """Random images of four batches."""
        count = 4 * self.batch
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (count, 3, self.size, self.size), generator=generator, dtype=torch.uint8)
        return Split.of(images, torch.randint(10, (count,), generator=generator)).to(self.device)

    def whole(self) -> Batch:
        split = self.split().first(self.batch)
        return Batch.of(split.pixels(), split.labels)

    def clock(self) -> float:
        """Seconds, once the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def timed(self, contenders: dict[str, Step]) -> dict[str, list[float]]:
        """Seconds a step, in each round. Three warm-up steps: the second compiles, the third is the first that
        counts.
        """

        def several(step: Step) -> Step:
            def run() -> None:
                for _ in range(self.repeats):
                    step()

            return run

        for step in contenders.values():
            for _ in range(3):
                step()
        seconds = interleaved(
            {name: several(step) for name, step in contenders.items()}, self.rounds, warmup=0, clock=self.clock
        )
        return {name: [value / self.repeats for value in values] for name, values in seconds.items()}


def learner(setting: Setting, objective: Objective, said: list[str], name: PrecisionName = "auto") -> Learner:
    arithmetic = precision(name, setting.device)
    policy = Policy(objective=objective, optimizer=SGD(learning_rate=0.01))
    return Learner(
        "joint",
        policy,
        setting.model(),
        arithmetic=arithmetic,
        compilation=compilation("auto", setting.device, said.append),
    )


def no_tf32() -> Any:
    """Strict float32 for the straightforward step."""
    from poise.core.exact import exact

    return exact(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
