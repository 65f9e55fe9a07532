"""Grids in words, and the plans made of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import poise
from poise.core.errors import RunError, SettingsError
from poise.engine import Experiment
from poise.sweeps.grids import combinations, named, parsed
from poise.sweeps.ledger import Needs, Plan
from poise.sweeps.planning import planned

RATE = "method.optimizer.learning_rate"


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("beta=1", ["1"]),
        ("beta=1,2, 6", ["1", "2", "6"]),
        ("epsilon=2/255,4/255", ["2/255", "4/255"]),
        ("keep_epochs=[1,2],[2]", ["[1,2]", "[2]"]),
        ('m={"type": "L2", "epsilon": 1},Linf', ['{"type": "L2", "epsilon": 1}', "Linf"]),
        ("beta=log:1e-3..1e-1:5", [0.001, 0.00316228, 0.01, 0.0316228, 0.1]),
        ("beta=log:8..1:4", [8.0, 4.0, 2.0, 1.0]),
        ("epsilon=lin:0..8/255:3", [0.0, 0.0156863, 8 / 255]),
    ],
)
def test_values_of_a_path(word: str, values: list[Any]) -> None:
    assert list(parsed([word])[1].values()) == [values]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["beta="], "beta: a value is missing"),
        (["beta=1,,2"], "beta: a value is missing"),
        (["beta=1,2,1"], "beta: 1 is given twice"),
        (["beta=1", "beta=2"], "beta is given twice; give all its values in one: beta=a,b,c"),
        (["=1"], "is not of the form name.name=value,value"),
        (["beta=log:0..1:3"], "both ends must be above 0"),
        (["beta=log:1..1:3"], "two different numbers and at least 2 values"),
        (["beta=lin:1..2:1"], "two different numbers and at least 2 values"),
        (["beta=log:a..1:3"], "a and 1 must be numbers"),
        (["beta=log:1,2"], r"must be log:FROM\.\.TO:COUNT, such as log:1e-3\.\.1e-1:5"),
    ],
)
def test_what_is_no_grid_is_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        parsed(words)


def test_points_are_all_combinations_named_by_what_differs() -> None:
    recipes, grid = parsed(["at_digits", "a.steps=1,2", "b.steps=3,4", "epsilon=4/255,8/255", "epochs=3"])
    points = combinations(grid)
    assert recipes == ["at_digits"]
    assert len(points) == 8
    assert named(grid, points[1]) == "a.steps=1-b.steps=3-epsilon=8_255"
    assert named({"epochs": ["3"]}, {"epochs": "3"}) == ""


def test_a_plan_has_every_recipe_at_every_point_with_every_seed(tmp_path: Path) -> None:
    grid = {"epsilon": [0.1, "51/255"], "epochs": [2]}
    plan = planned(["at_digits", "trades_digits"], grid, 2, quick=True)
    assert len({point.name for point in plan.points}) == len(plan.points) == 8
    assert plan.points[3].name == "at_digits_quick-epsilon=51_255/seed-1"
    assert plan.points[3].differs == {"recipe": "at_digits_quick", "epsilon": "51/255"}
    made = poise.from_json(Experiment, plan.points[3].experiment)
    assert (made.epsilon, made.epochs, made.seed) == (0.2, 2, 1)
    plan.write(tmp_path)
    assert Plan.read(tmp_path) == plan


def test_long_names_stay_apart(tiny: Experiment) -> None:
    grid = {"title": [f"{'t' * 200}{number}" for number in range(3)]}
    names = [point.name for point in planned([tiny], grid).points]
    assert len(set(names)) == 3
    assert {len(name) for name in names} == {150}


def test_a_damaged_plan_is_refused(tmp_path: Path, tiny: Experiment) -> None:
    file = planned([tiny], {}).write(tmp_path)
    file.write_text(file.read_text().replace('"epochs": 3', '"epochs": 4', 1))
    with pytest.raises(RunError, match=r"plan\.json is damaged: its sha256 is not the digest of what it says"):
        Plan.read(tmp_path)
    with pytest.raises(RunError, match=r"is no sweep: it has no plan\.json"):
        Plan.read(tmp_path / "other")


@pytest.mark.parametrize(
    ("grid", "asked", "sentence"),
    [
        ({RATE: [0.1, -1]}, {}, r"tiny-learning_rate=-1: .*learning_rate"),
        ({"epochz": [1, 2]}, {}, "there is no setting 'epochz'"),
        ({"seed": [0, 1]}, {"seeds": 2}, "one of the two"),
        ({}, {"seeds": 0}, "seeds = 0: must be at least 1"),
        ({}, {"quick": True}, "quick is of recipes"),
        (
            {"epochs": list(range(1, 1001)), RATE: [0.1 / (1 + n) for n in range(101)]},
            {},
            "the grid has 101,000 points",
        ),
        ({}, {"needs": Needs(gpus=1.5)}, r"gpus = 1\.5: must be a share of one, or a whole number"),
        ({}, {"needs": Needs(ranks=2, gpus=0.5)}, r"gpus = 0\.5: must be whole ones where 2 ranks train together"),
        ({}, {"needs": Needs(ranks=0)}, "ranks = 0: must be at least 1"),
    ],
)
def test_a_plan_that_could_not_be_carried_out_is_refused(
    tiny: Experiment, grid: Any, asked: Any, sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        planned([tiny], grid, **asked)


def test_the_same_recipe_twice_is_refused(tiny: Experiment) -> None:
    with pytest.raises(SettingsError, match="two points of the sweep are called tiny"):
        planned([tiny, dataclasses.replace(tiny, epochs=2)], {})
