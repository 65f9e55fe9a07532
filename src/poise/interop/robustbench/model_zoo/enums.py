"""`robustbench.model_zoo.enums`: data sets and threat models, which may stand wherever their words may."""

from __future__ import annotations

from enum import Enum


class BenchmarkDataset(Enum):
    """A data set; its value is the word for it."""

    cifar_10 = "cifar10"
    cifar_100 = "cifar100"
    imagenet = "imagenet"


class ThreatModel(Enum):
    """A threat model; its value is the word for it."""

    Linf = "Linf"
    L2 = "L2"
    corruptions = "corruptions"
    corruptions_3d = "corruptions_3d"


def word(value: object) -> object:
    """The word for a member of either; anything else as it is."""
    return value.value if isinstance(value, BenchmarkDataset | ThreatModel) else value


__all__ = ["BenchmarkDataset", "ThreatModel"]
