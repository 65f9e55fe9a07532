"""What one network is shown and what it minimises: the cut at the saddle point.

    min over weights  E[ loss(craft(x, y)) ]        craft: the inner maximisation;  loss: the outer minimisation

An objective is a frozen dataclass whose fields are the paper's hyperparameters. It holds no state, moves nothing and reduces
nothing: `loss` returns one value per example, and the Learner averages over examples, microbatches and ranks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor, nn

from poise.core.batches import Batch, Now
from poise.core.distributed import ALONE, World
from poise.core.modes import CraftMode
from poise.core.papers import Paper
from poise.core.settings import Settings

Terms = dict[str, Tensor]
"""Named terms of a loss, one value per example each [B]; the loss is the sum of their (weighted) means.

Terms called "watch/..." are measured beside it and are no part of it (see `watched`).
"""


@dataclass(frozen=True)
class Examples:
    """What the network is shown: each objective defines its own, with all tensors [B, ...].

    y: labels [B]. weights: for terms that are weighted means, the weight of each example [B]; a term without entry is a plain
    mean. Weights are fixed when the examples are crafted, so that the Learner knows every denominator before the first backward.
    """

    y: Tensor
    weights: dict[str, Tensor] = field(default_factory=dict, kw_only=True)


E = TypeVar("E", bound=Examples)


class Objective(Settings, Generic[E], family="objective"):
    """One saddle-point problem: `craft` is its inner maximisation, `loss` its outer minimisation."""

    paper: ClassVar[Paper]
    craft_mode: CraftMode
    """Mode of the network while examples are crafted; the Learner applies and restores it."""

    @abstractmethod
    def craft(self, model: nn.Module, batch: Batch, now: Now) -> E:
        """The examples the network is shown at this step. Weights are frozen; ALL random draws happen here."""

    def exchange(self, examples: Sequence[E], now: Now, world: World = ALONE) -> Sequence[E]:
        """What the microbatches of one step take from each other once all are crafted (the partners of mixup); nothing by default.

        world: the ranks that hold the other parts of the batch; all of them call this together.
        """
        return examples

    def hand_on(self, new: Any) -> Any:
        """Where one searches belongs to the run, where one starts to the objective: threat, step size, steps and ramp stay."""
        mine = search_of(self)
        return new if mine is None or not isinstance(new, Objective) else _searching(new, mine)

    @abstractmethod
    def loss(self, model: nn.Module, examples: E, now: Now) -> Terms:
        """The loss per example. Draws nothing; its only side effect is on BatchNorm's running statistics."""


def search_of(objective: Objective[Any]) -> Any:
    """The `Ascent` of an objective's inner maximisation, or of the objective inside it; None where there is none."""
    inside = getattr(objective, "objective", None)
    return search_of(inside) if isinstance(inside, Objective) else getattr(objective, "inner", None)


def _searching(objective: Any, like: Any) -> Any:
    """The objective with an inner maximisation within the same threat, by the same steps."""
    inside, inner = getattr(objective, "objective", None), getattr(objective, "inner", None)
    if isinstance(inside, Objective):
        return replace(objective, objective=_searching(inside, like))
    if inner is None:
        return objective
    return replace(objective, inner=replace(inner, **{name: getattr(like, name) for name in ("threat", "step_size", "steps", "ramp")}))
