"""Generalist as usually released: two models, shadow copies kept by Python loops over state dicts."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from benchmarks.reference.attacks import Noise
from benchmarks.reference.steps import STEPS, at_step, nt_step


class Shadow:
    """An exponential moving average of a state dict, min(decay, (s + 1) / (s + 10)) at update s."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.values = copy.deepcopy(model.state_dict())
        self.decay = decay
        self.updates = 0

    def update(self, state: dict[str, Tensor]) -> None:
        decay = min(self.decay, (self.updates + 1) / (self.updates + 10))
        self.updates += 1
        for name, value in state.items():
            if value.is_floating_point():
                self.values[name] = decay * self.values[name] + (1.0 - decay) * value.detach()
            else:
                self.values[name] = value.clone()


class GeneralistTrainer:
    """Algorithm 1 of Wang & Wang (2023) with averages of both base learners ("WA on both") and of their mix."""

    def __init__(
        self,
        model: nn.Module,
        rates: tuple[float, float] = (0.1, 0.01),
        decays: tuple[float, float] = (5e-4, 3.5e-3),
        average: float = 0.999,
    ) -> None:
        self.natural, self.robust = copy.deepcopy(model), copy.deepcopy(model)
        made = zip((self.natural, self.robust), rates, decays, strict=True)
        self.optimizers = [
            torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9, weight_decay=decay) for net, rate, decay in made
        ]
        self.shadows = [Shadow(self.natural, average), Shadow(self.robust, average)]
        self.whole = Shadow(self.robust, average)

    def step(self, x: Tensor, y: Tensor, noise: Noise, gamma: float, redistribute: bool, steps: int = STEPS) -> None:
        """NT step, AT step, averages; with `redistribute` both learners first take the global weights."""
        if redistribute:
            self.natural.load_state_dict(self.whole.values)
            self.robust.load_state_dict(self.whole.values)
        nt_step(self.natural, self.optimizers[0], x, y)
        at_step(self.robust, self.optimizers[1], x, y, noise, steps=steps)
        self.shadows[0].update(self.natural.state_dict())
        self.shadows[1].update(self.robust.state_dict())
        mixed = copy.deepcopy(self.robust.state_dict())
        for name in mixed:
            if mixed[name].is_floating_point():
                mixed[name] = gamma * self.shadows[1].values[name] + (1.0 - gamma) * self.shadows[0].values[name]
        self.whole.update(mixed)
