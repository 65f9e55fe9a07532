"""A small network, a batch, and random starts that are given."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from poise.core.batches import Batch
from poise.core.seeds import Draw
from poise.threats import Linf


def given(*starts: Tensor, epsilon: float = 8 / 255) -> Linf:
    """A ball whose random starts are the given points, one after the other; a plain subclass, so that no name is
    registered.
    """
    waiting = list(starts)

    class Given(Linf):
        def random_start(self, x: Tensor, draw: Draw) -> Tensor:
            return waiting.pop(0)

        def gaussian_start(self, x: Tensor, draw: Draw, deviation: float = 0.001) -> Tensor:
            return waiting.pop(0)

    return Given(epsilon=epsilon)


@pytest.fixture
def start_at() -> Callable[..., Linf]:
    return given


@pytest.fixture
def plain() -> nn.Module:
    """A network without BatchNorm, so that modes don't matter, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(128, 5)).double()


@pytest.fixture
def batch() -> Batch:
    source = torch.Generator().manual_seed(1)
    return Batch.of(
        torch.rand(32, 1, 8, 8, generator=source, dtype=torch.float64), torch.randint(5, (32,), generator=source)
    )
