"""`foolbox.criteria`: what counts as a success."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from poise.core.errors import InputError


class Joined:
    """What criteria have alike: `one & other` is both."""

    def __and__(self, other: object) -> Both:
        if not isinstance(other, Misclassification | TargetedMisclassification | Both):
            raise InputError(f"a criterion is joined with {type(other).__name__}, must be with another criterion")
        return Both(self, other)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Misclassification(Joined):
    """Any class but the labels [B] is a success."""

    labels: Tensor

    def __call__(self, perturbed: Tensor, outputs: Tensor) -> Tensor:
        """Whether each example is a success [B], by the logits [B, C]; the images [B, C, H, W] are not looked at."""
        return outputs.argmax(-1) != self.labels.to(outputs.device)


@dataclass(frozen=True)
class TargetedMisclassification(Joined):
    """The target classes [B] are to be reached."""

    target_classes: Tensor

    def __call__(self, perturbed: Tensor, outputs: Tensor) -> Tensor:
        """As `Misclassification`."""
        return outputs.argmax(-1) == self.target_classes.to(outputs.device)


@dataclass(frozen=True)
class Both(Joined):
    """Two criteria of which each must be met; an attack goes towards the target of the one that has one."""

    first: Misclassification | TargetedMisclassification | Both
    second: Misclassification | TargetedMisclassification | Both

    def __call__(self, perturbed: Tensor, outputs: Tensor) -> Tensor:
        """As `Misclassification`."""
        return self.first(perturbed, outputs) & self.second(perturbed, outputs)

    def parts(self) -> Iterator[Misclassification | TargetedMisclassification]:
        """The criteria that are joined."""
        for part in (self.first, self.second):
            yield from part.parts() if isinstance(part, Both) else (part,)


Criterion = Tensor | Misclassification | TargetedMisclassification | Both
"""Labels [B] mean Misclassification."""

__all__ = ["Both", "Criterion", "Misclassification", "TargetedMisclassification"]
