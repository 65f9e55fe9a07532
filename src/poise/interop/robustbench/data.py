"""`robustbench.data`: test images, natural and corrupted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from poise.core.errors import InputError, SettingsError, did_you_mean
from poise.data import CIFAR10, CIFAR100, Data, Split
from poise.data.corruptions import CORRUPTIONS, corrupted
from poise.data.dataset import DataSource
from poise.interop.asking import check_size
from poise.interop.robustbench.model_zoo.enums import BenchmarkDataset, word

DATASETS: dict[str, type[DataSource]] = {"cifar10": CIFAR10, "cifar100": CIFAR100}
_ARCHIVES = {"cifar10": "CIFAR-10-C", "cifar100": "CIFAR-100-C"}
Transform = Callable[..., Any]


def load_cifar10(
    n_examples: int | None = None, data_dir: str | Path = "./data", transforms_test: Transform | None = None
) -> tuple[Tensor, Tensor]:
    """The first test images [N, 3, 32, 32] in [0, 1] and their labels [N]; None takes all.

    Raises: SettingsError for a transform: images come in [0, 1] in their own size.
    """
    return load_clean_dataset("cifar10", n_examples, data_dir, transforms_test)


def load_cifar100(
    n_examples: int | None = None, data_dir: str | Path = "./data", transforms_test: Transform | None = None
) -> tuple[Tensor, Tensor]:
    """The same of CIFAR-100, with its 100 fine labels."""
    return load_clean_dataset("cifar100", n_examples, data_dir, transforms_test)


def load_clean_dataset(
    dataset: BenchmarkDataset | str,
    n_examples: int | None,
    data_dir: str | Path,
    prepr: str | Transform | None = None,
) -> tuple[Tensor, Tensor]:
    """The first test images of "cifar10" or "cifar100" and their labels. Raises: SettingsError for another data set or
    a transform; InputError for more images than there are.
    """
    check_preprocessing(prepr)
    return first_of(source_of(dataset).load(Path(data_dir)), n_examples)


def load_cifar10c(
    n_examples: int,
    severity: int = 5,
    data_dir: str | Path = "./data",
    shuffle: bool = False,
    corruptions: Sequence[str] = CORRUPTIONS,
    prepr: Transform | None = None,
) -> tuple[Tensor, Tensor]:
    """Test images of CIFAR-10-C: of `n_examples` in all the same share of each corruption, its first ones, in the order
    of `corruptions`, and labels [N]. The unpacked archive lies in `data_dir`, or in its folder CIFAR-10-C.

    Raises: SettingsError for shuffle or a transform; InputError for a severity, a corruption or a number of images that
    there is not; DataError.
    """
    return _corrupted("cifar10", n_examples, severity, data_dir, shuffle, corruptions, prepr)


def load_cifar100c(
    n_examples: int,
    severity: int = 5,
    data_dir: str | Path = "./data",
    shuffle: bool = False,
    corruptions: Sequence[str] = CORRUPTIONS,
    prepr: Transform | None = None,
) -> tuple[Tensor, Tensor]:
    """The same of CIFAR-100-C."""
    return _corrupted("cifar100", n_examples, severity, data_dir, shuffle, corruptions, prepr)


def _corrupted(
    dataset: str,
    count: int,
    severity: int,
    data_dir: str | Path,
    shuffle: bool,
    corruptions: Sequence[str],
    prepr: object,
) -> tuple[Tensor, Tensor]:
    check_preprocessing(prepr)
    check_size(count, "n_examples")
    if shuffle:
        raise SettingsError("shuffle = True: images are taken in the order of the test set; only False is supported")
    if not corruptions or isinstance(corruptions, str):
        raise InputError(f"corruptions = {corruptions!r}, must be a list of at least one name")
    folder = Path(data_dir) / _ARCHIVES[dataset]
    images_each = count // len(corruptions)
    if images_each < 1:
        raise InputError(f"n_examples = {count}, must be at least {len(corruptions)}, one of each corruption")
    data = source_of(dataset).load(Path(data_dir))
    root = folder if folder.is_dir() else Path(data_dir)
    parts = [_first(corrupted(root, name, severity, data), images_each) for name in corruptions]
    return torch.cat([part.pixels() for part in parts]), torch.cat([part.labels for part in parts])


def get_preprocessing(
    dataset: BenchmarkDataset | str, threat_model: object, model_name: str | None, preprocessing: object
) -> None:
    """None: images come in [0, 1] in their own size, which networks of CIFAR take. Raises: SettingsError for ImageNet
    or a transform.
    """
    source_of(dataset)
    check_preprocessing(preprocessing)


def source_of(dataset: object) -> DataSource:
    """A data set by its word or member. Raises: SettingsError."""
    name = word(dataset)
    if not isinstance(name, str) or name not in DATASETS:
        raise SettingsError(
            f"dataset = {name!r}, must be one of {', '.join(DATASETS)}{did_you_mean(str(name), DATASETS)}"
        )
    return DATASETS[name]()


def check_preprocessing(given: object) -> None:
    """Raises: SettingsError for anything but None."""
    if given is not None:
        raise SettingsError(
            f"preprocessing = {given!r}, must be None: images come in [0, 1] in their own size; put it into the model"
        )


def first_of(data: Data, count: int | None) -> tuple[Tensor, Tensor]:
    """The first test images and their labels, all where `count` is None. Raises: InputError for more than there are."""
    split = data.test if count is None else _first(data.test, count)
    return split.pixels(), split.labels


def _first(split: Split, count: int) -> Split:
    check_size(count, "n_examples")
    if count > len(split):
        raise InputError(f"n_examples = {count:,}, but there are {len(split):,} test images")
    return split.first(count)


__all__ = [
    "get_preprocessing",
    "load_cifar10",
    "load_cifar10c",
    "load_cifar100",
    "load_cifar100c",
    "load_clean_dataset",
]
