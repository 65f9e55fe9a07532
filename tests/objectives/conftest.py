"""Random starts that are given."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from poise.core.seeds import Draw
from poise.threats import Linf


def given(*starts: Tensor, epsilon: float = 8 / 255) -> Linf:
    """A ball whose random starts are the given points, one after the other; a plain subclass, so that no name is registered."""
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
