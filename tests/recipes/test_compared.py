"""The objectives compared on small data: every row has its recipes, schedules keep their fractions, claims name what is
run.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from poise.core.settings import registered
from poise.methods import Generalist, Joint
from poise.objectives import FAT, GAIRAT, GAIRRST, Objective, SqueezeTraining
from poise.objectives.single_step import SingleStep
from poise.recipes import digits, experiment, mnist, recipes
from poise.recipes.compared import compared

sys.path.insert(0, str(Path(__file__).parents[2])) if str(Path(__file__).parents[2]) not in sys.path else None
from experiments import objectives  # noqa: E402  (the experiments are a package beside `src`)

ROWS = compared(digits.INNER, 45, 0.05)
OF_ENSEMBLES = {"ADP", "GAL", "MoRE", "SynergyOfExperts"}
UNLABELLED = {"RST"}
"""Without unlabelled images RST is TRADES."""


def test_every_objective_of_one_network_is_compared() -> None:
    ours = {name for name, member in registered(Objective).items() if member.__module__.startswith("poise.objectives.")}
    assert {type(row.objective).__name__ for row in ROWS.values()} == ours - OF_ENSEMBLES - UNLABELLED


@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_its_recipe_on_digits_and_on_mnist(row: str) -> None:
    for suffix, inner in (("digits", digits.INNER), ("mnist_slim", mnist.SLIM.rows()["at"].objective.inner)):  # type: ignore[attr-defined]
        made = experiment(f"{row}_{suffix}")
        policies = made.method.policies()
        policy = policies["joint"] if isinstance(made.method, Joint) else policies["robust"]
        assert isinstance(made.method, Generalist) == row.startswith("generalist")
        objective: Any = policy.objective
        found: Any = getattr(getattr(objective, "objective", objective), "inner", None)
        if isinstance(objective, SingleStep):  # one step of epsilon within the same threat
            assert (found.threat, found.steps, found.ramp) == (inner.threat, 1, inner.ramp)
        else:
            assert found is None or dataclasses.replace(found, start="uniform") == inner
        assert "Cost: " in recipes()[f"{row}_{suffix}"].text


@pytest.mark.parametrize(
    ("epochs", "tau_from", "middle"), [(120, (1, 51, 91), 60), (45, (1, 19, 34), 23), (5, (1, 3, 4), 3)]
)
def test_schedules_in_epochs_keep_their_papers_fractions(epochs: int, tau_from: tuple[int, ...], middle: int) -> None:
    rows = compared(digits.INNER, epochs, 0.05)
    for row in ("fat", "fat_trades", "fat_mart"):
        fat = rows[row].objective
        assert isinstance(fat, FAT)
        assert fat.tau_from == tau_from
    gairat, gair_rst = rows["gairat"].objective, rows["gair_rst"].objective
    assert isinstance(gairat, GAIRAT)
    assert isinstance(gair_rst, GAIRRST)
    assert gairat.from_epoch == middle
    assert abs(gair_rst.from_epoch / epochs - 0.5) <= 0.5 / 5 + 1 / epochs


def test_squeeze_training_has_its_three_divergences() -> None:
    found = {row.objective.divergence for row in ROWS.values() if isinstance(row.objective, SqueezeTraining)}
    assert found == {"symmetric_kl", "js", "squared_l2"}


@pytest.mark.parametrize("suite", [objectives.SUITE, objectives.SUITE_MNIST], ids=["digits", "mnist"])
def test_the_benchmark_names_recipes_that_exist_and_claims_about_them(suite: Any) -> None:
    assert set(suite.recipes) <= set(recipes())
    assert suite.baseline in suite.recipes
    assert len(suite.recipes) == len(ROWS)
    claims = [(claim.better, claim.worse, claim.column) for claim in suite.claims]
    assert len(set(claims)) == len(claims)
    for better, worse, column in claims:
        assert {better, worse} <= set(suite.recipes)
        assert column in ("natural", "worst case", "AutoAttack", "PGD-20")
        assert (worse, better, column) not in claims, "two papers' claims contradict each other"
    assert {name for better, worse, _ in claims for name in (better, worse)} >= set(suite.recipes) - {
        f"generalist_st_{suite.recipes[0][3:]}",
        f"gair_rst_{suite.recipes[0][3:]}",
    }
