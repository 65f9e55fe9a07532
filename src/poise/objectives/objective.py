"""What one network is shown and what it minimises: the cut at the saddle point.

    min over weights  E[ loss(craft(x, y)) ]        craft: the inner maximisation;  loss: the outer minimisation

An objective is a frozen dataclass whose fields are the paper's hyperparameters. It holds no state, moves nothing and
reduces nothing: `loss` returns one value per example, and the Learner averages over examples, microbatches and ranks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Generic, Literal, TypeVar

from torch import Tensor, nn

from poise.attacks.ascent import Ascent
from poise.core.batches import Batch, Now
from poise.core.distributed import ALONE, World
from poise.core.errors import SettingsError
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

    y: labels [B]. weights: for terms that are weighted means, the weight of each example [B]; a term without entry is a
    plain mean. Weights are fixed when the examples are crafted, so that the Learner knows every denominator before the
    first backward.
    """

    y: Tensor
    weights: dict[str, Tensor] = field(default_factory=dict, kw_only=True)


E = TypeVar("E", bound=Examples)


@dataclass(frozen=True)
class Forwards:
    """What a step costs an image, in forwards of the network: a backward pass to images is 1, one to weights 2."""

    crafting: int
    descending: int
    moving: int = 0
    """Of `descending`, forwards that only move running statistics; weight perturbations leave them out."""


class Objective(Settings, Generic[E], family="objective"):
    """One saddle-point problem: `craft` is its inner maximisation, `loss` its outer minimisation."""

    paper: ClassVar[Paper]
    asks_network: ClassVar[bool] = True
    """Whether `craft` asks the network anything."""
    asks_teacher: ClassVar[bool] = False
    """Whether `craft` asks a teacher; where the policy names none, it asks the network itself."""
    remembers: ClassVar[Literal["", "images", "places"]] = ""
    """Whether the learner keeps what `remember` says, for each image until it is shown again, or for each place in the
    batch until the next update, and hands it to `craft` as `Batch.prior`.
    """
    craft_mode: CraftMode = "evaluating"
    """Mode of the network while examples are crafted; the Learner applies and restores it."""

    @property
    def takes_unlabelled(self) -> bool:
        """Whether images without a label (`UNLABELLED`) have a part in the loss."""
        return False

    @property
    def takes_soft_labels(self) -> bool:
        """Whether the loss goes by `Batch.targets`, so that images may be mixed."""
        return False

    def check(self, model: nn.Module) -> None:
        """Raises: SettingsError for a network that the objective cannot train; asked before any work."""

    def forwards(self) -> Forwards:
        """What a step costs; for placing learners on ranks and for the texts of recipes. Raises: SettingsError where it
        is not said.
        """
        raise SettingsError(f"{type(self).__name__}.forwards: the objective does not say what a step costs; define it")

    def turns(self, model: nn.Module, now: Now) -> int:
        """How many updates a step makes on its batch, each with examples of its own; `now.turn` says which it is. One
        by default.
        """
        return 1

    @abstractmethod
    def craft(self, model: nn.Module, batch: Batch, now: Now, teacher: nn.Module | None = None) -> E:
        """The examples the network is shown at this step. Weights are frozen; ALL random draws happen here.

        teacher: a second network, frozen and in evaluation mode, where the policy names one; only here is it ever
        asked, and what it says goes into the examples [B, ...]. An objective that takes none may leave this argument
        out.
        """

    def memory_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(K, H, W) of what is remembered of an image [C, H, W]."""
        return shape

    def remember(self, examples: E, now: Now) -> Tensor:
        """What is kept of each example [B, K, H, W], asked after the backward pass; only where `remembers`."""
        raise SettingsError(f"{type(self).__name__}.remember: the objective remembers nothing; define it")

    def exchange(self, examples: Sequence[E], now: Now, world: World = ALONE) -> Sequence[E]:
        """What the microbatches of one step take from each other once all are crafted (the partners of mixup); nothing
        by default.

        world: the ranks that hold the other parts of the batch; all of them call this together.
        """
        return examples

    def hand_on(self, new: Any) -> Any:
        """Where one searches belongs to the run, where one starts to the objective: threat, step size, steps and ramp
        stay.
        """
        searches = searches_of(self)
        return new.searching(searches[0]) if searches and isinstance(new, Objective) else new

    def searching(self, like: Ascent) -> Objective[E]:
        """The objective with inner maximisations within the same threat, by the same steps."""
        settings_shared = {name: getattr(like, name) for name in ("threat", "step_size", "steps", "ramp")}
        changes: dict[str, Any] = {}
        for name, part in _parts(self).items():
            if isinstance(part, Ascent):
                changes[name] = replace(part, **settings_shared)
            elif isinstance(part, Objective):
                changes[name] = part.searching(like)
        return replace(self, **changes)  # pyright: ignore[reportArgumentType]

    @abstractmethod
    def loss(self, model: nn.Module, examples: E, now: Now) -> Terms:
        """The loss per example. Draws nothing; its only side effect is on BatchNorm's running statistics."""


def searches_of(objective: Objective[Any]) -> list[Ascent]:
    """The inner maximisations of an objective: its own, then those of the objectives inside it."""
    parts = _parts(objective).values()
    inside = (search for part in parts if isinstance(part, Objective) for search in searches_of(part))
    return [*(part for part in parts if isinstance(part, Ascent)), *inside]


def _parts(objective: Objective[Any]) -> dict[str, Any]:
    return {part.name: getattr(objective, part.name) for part in fields(objective)}  # pyright: ignore[reportArgumentType]
