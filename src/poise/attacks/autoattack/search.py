"""Attacks written for lanes: each row of a batch carries one example, its own iteration number and its own run.

A run is a restart or a target class. Random numbers are keyed by the example, so what becomes of it depends neither on
its lane nor on its batch mates, as long as the network treats the rows of a batch alike (evaluation mode).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from poise.attacks.checks import check_finite
from poise.attacks.gradients import Network, image_gradient
from poise.core.answers import answer
from poise.core.exact import exact
from poise.core.seeds import Draw
from poise.threats import spread

State = dict[str, Tensor]


@dataclass(frozen=True)
class Examples:
    """Images x [B, ...], labels y [B], their natural logits [B, C], their draw; target: the class to reach [B], or
    None.
    """

    x: Tensor
    y: Tensor
    natural: Tensor
    draw: Draw
    target: Tensor | None = None
    ranked: Tensor | None = None
    """Classes other than y [B, K] in the order in which they are to be targets; None goes by natural logits."""

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: Tensor) -> Examples:
        target = None if self.target is None else self.target[rows]
        ranking = None if self.ranked is None else self.ranked[rows]
        return Examples(self.x[rows], self.y[rows], self.natural[rows], self.draw[rows], target, ranking)

    def fooled(self, logits: Tensor) -> Tensor:
        """Where `logits` [B, C] mean success: another class than y, or with targets the target [B]."""
        return succeeds(logits, self.y, self.target)

    def class_of_rank(self, rank: Tensor) -> Tensor:
        """The class of this rank [B] in `ranked`, else by natural logits among the classes other than y, 0 the most
        likely; or the target to reach.
        """
        if self.target is not None:
            return self.target
        ranking = self.ranked_by_logits() if self.ranked is None else self.ranked
        return ranking.gather(1, rank[:, None])[:, 0]

    def ranked_by_logits(self) -> Tensor:
        """The classes other than y [B, C - 1], the most likely first."""
        wrong_logits = self.natural.scatter(1, self.y[:, None], float("-inf"))
        return wrong_logits.sort(dim=1, descending=True, stable=True).indices[:, :-1]


class Search(ABC):
    """An attack for lanes. `runs` runs of `steps` steps for each example; a run ends early once the example is fooled.

    The state has for each lane at least `fooled` [W], latched, and `found` [W, ...], the image to return.
    """

    runs: int
    steps: int
    kept: ClassVar[tuple[str, ...]] = ("fooled", "found")
    """What an example takes along from one of its runs to the next."""
    derived: ClassVar[tuple[str, ...]] = ()
    """What of the state follows from the rest of it and is not saved."""
    refines: bool = False
    """Whether fooled examples stay for a better image; set by the lanes, whose number of steps past success is
    otherwise chance.
    """

    def prepared(self, pool: Examples, width: int) -> Examples:
        """The examples with what is asked of the network about each once, in batches of `width`."""
        return pool

    @abstractmethod
    def begin(self, examples: Examples, run: Tensor) -> State:
        """The state of these examples at the beginning of their runs of number `run` [B]."""

    def derive(self, state: State) -> State:
        """What is `derived`, of the rest."""
        return {}

    @abstractmethod
    def step(self, state: State) -> State:
        """The state after one step of every lane; lanes already fooled keep `fooled` and, unless the search refines,
        `found`.
        """


def queued(device: torch.device) -> bool:
    """Whether the host only queues steps: it then looks at the flags every few steps, and at those of the round
    before.
    """
    return device.type != "cpu"


def at(draw: Draw, *counters: Tensor) -> Draw:
    """The draw of each example at its own counters, each [B] and below 2^12 (run), 2^20 (step): independent numbers for
    each.
    """
    index = draw.index
    for counter, bits in zip(counters, (12, 20), strict=False):
        index = (index << bits) + counter
    return Draw(draw.key, index)


@torch.no_grad()
def logits_of(model: Network, x: Tensor, width: int) -> Tensor:
    """Logits [N, C] of images x [N, ...], always computed in batches of exactly `width` (the last padded with
    repetitions).

    They decide: no autocast, no TF32. Raises: InputError where they are not finite.
    """
    parts = []
    with exact(x.device):
        for start in range(0, len(x), width):
            rows = torch.arange(start, start + width, device=x.device).clamp(max=len(x) - 1)
            parts.append(answer(model, x[rows])[: len(x) - start])
    logits = torch.cat(parts)
    check_finite(logits)
    return logits


def succeeds(logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """Where logits [B, C] predict another class than y, or with targets the target [B]; where they are NaN, so that
    this is judged.

    Who takes a verdict asks again by `logits_of`, which refuses NaN: no NaN passes for a success, nor for an image that
    stands.
    """
    guess = logits.argmax(1)  # that of NaN, if there is one
    success = guess != y if target is None else guess == target
    return success | logits.gather(1, guess[:, None])[:, 0].isnan()


def gradient_of(model: Network, loss: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(loss(model(z)) [B], its gradient with respect to z, logits [B, C]), all detached.

    Raises: InputError for a network without such a gradient.
    """
    leaf = z.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = model(leaf)
        values = loss(logits)
        gradient = image_gradient(values, leaf)
    return values.detach(), gradient, logits.detach()


def choose(where: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Per example, a where `where` [B] else b; a and b are [B, ...]. What comes back may be a or b itself."""
    if queued(where.device):
        return torch.where(spread(where, a), a, b)
    rows = where.nonzero()[:, 0]  # whole rows are copied faster than chosen number by number
    if len(rows) in (0, len(where)):
        return a if len(rows) else b
    return b.index_copy(0, rows, a[rows])
