"""Two adversarial examples per image, as Squeeze Training has them, for other objectives (Li et al. 2023, Table 6)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from poise.core import papers
from poise.core.batches import Batch, Now
from poise.core.errors import SettingsError
from poise.core.modes import CraftMode
from poise.core.settings import settings
from poise.objectives.at import Adversarial, AdversarialObjective
from poise.objectives.fat import FAT
from poise.objectives.objective import Examples, Forwards, Objective, Terms
from poise.objectives.trades import TRADES
from poise.objectives.watch import minimised


@dataclass(frozen=True)
class Two(Examples):
    """The same images with two independent adversarial examples each."""

    first: Adversarial
    second: Adversarial


@settings
class TwoExamples(Objective[Two]):
    """The mean of an objective's loss over two independent (or friendly) adversarial examples, or per image the larger
    one.

    What does not depend on the adversarial example (the natural term of TRADES) is the same in both, so that only the
    regularisation differs.
    """

    transparent = "objective"
    paper = papers.SQUEEZE_TRAINING
    objective: Objective[Adversarial] = TRADES()
    """One that shows one adversarial example per image, whose weight doesn't depend on it."""
    reduce: Literal["mean", "max"] = "mean"

    def __post_init__(self) -> None:
        if not isinstance(self.objective, AdversarialObjective | FAT):
            raise SettingsError(
                f"TwoExamples.objective = {type(self.objective).__name__}: must show one adversarial example per image"
                " whose weight doesn't depend on it: an AdversarialObjective (AT, TRADES, MART, BAT,"
                " CollaborativeTraining, RST, WeightedRST) or FAT"
            )

    @property
    def craft_mode(self) -> CraftMode:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.objective.craft_mode

    @property
    def takes_unlabelled(self) -> bool:
        return self.objective.takes_unlabelled

    def forwards(self) -> Forwards:
        single = self.objective.forwards()
        return Forwards(2 * single.crafting, 2 * single.descending, 2 * single.moving)

    def craft(self, model: nn.Module, batch: Batch, now: Now, teacher: nn.Module | None = None) -> Two:
        again = replace(now, scope=f"{now.scope}/second")
        first, second = (self.objective.craft(model, batch, moment, teacher) for moment in (now, again))
        return Two(batch.y, first, second, weights=first.weights)

    def loss(self, model: nn.Module, examples: Two, now: Now) -> Terms:
        """The objective's forwards for the first example, then for the second."""
        first, second = (self.objective.loss(model, part, now) for part in (examples.first, examples.second))
        if self.reduce == "mean":
            return {name: (first[name] + second[name]) / 2 for name in first}
        larger = _whole(first) >= _whole(second)
        return {name: torch.where(larger, first[name], second[name]) for name in first}


def _whole(terms: Terms) -> Tensor:
    return torch.stack(list(minimised(terms).values())).sum(0).detach()
