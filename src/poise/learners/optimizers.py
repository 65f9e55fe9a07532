"""Optimizers as settings; torch's own do the work."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Annotated

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from poise.core.errors import SettingsError
from poise.core.settings import Positive, Settings, UnitInterval, number, settings

Rate = Annotated[float, BeforeValidator(number), Field(gt=0, le=1e30)]
Decay = Annotated[float, BeforeValidator(number), Field(ge=0, le=1e30)]
"""More, and what is computed of it has no place in float32."""


class Optimizer(Settings, family="optimizer"):
    """How a learner's weights follow its gradient. The schedule multiplies `learning_rate`."""

    learning_rate: float

    @abstractmethod
    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """torch's optimizer for the parameters."""


@settings
class SGD(Optimizer):
    """Stochastic gradient descent with momentum and (coupled) weight decay."""

    learning_rate: Rate = 0.1
    momentum: UnitInterval = 0.9
    weight_decay: Decay = 5e-4
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.nesterov and self.momentum == 0:
            raise SettingsError("SGD.nesterov = True: needs momentum > 0")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        given, fused = _fused(parameters)
        decay = self.weight_decay
        return torch.optim.SGD(given, self.learning_rate, self.momentum, weight_decay=decay, nesterov=self.nesterov, fused=fused)


@settings
class Adam(Optimizer):
    """Adam with L2 weight decay in the gradient."""

    learning_rate: Rate = 1e-4
    weight_decay: Decay = 0.0
    stability: Positive = 1e-8
    """The constant added to the denominator (torch: eps)."""

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        given, fused = _fused(parameters)
        return torch.optim.Adam(given, self.learning_rate, eps=self.stability, weight_decay=self.weight_decay, fused=fused)


@settings
class AdamW(Optimizer):
    """Adam with decoupled weight decay."""

    learning_rate: Rate = 1e-3
    weight_decay: Decay = 1e-2

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        given, fused = _fused(parameters)
        return torch.optim.AdamW(given, self.learning_rate, weight_decay=self.weight_decay, fused=fused)


def _fused(parameters: Iterable[nn.Parameter]) -> tuple[list[nn.Parameter], bool | None]:
    """The parameters, and True where all lie on a GPU: there one kernel moves them all. None leaves the choice to torch."""
    given = list(parameters)
    return given, True if given and all(parameter.is_cuda for parameter in given) else None


def state_of(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> dict[str, Tensor]:
    """The tensors that an optimizer keeps, named "INDEX/KEY" by the parameter's place."""
    held = [optimizer.state.get(parameter, {}) for parameter in parameters]
    return {f"{index}/{key}": value for index, kept in enumerate(held) for key, value in kept.items() if isinstance(value, Tensor)}


def load_state(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], state: Mapping[str, Tensor]) -> None:
    """Inverse of `state_of`: copies, in the parameters' order in memory; what the optimizer kept before is forgotten."""
    optimizer.state.clear()
    placed = list(parameters)
    for name, tensor in state.items():
        index, key = name.split("/", 1)
        parameter = placed[int(index)]
        kept = torch.empty_like(parameter, device=tensor.device) if tensor.shape == parameter.shape else torch.empty_like(tensor)
        optimizer.state[parameter][key] = kept.copy_(tensor)


def gradients_of(network: nn.Module) -> list[Tensor]:
    """The gradients that there are, on GPUs in their parameters' order in memory, on which fused optimizers insist."""
    held = [parameter for parameter in network.parameters() if parameter.grad is not None]
    for parameter in held:
        assert parameter.grad is not None
        if parameter.is_cuda and parameter.grad.stride() != parameter.stride():
            parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
    return [parameter.grad for parameter in held if parameter.grad is not None]
