"""`foolbox.criteria`: what counts as a success."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Misclassification:
    """Any class but the labels [B] is a success."""

    labels: Tensor

    def __call__(self, perturbed: Tensor, outputs: Tensor) -> Tensor:
        """Whether each example is a success [B], by the logits [B, C]; the images [B, C, H, W] are not looked at."""
        return outputs.argmax(-1) != self.labels


@dataclass(frozen=True)
class TargetedMisclassification:
    """The target classes [B] are to be reached."""

    target_classes: Tensor

    def __call__(self, perturbed: Tensor, outputs: Tensor) -> Tensor:
        """As `Misclassification`."""
        return outputs.argmax(-1) == self.target_classes


Criterion = Tensor | Misclassification | TargetedMisclassification
"""Labels [B] mean Misclassification."""

__all__ = ["Criterion", "Misclassification", "TargetedMisclassification"]
