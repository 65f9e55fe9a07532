"""Honest networks on digits, trained for a few epochs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from torch import nn

from poise.engine import train
from poise.evaluation import Protocol
from poise.recipes import experiment


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], nn.Module]:
    """The network of a digits recipe after four epochs; each recipe is trained once. To be read only."""
    made: dict[str, nn.Module] = {}

    def network(recipe: str) -> nn.Module:
        if recipe not in made:
            short = dataclasses.replace(
                experiment(recipe), epochs=4, monitors=(), criterion="last", protocol=Protocol(name="none")
            )
            made[recipe] = train(short, tmp_path_factory.mktemp("sanity") / recipe).network("last")
        return made[recipe]

    return network
