"""Joint training: one learner, one loss (the papers' "joint training" of both tasks)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from poise.core import papers
from poise.core.batches import Batch, Now
from poise.core.settings import PositiveCount, settings
from poise.learners import Learner, Metrics, Policy
from poise.learners.averages import with_weights
from poise.methods.method import Build, Method


@settings
class Joint(Method):
    """One learner minimises one objective; what is deployed is its average, if it keeps one, else its network."""

    transparent = "policy"
    paper = papers.PGD
    policy: Policy = Policy()
    batch_size: PositiveCount = 128

    def policies(self) -> dict[str, Policy]:
        return {"joint": self.policy}

    def learners(self, build: Build) -> dict[str, Learner]:
        return {"joint": build("joint", self.policy)}

    def step(self, learners: Mapping[str, Learner], batches: Mapping[str, Batch], now: Now) -> Metrics:
        return learners["joint"].descend(self.policy.objective, batches["joint"], now)

    def deployed(self, learners: Mapping[str, Learner]) -> nn.Module:
        return with_weights(learners["joint"].network, learners["joint"].averaged)
