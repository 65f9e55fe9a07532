"""Shared by all tests: one thread, the vectors, and the network they were made with."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

torch.set_num_threads(1)
os.environ["POISE_BFLOAT16"] = "0"  # numbers are float32's, on processors that have bfloat16 too
VECTORS = Path(os.environ.get("POISE_VECTORS", Path(__file__).parent / "vectors"))

Vectors = dict[str, Tensor]

asked: set[str] = set()
"""The arrays that tests of this process have asked for, each as topic:name."""


class Arrays(dict[str, Tensor]):
    """The arrays of one topic by name; notes which of them are asked for."""

    def __init__(self, topic: str, arrays: Vectors) -> None:
        super().__init__(arrays)
        self.topic = topic

    def __getitem__(self, name: str) -> Tensor:
        asked.add(f"{self.topic}:{name}")
        return super().__getitem__(name)


def read_vectors(topic: str) -> Vectors:
    """The arrays of one topic as tensors."""
    with np.load(VECTORS / f"{topic}.npz", allow_pickle=False) as arrays:
        return Arrays(topic, {name: torch.from_numpy(np.array(arrays[name])) for name in arrays.files})


def pytest_sessionfinish() -> None:
    """Leave what was asked for to tests/test_vectors_are_read.py, which starts a session of its own and names a
    file.
    """
    if file := os.environ.get("POISE_VECTORS_ASKED"):
        Path(file).write_text("\n".join(sorted(asked)))


def vector_network() -> nn.Sequential:
    """The network of the vectors in float64, in training mode; see tests/vectors/README.md, section 1."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    ).double()
    common = read_vectors("common")
    network.load_state_dict(
        {name.removeprefix("net."): tensor for name, tensor in common.items() if name.startswith("net.")}
    )
    return network


@pytest.fixture
def vectors() -> Callable[[str], Vectors]:
    return read_vectors


@pytest.fixture
def network() -> nn.Sequential:
    return vector_network()
