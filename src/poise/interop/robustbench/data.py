"""`robustbench.data`: test images."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from poise.data import CIFAR10, CIFAR100, Data

DATASETS = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def load_cifar10(n_examples: int | None = None, data_dir: str | Path = "./data") -> tuple[Tensor, Tensor]:
    """The first test images [N, 3, 32, 32] in [0, 1] and their labels [N]; None takes all."""
    return first_of(CIFAR10().load(Path(data_dir)), n_examples)


def load_cifar100(n_examples: int | None = None, data_dir: str | Path = "./data") -> tuple[Tensor, Tensor]:
    """The same of CIFAR-100, with its 100 fine labels."""
    return first_of(CIFAR100().load(Path(data_dir)), n_examples)


def first_of(data: Data, count: int | None) -> tuple[Tensor, Tensor]:
    """The first test images and their labels, all where `count` is None."""
    split = data.test if count is None else data.test.first(min(count, len(data.test)))
    return split.pixels(), split.labels


__all__ = ["load_cifar10", "load_cifar100"]
