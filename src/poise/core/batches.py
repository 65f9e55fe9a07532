"""What one step is shown (`Batch`) and when it happens (`Now`)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from poise.core.seeds import Draw, key_of

UNLABELLED = -1
"""Label of an image that has none, not even a pseudo-label."""


@dataclass(frozen=True)
class Batch:
    """A batch, or a part of one.

    x: images [B, C, H, W] in [0, 1]; y: labels [B], int64, or UNLABELLED; ids: each example's number in its data set
    [B], int64;
    places: each example's place in the global batch of this step [B], int64 (what random draws are keyed by);
    total: size of the global batch; extra: true where the example comes from the extra pool (its label is a
    pseudo-label) [B].
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    places: Tensor
    total: int
    extra: Tensor
    soft: Tensor | None = None
    """Labels of mixed images, [B, classes]: the share of each class; y is then the class of the image that was mixed
    with another.
    """
    prior: Tensor | None = None
    """What the learner remembers of each example [B, K, H, W], for an objective that `remembers`."""
    origin: Tensor | None = None
    """Which pixel of its own image each pixel shown is, counted from 1 row by row, [B, H, W], int64; 0 outside the
    image. Where nothing asks for it None.
    """

    @property
    def targets(self) -> Tensor:
        """What a loss that takes soft labels is given: `soft` where images are mixed, else y."""
        return self.y if self.soft is None else self.soft

    def __len__(self) -> int:
        return len(self.y)

    def split(self, size: int) -> list[Batch]:
        """Microbatches of at most `size` examples, in order."""
        cuts = range(0, len(self), size)
        columns = self.columns()
        return [replace(self, **{name: column[at : at + size] for name, column in columns.items()}) for at in cuts]

    def columns(self) -> dict[str, Tensor]:
        """What it holds of each example, by name."""
        columns = {name: getattr(self, name) for name in ("x", "y", "ids", "places", "extra")}
        optional = {name: getattr(self, name) for name in ("soft", "prior", "origin")}
        return columns | {name: column for name, column in optional.items() if column is not None}

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> Batch:
        """A whole batch of labelled examples, numbered in order."""
        places = torch.arange(len(y), device=y.device)
        return cls(
            x=x,
            y=y,
            ids=places,
            places=places,
            total=len(y),
            extra=torch.zeros(len(y), dtype=torch.bool, device=y.device),
        )


@dataclass(frozen=True)
class Now:
    """The moment of training: 1-based epoch, 0-based step, the totals, and the draws that belong to it.

    scope: name of the learner that moves, so that two learners on one batch draw independently.
    turn: 0-based update on one batch, for the objectives that make several (see `Objective.turns`); it is no part of
    the draws.
    """

    epoch: int
    step: int
    epochs: int
    steps_per_epoch: int
    seed: int
    scope: str = ""
    turn: int = 0

    @property
    def steps(self) -> int:
        """Total number of steps of the run."""
        return self.epochs * self.steps_per_epoch

    @property
    def step_of_epoch(self) -> int:
        """0-based step within the epoch."""
        return self.step - (self.epoch - 1) * self.steps_per_epoch

    def since(self, epoch: int) -> int:
        """1 from this 1-based epoch on, 0 before: where a recorded objective is to follow the time by a factor, not by
        a branch.
        """
        return int(self.epoch >= epoch)

    def within(self, scope: str) -> Now:
        return replace(self, scope=scope)

    def draw(self, purpose: str, batch: Batch) -> Draw:
        """Draws for the examples of `batch` at this step, by their place in the global batch."""
        return Draw(key_of(self.seed, self.scope, purpose, self.step), batch.places)

    def draw_once(self, purpose: str, device: torch.device | str = "cpu") -> Draw:
        """One draw for the whole global batch (index 0), the same on every rank and in every microbatch."""
        return Draw(key_of(self.seed, self.scope, purpose, self.step), torch.zeros(1, dtype=torch.int64, device=device))
