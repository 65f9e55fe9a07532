"""Faster copies of a network for crafting: what an objective's `craft` asks in the network's place."""

from __future__ import annotations

import torch
from torch import nn

from poise.core.modes import over_ranks
from poise.learners.precision import Precision
from poise.models.folding import Folded, any_layout
from poise.objectives import NT, Objective


class Copies:
    """At most two: one folded, for evaluating mode, and one for training mode, which only differs by its order in memory.

    Each is made when first asked for and brought up to date every time. relay: whether the second one is offered, on CPUs: where
    activations lie channels last a forward is faster there, but the network itself may not be trained so (see `Folded`).
    """

    def __init__(self, network: nn.Module, arithmetic: Precision, relay: bool) -> None:
        self._network = network
        self._dtype = torch.bfloat16 if arithmetic.autocast else None
        self._relay = relay and any_layout(network)
        self._made: dict[bool, Folded] = {}  # by whether batch normalisation is folded

    def of(self, objective: Objective) -> nn.Module:
        """The network, or a copy that equals it in the mode in which the objective crafts."""
        folded = objective.craft_mode == "evaluating"
        if isinstance(objective, NT) or not (folded or self._relays):  # NT asks the network nothing
            return self._network
        if folded not in self._made:
            self._made[folded] = Folded(self._network, self._dtype, fold=folded)
        return self._made[folded].refreshed()

    @property
    def _relays(self) -> bool:
        on_cpu = all(parameter.device.type == "cpu" for parameter in self._network.parameters())
        return self._relay and on_cpu and not over_ranks(self._network)  # a copy would belong to no ranks
