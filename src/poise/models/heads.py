"""Weights of a network with other classes: all but its head."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


def with_fresh_head(
    weights: Mapping[str, Tensor], network: nn.Module, classes: int
) -> tuple[dict[str, Tensor], list[str]]:
    """(the weights, those of another number of classes replaced by the network's own; the names of these).

    Replaced is what differs from the network's tensor of that name in its first size alone, which is `classes` there.
    """
    state = network.state_dict()
    fresh = [
        name for name, tensor in weights.items() if name in state and _of_other_classes(tensor, state[name], classes)
    ]
    return {name: state[name] if name in fresh else tensor for name, tensor in weights.items()}, fresh


def _of_other_classes(given: Tensor, own: Tensor, classes: int) -> bool:
    fits = given.dim() == own.dim() > 0 and given.shape[1:] == own.shape[1:]
    return fits and own.shape[0] == classes != given.shape[0]
