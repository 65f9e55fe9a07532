"""Optimizers as settings; torch's own do the work."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from poise.core.errors import SettingsError
from poise.core.settings import Positive, Settings, UnitInterval, newer, number, settings

Rate = Annotated[float, BeforeValidator(number), Field(gt=0, le=1e30)]
Decay = Annotated[float, BeforeValidator(number), Field(ge=0, le=1e30)]
"""More, and what is computed of it has no place in float32."""
Share = Annotated[float, BeforeValidator(number), Field(gt=0, le=1)]
Below = Annotated[float, Field(ge=0, lt=1)]


class Optimizer(Settings, family="optimizer"):
    """How a learner's weights follow its gradient. The schedule multiplies `learning_rate`."""

    learning_rate: float

    @property
    def follows(self) -> bool:
        """Whether every step follows the learning rate, so that a schedule has an effect."""
        return True

    @abstractmethod
    def build(self, network: nn.Module) -> torch.optim.Optimizer:
        """torch's optimizer for the network's parameters. A group's "scale" is what its learning rate is times the
        others'.
        """


@settings
class SGD(Optimizer):
    """Stochastic gradient descent with momentum and (coupled) weight decay."""

    learning_rate: Rate = 0.1
    momentum: UnitInterval = 0.9
    weight_decay: Decay = 5e-4
    nesterov: bool = False
    layer_decay: Share = newer(default=1.0)
    """The learning rate of each layer is this times that of the layer behind it; the last one's is the learning rate
    (fine-tuning).
    """

    def __post_init__(self) -> None:
        if self.nesterov and self.momentum == 0:
            raise SettingsError("SGD.nesterov = True: needs momentum > 0")

    def build(self, network: nn.Module) -> torch.optim.Optimizer:
        decay = self.weight_decay
        groups = grouped(network, decay, self.layer_decay)
        return torch.optim.SGD(
            groups, self.learning_rate, self.momentum, weight_decay=decay, nesterov=self.nesterov, fused=_fused(network)
        )


@settings
class Adam(Optimizer):
    """Adam with L2 weight decay in the gradient."""

    learning_rate: Rate = 1e-4
    weight_decay: Decay = 0.0
    stability: Positive = 1e-8
    """The constant added to the denominator (torch: eps)."""

    def build(self, network: nn.Module) -> torch.optim.Optimizer:
        parameters = list(network.parameters())
        return torch.optim.Adam(
            parameters, self.learning_rate, eps=self.stability, weight_decay=self.weight_decay, fused=_fused(network)
        )


@settings
class AdamW(Optimizer):
    """Adam with decoupled weight decay."""

    learning_rate: Rate = 1e-3
    weight_decay: Decay = 1e-2
    betas: tuple[Below, Below] = newer(default=(0.9, 0.999))
    """Decay of the averages of the gradient and of its square."""
    decay_vectors: bool = newer(default=True)
    """Weight decay of biases and of normalisation's parameters, which have at most one dimension, too."""
    layer_decay: Share = newer(default=1.0)
    """As for SGD."""

    def build(self, network: nn.Module) -> torch.optim.Optimizer:
        groups = grouped(network, self.weight_decay, self.layer_decay, self.decay_vectors)
        return torch.optim.AdamW(
            groups, self.learning_rate, self.betas, weight_decay=self.weight_decay, fused=_fused(network)
        )


def grouped(
    network: nn.Module, weight_decay: float, layer_decay: float = 1.0, decay_vectors: bool = True
) -> list[dict[str, Any]]:
    """The parameters in groups of one rate and one weight decay; a single group where all have the same."""
    if layer_decay == 1 and decay_vectors:
        return [{"params": list(network.parameters())}]
    layers = list(dict.fromkeys(_layer(name) for name, _ in network.named_parameters()))
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        behind, decays = len(layers) - 1 - layers.index(_layer(name)), decay_vectors or parameter.dim() > 1
        about = {"scale": layer_decay**behind, "weight_decay": weight_decay if decays else 0.0}
        groups.setdefault((behind, decays), {"params": [], **about})["params"].append(parameter)
    return list(groups.values())


def _layer(name: str) -> str:
    """The layer of a parameter, by its name: `layer1.0`, `blocks.3`, `stages.2.blocks.5`, `fc`."""
    whole = re.match(r"([^.]+\.)*?\d+(\.blocks\.\d+)?(?=\.)|[^.]+", name)
    assert whole is not None
    return whole.group()


def _fused(network: nn.Module) -> bool | None:
    """True where all parameters lie on a GPU: there one kernel moves them all. None leaves the choice to torch."""
    parameters = list(network.parameters())
    return True if parameters and all(parameter.is_cuda for parameter in parameters) else None


def state_of(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> dict[str, Tensor]:
    """The tensors that an optimizer keeps, named "INDEX/KEY" by the parameter's place."""
    states = [optimizer.state.get(parameter, {}) for parameter in parameters]
    return {
        f"{index}/{key}": value
        for index, state_each in enumerate(states)
        for key, value in state_each.items()
        if isinstance(value, Tensor)
    }


def load_state(
    optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], state: Mapping[str, Tensor]
) -> None:
    """Inverse of `state_of`: copies, in the parameters' order in memory; what the optimizer kept before is
    forgotten.
    """
    optimizer.state.clear()
    parameters_here = list(parameters)
    for name, tensor in state.items():
        index, key = name.split("/", 1)
        parameter = parameters_here[int(index)]
        states = (
            torch.empty_like(parameter, device=tensor.device, dtype=tensor.dtype)
            if tensor.shape == parameter.shape
            else torch.empty_like(tensor)
        )
        optimizer.state[parameter][key] = states.copy_(tensor)


def gradients_of(network: nn.Module) -> list[Tensor]:
    """The gradients that there are, on GPUs in their parameters' order in memory, on which fused optimizers insist."""
    parameters = [parameter for parameter in network.parameters() if parameter.grad is not None]
    for parameter in parameters:
        assert parameter.grad is not None
        if parameter.is_cuda and parameter.grad.stride() != parameter.stride():
            parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
