"""Attacks that are searched in lanes (see `search` and `lanes`)."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from poise.attacks.attack import Attack
from poise.attacks.autoattack.lanes import ACCELERATOR_LANES, Lanes, Leave, on_cpu
from poise.attacks.autoattack.search import Examples, Network, Search, logits_of
from poise.attacks.gradients import asked
from poise.core.lengths import wide
from poise.core.seeds import Draw
from poise.threats import spread


class CompactAttack(Attack):
    """An attack that can be searched in lanes; abstract in `search`."""

    lanes: ClassVar[int] = 64
    """How many lanes are worth having on a CPU: more save overhead, fewer are seldom empty when most examples leave
    early.
    """

    @abstractmethod
    def search(self, model: Network, classes: int, targeted: bool = False) -> Search:
        """The search of this attack on a network with so many classes; `targeted`: the examples come with a target to
        reach.
        """

    def notes(self, classes: int) -> list[str]:
        """In words, where the number of classes makes the attack depart from its paper."""
        return []

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None = None) -> Tensor:
        """Successful examples as they were first found; images already misclassified are returned unchanged."""
        x_adv, success = self._drive(model, x, y, draw, target, "at once")
        return torch.where(spread(success | self._returns_failures(), x), x_adv, x)

    def _returns_failures(self) -> bool:
        return False

    def _drive(
        self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None, leave: Leave
    ) -> tuple[Tensor, Tensor]:
        """What the search found [B, ...] and where it succeeded [B]; natural images where there was nothing to do."""
        width, images = min(len(x), most_lanes(self, model, x)), x
        natural, x = logits_of(model, x, width), x.to(wide(x.dtype))
        everyone = Examples(x, y, natural, draw, target)
        success = everyone.fooled(everyone.natural)
        rows = (~success).nonzero()[:, 0]
        if len(rows) == 0:
            return images, success
        self.check_classes(natural.shape[1])
        search = self.search(asked(model, images), natural.shape[1], target is not None)
        lanes = Lanes(search, everyone[rows], width, leave)
        while lanes.advance():
            pass
        x_adv = x.index_copy(0, rows, lanes.found).to(images.dtype)
        if (claims := rows[lanes.fooled]).numel():
            logits_of(model, x_adv[claims], width)  # NaN, which ends a search, is refused
        return x_adv, success.index_copy(0, rows, lanes.fooled)


def most_lanes(attack: CompactAttack, model: nn.Module, x: Tensor) -> int:
    """How many lanes are worth having for an attack on the device of x."""
    return on_cpu(attack.lanes, model, x) if x.device.type == "cpu" else ACCELERATOR_LANES
