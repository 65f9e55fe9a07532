"""A user's own network before it is trained: what training needs of it is made sure, or refused in one sentence."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from poise.core.answers import answer, count_classes, keep_apart
from poise.core.errors import InputError, SettingsError
from poise.core.modes import evaluating

Shape = tuple[int, int, int]


def is_own(network: nn.Module) -> bool:
    """Whether there is code or a lazy layer in it that is neither Poise's nor known to be as torch's usual layers."""
    foreign = any(not type(module).__module__.startswith(("poise.", "torch.")) for module in network.modules())
    return foreign or any(is_lazy(parameter) for parameter in network.parameters())


def prepared(network: nn.Module, name: str, shape: Shape, classes: int) -> nn.Module:
    """The network, its lazy layers made for images of `shape`; one that changes its images, or its answers later, is
    given copies.

    It is asked about black images: one in evaluation mode, two, on a copy, in training mode.
    Raises: SettingsError where it does not take them, has too few logits, no weights, or cannot be copied or written
    down.
    """
    black, outputs = torch.zeros(2, *shape), 0
    try:
        with evaluating(network):
            outputs = count_classes(network, black[:1])
        keep_apart(network)
        twin = copied(network)
        twin.train()
        answer(twin, black)
    except InputError as error:
        raise SettingsError(f"{name} cannot be trained on images of shape {list(shape)}: {error}") from error
    except Exception as error:  # whatever its own code raises when it is copied or changes its mode
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise SettingsError(
            f"{name} cannot be copied, as averages and deployed networks are ({reason}); keep locks, files and writers"
            " outside the module"
        ) from error
    _check(network, twin, name)
    if outputs < classes:
        raise SettingsError(f"{name} returns {outputs} logits for {classes} classes, must return one for each")
    return network


def _check(network: nn.Module, twin: object, name: str) -> None:
    state = network.state_dict()
    if extra := [key for key, value in state.items() if not isinstance(value, Tensor)]:
        raise SettingsError(
            f"{name} keeps an extra state ({extra[0]}), which checkpoints cannot hold; register it as a buffer"
        )
    if not isinstance(twin, nn.Module) or twin is network or twin.state_dict().keys() != state.keys():
        raise SettingsError(
            f"{name} gives something else where it is copied by copy.deepcopy, must give a module of the same weights"
        )
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise SettingsError(f"{name} has no weights to train, must have parameters that require gradients")


def copied(network: nn.Module) -> nn.Module:
    """A deep copy. What its forward has kept, an activation say, is copied without its graph."""
    attributes = [value for module in network.modules() for value in vars(module).values()]
    tensors = {id(value): value.detach() for value in attributes if isinstance(value, Tensor) and not value.is_leaf}
    return copy.deepcopy(network, tensors)
