"""Averages of weights over the steps of training: what a learner's network becomes when its path is smoothed."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from poise.core import papers
from poise.core.batches import Now
from poise.core.papers import Paper
from poise.core.settings import PositiveCount, Settings, UnitInterval, newer, settings
from poise.models.own import copied as network_copied

Weights = dict[str, Tensor]
"""A network's parameters and buffers by name, detached."""


def weights_of(network: nn.Module) -> Weights:
    """The network's own tensors (not copies)."""
    return {name: tensor.detach() for name, tensor in network.state_dict().items()}


def copied(weights: Weights) -> Weights:
    return {name: tensor.clone() for name, tensor in weights.items()}


@torch.no_grad()
def load_weights(network: nn.Module, weights: Weights) -> None:
    """Copy weights into the network in place, so that its optimizer keeps hold of the same tensors."""
    for name, tensor in weights_of(network).items():
        tensor.copy_(weights[name])


def with_weights(network: nn.Module, weights: Weights) -> nn.Module:
    """A copy of the network that has these weights."""
    twin = network_copied(network)
    load_weights(twin, weights)
    return twin


@torch.no_grad()
def accumulate(total: Weights, decay: float, part: Weights, weight: float = 1.0) -> None:
    """total <- decay * total + (1 - decay) * weight * part, in place, on floating tensors; integers are copied when
    weight > 0.
    """
    floats = [name for name, tensor in total.items() if tensor.is_floating_point()]
    totals, parts = [total[name] for name in floats], [part[name] for name in floats]
    torch._foreach_mul_(totals, decay)  # pyright: ignore[reportPrivateImportUsage]
    torch._foreach_add_(totals, parts, alpha=(1 - decay) * weight)  # pyright: ignore[reportPrivateImportUsage]
    for name, tensor in total.items():
        if not tensor.is_floating_point() and weight > 0:
            tensor.copy_(part[name])


def warmed_up(decay: float, step: int) -> float:
    """min(decay, (s + 1) / (s + 10)) at 0-based step s: the released Generalist's warm-up."""
    return min(decay, (step + 1) / (step + 10))


class Average(Settings, family="average"):
    """How a learner's weights are averaged; the average is a second set of weights beside the raw ones."""

    paper: ClassVar[Paper]

    @abstractmethod
    def update(self, average: Weights, weights: Weights, now: Now) -> None:
        """Take the weights after this step into the average, in place."""


@settings
class EMA(Average):
    """Exponential moving average, per step: a <- d a + (1 - d) w."""

    paper = papers.EMA
    decay: UnitInterval = 0.999
    warmup: bool = True
    """Limit the decay to (s + 1) / (s + 10) at step s."""
    from_epoch: PositiveCount = newer(default=1)
    """1-based; the average is the latest weights before."""
    buffers: Literal["average", "copy"] = "average"
    """BatchNorm's running statistics are averaged like the weights, or copied from the latest ones."""

    def update(self, average: Weights, weights: Weights, now: Now) -> None:
        decay = 0.0 if now.epoch < self.from_epoch else warmed_up(self.decay, now.step) if self.warmup else self.decay
        accumulate(average, decay, weights)
        if self.buffers == "copy":
            _copy_statistics(average, weights)


@settings
class SWA(Average):
    """Stochastic weight averaging: the plain mean of the weights at the ends of epochs; before, the latest weights."""

    paper = papers.SWA
    from_epoch: PositiveCount = 91
    """1-based; the first epoch whose last weights are averaged (of 120: the last quarter)."""
    every: PositiveCount = 1
    """Epochs from one averaged epoch to the next."""
    buffers: Literal["average", "copy"] = "average"
    """BatchNorm's running statistics are averaged like the weights, or copied from the latest ones; data are not passed
    over for them.
    """

    def update(self, average: Weights, weights: Weights, now: Now) -> None:
        periods, between = divmod(now.epoch - self.from_epoch, self.every)
        ends = now.step_of_epoch == now.steps_per_epoch - 1
        if now.epoch < self.from_epoch:
            accumulate(average, 0.0, weights)
        elif ends and between == 0:
            accumulate(average, periods / (periods + 1), weights)
        if ends and self.buffers == "copy":
            _copy_statistics(average, weights)


def _copy_statistics(average: Weights, weights: Weights) -> None:
    for name, tensor in average.items():
        if name.endswith(("running_mean", "running_var")):
            tensor.copy_(weights[name])
