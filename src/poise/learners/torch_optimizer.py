"""torch's optimizers by their names there."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from poise.core.arguments import NONE, Arguments, check_arguments, class_named
from poise.core.errors import SettingsError
from poise.core.settings import configurable
from poise.learners.optimizers import Optimizer, Rate, Share, grouped

OPTIMIZERS = (
    "AdamW",
    "Adam",
    "SGD",
    "RMSprop",
    "NAdam",
    "RAdam",
    "Adamax",
    "Adagrad",
    "Adadelta",
    "Adafactor",
    "ASGD",
    "Rprop",
)
"""Those that are asked for a step once, by gradients alone, and keep nothing but tensors of each parameter."""
REFUSED = {
    "LBFGS": "it asks for the loss several times in a step (a closure), and here a step crafts its examples once",
    "SparseAdam": "it takes sparse gradients only, which no network here has",
    "Muon": "it moves matrices only, and networks have kernels, biases and normalisation too",
    "Optimizer": "it is the class that the others inherit from",
}
_OWN = {
    "lr": "it is the setting learning_rate",
    "params": "they are the network's",
    "maximize": "a loss is minimised",
    "differentiable": "nobody differentiates through a step",
    **dict.fromkeys(("foreach", "fused", "capturable"), "how a step is computed goes by the device"),
}


@configurable
class Torch(Optimizer):
    """An optimizer of torch's by its name there, with the arguments that it has there: `Torch(name="NAdam",
    betas=(0.9, 0.95))`.

    With `name=Rprop` only the first step follows the learning rate, so no schedule goes with it.
    """

    transparent = "arguments"
    name: str = "AdamW"
    learning_rate: Rate = 1e-3
    decay_vectors: bool = True
    """Weight decay of biases and of normalisation's parameters, which have at most one dimension, too."""
    layer_decay: Share = 1.0
    """As for SGD."""
    arguments: Arguments = NONE
    """Those of the class in torch, by name; what is left out is torch's default."""

    if TYPE_CHECKING:  # arguments may stand beside the settings

        def __init__(self, *, name: str = ..., learning_rate: Any = ..., **arguments: Any) -> None: ...

    def __post_init__(self) -> None:
        kind = self._kind
        check_arguments("Torch", kind, self.arguments, _OWN)
        decays = "weight_decay" in inspect.signature(kind).parameters
        if not decays and not self.decay_vectors:
            raise SettingsError(f"Torch.decay_vectors = False: {kind.__name__} has no weight decay")
        try:
            self.build(nn.Linear(1, 1))
        except (ValueError, TypeError, RuntimeError) as error:
            arguments_text = ", ".join(f"{name} = {value!r}" for name, value in self.arguments.items())
            raise SettingsError(f"Torch.name = {self.name!r} refuses {arguments_text}: {error}") from None

    @property
    def _kind(self) -> Any:
        return class_named(torch.optim, "Torch", self.name, OPTIMIZERS, REFUSED, torch.optim.Optimizer)

    @property
    def follows(self) -> bool:
        return self.name != "Rprop"

    def build(self, network: nn.Module) -> torch.optim.Optimizer:
        kind = self._kind
        parameter = inspect.signature(kind).parameters.get("weight_decay")
        default = 0.0 if parameter is None else float(parameter.default)
        decay = float(self.arguments.get("weight_decay", default))
        groups = grouped(network, decay, self.layer_decay, self.decay_vectors)
        if parameter is None:
            groups = [{name: value for name, value in group.items() if name != "weight_decay"} for group in groups]
        return kind(groups, lr=self.learning_rate, **self.arguments)
