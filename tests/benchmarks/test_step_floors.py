"""Floors of training steps: every objective has one, split between the modes that its crafting and descending are
in.
"""

from __future__ import annotations

import pytest
from benchmarks.floors import ALONE, POLICIES
from benchmarks.steps import FLOORS, floor_of

from poise.core.settings import registered
from poise.learners.costs import forwards
from poise.objectives import Objective

OF_ENSEMBLES = {"ADP", "GAL", "MoRE", "SynergyOfExperts"}


def test_every_objective_of_one_network_is_timed() -> None:
    ours = {name for name, member in registered(Objective).items() if member.__module__.startswith("poise.objectives.")}
    assert {type(objective).__name__ for objective in ALONE.values()} == ours - OF_ENSEMBLES


@pytest.mark.parametrize("name", POLICIES)
def test_a_floor_is_what_the_step_costs(name: str) -> None:
    assert sum(floor_of(POLICIES[name])) == forwards(POLICIES[name])


def test_the_floors_are_those_of_the_readme() -> None:
    assert FLOORS == {
        "NT": (0, 3),
        "AT": (20, 3),
        "TRADES": (21, 7),
        "MART": (20, 6),
        "SqueezeTraining": (0, 60),
        "Generalist": (20, 6),
    }
