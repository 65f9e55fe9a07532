"""Generalist (Wang & Wang 2023; "Zipper" in its first version), Algorithm 1: two base learners folded into a global one.

The global learner theta_g <- a' theta_g + (1 - a') (gamma theta_r + (1 - gamma) theta_n) is linear in its parts, so each base
learner keeps its own share of it in an accumulator, and theta_g is their sum.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Literal

from torch import nn

from poise.core import papers
from poise.core.batches import Batch, Now
from poise.core.settings import PositiveCount, UnitInterval, settings
from poise.learners import EMA, SGD, Learner, Metrics, PiecewiseLinear, Policy, Schedule
from poise.learners.averages import Weights, load_weights, warmed_up
from poise.methods.method import Build, Method
from poise.objectives import AT, NT


@settings
class Generalist(Method):
    """A natural and a robust base learner, each with its own policy; the global learner mixes their paths and re-initialises them."""

    paper = papers.GENERALIST
    natural: Policy = Policy(objective=NT(), optimizer=SGD(learning_rate=0.1, weight_decay=5e-4), schedule=PiecewiseLinear(), average=EMA())
    robust: Policy = Policy(
        objective=AT(), optimizer=SGD(learning_rate=0.01, weight_decay=3.5e-3), schedule=PiecewiseLinear(), average=EMA()
    )
    """The learners' own averages, if any, are what is mixed ("WA on both" of Fig. 3a); None mixes raw weights (Algorithm 1)."""
    batch_size: PositiveCount = 128
    gamma: Schedule = PiecewiseLinear(values=(1, 1, 1, 0.5))
    """Share of the robust learner in the mix."""
    decay: UnitInterval = 0.999
    """alpha' of the global average, per step; 0 turns averaging off (Table 8)."""
    decay_warmup: bool = True
    """Limit alpha' to (s + 1) / (s + 10) at step s."""
    redistribute_from: UnitInterval = 0.625
    """t' as a fraction of the run's epochs: 75 of 120."""
    redistribute_every: PositiveCount = 5
    """c in epochs."""
    redistribute: Literal["epoch_start", "after_first_step", "every_step", "never"] = "epoch_start"
    """When in a redistribution epoch; the released code does it after every step."""
    momentum: Literal["kept", "reset"] = "kept"
    """What redistribution does to the optimizers' state."""

    def policies(self) -> dict[str, Policy]:
        return {"natural": self.natural, "robust": self.robust}

    def learners(self, build: Build) -> dict[str, Learner]:
        learners = {name: build(name, policy) for name, policy in self.policies().items()}
        learners["natural"].begin("global", share=0.0)
        learners["robust"].begin("global", share=1.0)  # the sum of the shares is theta_0
        return learners

    def step(self, learners: Mapping[str, Learner], batches: Mapping[str, Batch], now: Now) -> Metrics:
        if self._redistributes(now, "epoch_start"):
            self._redistribute(learners)

        metrics: Metrics = {}
        for name, policy in self.policies().items():  # theta_n, then theta_r
            metrics |= learners[name].descend(policy.objective, batches[name], now)

        decay = warmed_up(self.decay, now.step) if self.decay_warmup else self.decay
        gamma = self.gamma.value(now)
        for name, weight in (("natural", 1 - gamma), ("robust", gamma)):
            learners[name].accumulate("global", decay, learners[name].averaged, weight)

        if self._redistributes(now, "after_first_step") or self._redistributes(now, "every_step"):
            self._redistribute(learners)
        return metrics

    def deployed(self, learners: Mapping[str, Learner]) -> nn.Module:
        network = copy.deepcopy(learners["robust"].network)
        load_weights(network, self.global_weights(learners))
        return network

    def global_weights(self, learners: Mapping[str, Learner]) -> Weights:
        """theta_g: the sum of the learners' shares; integer buffers are the robust learner's."""
        natural, robust = (learners[name].accumulators["global"] for name in ("natural", "robust"))
        return {name: share + natural[name] if share.is_floating_point() else share for name, share in robust.items()}

    def _redistributes(self, now: Now, when: str) -> bool:
        """Whether theta_r and theta_n become theta_g at this moment of this epoch."""
        if when != self.redistribute or (when != "every_step" and now.step_of_epoch != 0):
            return False
        return now.epoch >= self.redistribute_from * now.epochs - 1e-9 and now.epoch % self.redistribute_every == 0

    def _redistribute(self, learners: Mapping[str, Learner]) -> None:
        weights = self.global_weights(learners)
        for learner in learners.values():
            learner.load(weights, reset_momentum=self.momentum == "reset")
