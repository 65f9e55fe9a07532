"""What a method is: which learners exist and in which order they move."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import nn

from poise.core.batches import Batch, Now
from poise.core.papers import Paper
from poise.core.settings import PositiveCount, Settings
from poise.data.stream import Stream
from poise.learners import Learner, Metrics, Policy

Build = Callable[[str, Policy], Learner]
"""(name, policy) -> a learner; every call gives it the same initial weights."""


class Method(Settings, family="method"):
    """One way of training: its `step` is the body of the paper's for-loop, in the paper's order."""

    paper: ClassVar[Paper]
    separable: ClassVar[bool] = False
    """Whether its learners meet only where `step` and `deployed` sum over ranks, so that each may live on ranks of its
    own.
    """
    batch_size: PositiveCount

    @abstractmethod
    def policies(self) -> dict[str, Policy]:
        """How each learner is trained, by the learner's name."""

    def check(self, epochs: int) -> None:
        """Raises: SettingsError for settings that fit no run of so many epochs."""

    def check_networks(self, learners: Mapping[str, Learner]) -> None:
        """Raises: SettingsError for a network that its learner's objective cannot train; asked before any work."""
        for name, learner in learners.items():
            self.policies()[name].objective.check(learner.network)

    def diagnosed(self) -> Method:
        """The same method with every learner trained in every step, also where nothing of it would be used."""
        return self

    def streams(self) -> dict[str, Stream]:
        """What each learner is fed: by default the same examples in the same order, each under its own augmentation and
        extra images.
        """
        return {
            name: Stream(
                batch_size=self.batch_size,
                augmentation=policy.augmentation,
                extra=policy.extra,
                mixing=policy.mixing,
                located=policy.objective.remembers == "images",
            )
            for name, policy in self.policies().items()
        }

    @abstractmethod
    def learners(self, build: Build) -> dict[str, Learner]:
        """The learners, ready for the first step."""

    @abstractmethod
    def step(self, learners: Mapping[str, Learner], batches: Mapping[str, Batch], now: Now) -> Metrics:
        """One step on one batch of each stream."""

    @abstractmethod
    def deployed(self, learners: Mapping[str, Learner]) -> nn.Module:
        """A copy of the network that is evaluated and shipped."""
