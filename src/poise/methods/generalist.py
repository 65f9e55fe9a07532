"""Generalist (Wang & Wang 2023; "Zipper" in its first version), Algorithm 1: base learners folded into a global one.

The global learner theta_g <- a' theta_g + (1 - a') (gamma theta_r + (1 - gamma) theta_n) is linear in its parts, so
each base learner keeps its own share of it in an accumulator, and theta_g is their sum: a local one, or one collective
where the base learners are spread over ranks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

import torch
from torch import nn

from poise.core import papers
from poise.core.batches import Batch, Now
from poise.core.errors import SettingsError
from poise.core.settings import Name, PositiveCount, Settings, UnitInterval, newer, settings
from poise.learners import EMA, SGD, Constant, Learner, Metrics, PiecewiseLinear, Policy, Schedule
from poise.learners.averages import Weights, warmed_up, with_weights
from poise.methods.idle import idle_epochs, moments
from poise.methods.method import Build, Method
from poise.methods.overlap import side_by_side
from poise.objectives import AT, NT

PAIR = ("natural", "robust")
TAKEN = (*PAIR, "global", "tradeoff", "best", "bound", "deviation", "distance", "cosine")
"""No names of further learners: metrics and diagnoses have them for the pair, the global learner, regrets and geometry.
"""


@settings
class BaseLearner(Settings):
    """A base learner beyond the natural and the robust one (the paper's |A| > 2), with its own share of the mix."""

    transparent = "policy"
    name: Name = "third"
    policy: Policy = Policy(objective=AT())
    share: Schedule = Constant(at=0.25)
    """Weight in the mix; what all shares leave over is divided between robust and natural by gamma."""

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name in TAKEN:
            names_taken = f"{', '.join(map(repr, TAKEN[:-1]))} and {TAKEN[-1]!r}"
            raise SettingsError(f"BaseLearner.name = {self.name!r}: must be one word other than {names_taken}")


@settings
class Generalist(Method):
    """A natural and a robust base learner, each with its own policy; the global learner mixes their paths and
    re-initialises them.
    """

    paper = papers.GENERALIST
    separable = True
    natural: Policy = Policy(
        objective=NT(), optimizer=SGD(learning_rate=0.1, weight_decay=5e-4), schedule=PiecewiseLinear(), average=EMA()
    )
    robust: Policy = Policy(
        objective=AT(),
        optimizer=SGD(learning_rate=0.01, weight_decay=3.5e-3),
        schedule=PiecewiseLinear(),
        average=EMA(),
    )
    """The learners' own averages, if any, are what is mixed ("WA on both" of Fig. 3a); None mixes raw weights
    (Algorithm 1).
    """
    others: tuple[BaseLearner, ...] = ()
    """Further base learners, such as a robust one under another norm."""
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
    """c in epochs, or in steps."""
    redistribute_unit: Literal["epochs", "steps"] = newer(default="epochs")
    """What c counts. "steps" is Algorithm 1 to the letter, whose t is the t-th iteration: at every c-th step of the run
    from t' on.
    """
    redistribute: Literal["epoch_start", "after_first_step", "every_step", "never"] = "epoch_start"
    """When in a redistribution epoch; the released code does it after every step. Counted in steps: before such a step,
    or after it.
    """
    momentum: Literal["kept", "reset"] = "kept"
    """What redistribution does to the optimizers' state."""
    averages: Literal["kept", "reset"] = "kept"
    """What redistribution does to the learners' own averages: nothing, as released, or they start anew from the global
    learner.
    """
    idle: bool = True
    """Leave out the epochs of a learner that cannot reach the global one: its share is zero until it is next
    overwritten, and the overwriting leaves nothing of its past (no momentum kept, no own average kept). The global
    learner's bits stay the
    same: the robust
    learner, whose integer buffers it has whatever the shares are, never sits out."""
    overlap: bool = False
    """On one GPU, let the learners' steps run side by side on two streams. The numbers stay the same; without a GPU
    nothing changes. What it gains depends on how much of the GPU one learner leaves free, and has not been measured."""

    def __post_init__(self) -> None:
        names = [*PAIR, *(learner.name for learner in self.others)]
        if len(set(names)) < len(names):
            raise SettingsError(f"Generalist.others = {names[2:]}: every learner must have another name")

    def check(self, epochs: int) -> None:
        """Raises: SettingsError for a mix that is none in one of so many epochs."""
        for now in moments(Now(1, 0, epochs, 1, 0)):
            self.mixing(now)

    def policies(self) -> dict[str, Policy]:
        return {
            "natural": self.natural,
            "robust": self.robust,
            **{learner.name: learner.policy for learner in self.others},
        }

    def mixing(self, now: Now) -> dict[str, float]:
        """Each learner's share of the mix; they add up to 1. Raises: SettingsError for a share that is negative."""
        gamma, shares = self.gamma.value(now), {learner.name: learner.share.value(now) for learner in self.others}
        rest = 1 - sum(shares.values())
        if min([gamma, 1 - gamma, rest, *shares.values()]) < -1e-9:
            when, values = f"epoch {now.epoch} of {now.epochs}", {"gamma": gamma, **shares}
            raise SettingsError(
                f"Generalist.gamma: at {when} the mix is {values}; gamma, each share and the shares' sum must be in"
                " [0, 1]"
            )
        gamma, rest = min(max(gamma, 0.0), 1.0), max(rest, 0.0)  # rounding
        return {"natural": (1 - gamma) * rest, "robust": gamma * rest, **shares}

    def diagnosed(self) -> Generalist:
        return dataclasses.replace(self, idle=False)

    def learners(self, build: Build) -> dict[str, Learner]:
        learners = {name: build(name, policy) for name, policy in self.policies().items()}
        for name, learner in learners.items():
            learner.begin("global", share=1.0 if name == "robust" else 0.0)  # the sum of the shares is theta_0
        return learners

    def step(self, learners: Mapping[str, Learner], batches: Mapping[str, Batch], now: Now) -> Metrics:
        if self._redistributes(now, "epoch_start"):
            self._redistribute(learners)

        metrics: Metrics = {}
        with side_by_side(next(iter(learners.values())).arithmetic.device, self.overlap) as lane:
            for name, policy in self.policies().items():  # theta_n, then theta_r
                if name in learners and not self.is_idle(name, now):
                    with lane():
                        metrics |= learners[name].descend(policy.objective, batches[name], now)

        decay = warmed_up(self.decay, now.step) if self.decay_warmup else self.decay
        mixing = self.mixing(now)
        for name, learner in learners.items():
            learner.accumulate("global", decay, learner.averaged, mixing[name])

        if self._redistributes(now, "after_first_step") or self._redistributes(now, "every_step"):
            self._redistribute(learners)
        return metrics

    def deployed(self, learners: Mapping[str, Learner]) -> nn.Module:
        return with_weights(next(iter(learners.values())).network, self.global_weights(learners))

    @torch.no_grad()
    def global_weights(self, learners: Mapping[str, Learner]) -> Weights:
        """theta_g: the sum of the learners' shares; integer buffers are the robust learner's.

        Where learners are spread over ranks, one sum over them; of the ranks that share a learner the first one counts.
        """
        across = next(iter(learners.values())).across
        total = {name: torch.zeros_like(part) for name, part in next(iter(learners.values())).weights.items()}
        for learner_name, learner in learners.items():
            if across.size > 1 and not learner.world.leads:
                continue
            for name, part in learner.accumulators["global"].items():
                if part.is_floating_point():
                    total[name] += part
                elif learner_name == "robust":
                    total[name] += learner.averaged[name]  # whatever its share is now
        across.sum_(list(total.values()))
        return total

    def is_idle(self, name: str, now: Now) -> bool:
        """Whether the learner sits out this epoch (see `idle`)."""
        return self.idle and name != "robust" and now.epoch in _idle_epochs(self, name, now.epochs, now.steps_per_epoch)

    def forgets(self, name: str) -> bool:
        """Whether redistribution leaves nothing of the learner's past: then what it did since the last one is lost."""
        policy = self.policies()[name]
        momentum = self.momentum == "reset" or (isinstance(policy.optimizer, SGD) and policy.optimizer.momentum == 0)
        return momentum and (self.averages == "reset" or policy.average is None)

    def redistribution_epochs(self, epochs: int) -> list[int]:
        """The 1-based epochs, of so many, in which the base learners become theta_g; all from t' on where c counts
        steps.
        """
        if self.redistribute_unit == "steps":
            return [epoch for epoch in range(1, epochs + 1) if epoch >= self.redistribute_from * epochs - 1e-9]
        moments = (Now(epoch, epoch - 1, epochs, 1, 0) for epoch in range(1, epochs + 1))
        return [now.epoch for now in moments if self._redistributes(now, self.redistribute)]

    def _redistributes(self, now: Now, when: str) -> bool:
        """Whether the base learners become theta_g at this moment of this epoch."""
        if when == "never" or when != self.redistribute:
            return False
        if self.redistribute_unit == "steps":
            return (
                now.step + 1 >= self.redistribute_from * now.steps - 1e-9
                and (now.step + 1) % self.redistribute_every == 0
            )
        if when != "every_step" and now.step_of_epoch != 0:
            return False
        return now.epoch >= self.redistribute_from * now.epochs - 1e-9 and now.epoch % self.redistribute_every == 0

    def _redistribute(self, learners: Mapping[str, Learner]) -> None:
        weights = self.global_weights(learners)
        for learner in learners.values():
            learner.load(weights, reset_momentum=self.momentum == "reset", reset_average=self.averages == "reset")


@lru_cache(maxsize=64)
def _idle_epochs(method: Generalist, name: str, epochs: int, steps_per_epoch: int) -> frozenset[int]:
    def overwritten(now: Now, *when: str) -> bool:
        return method.forgets(name) and any(method._redistributes(now, moment) for moment in when)

    return idle_epochs(
        Now(1, 0, epochs, steps_per_epoch, 0),
        weight=lambda now: method.mixing(now)[name],
        before=lambda now: overwritten(now, "epoch_start"),
        after=lambda now: overwritten(now, "after_first_step", "every_step"),
    )
