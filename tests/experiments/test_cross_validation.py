"""What the page of a cross-validation is made of: folds joined, attacks pooled, columns looked up, claims judged."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from experiments import cross_validation
from experiments.cross_validation import pooled, whole
from experiments.suites import AUTOATTACK, Claim, Suite, Trend
from experiments.verdicts import Table, page, trends, verdicts

from poise.core.records import AttackRecord, EvaluationRecord
from poise.evaluation import Protocol
from poise.reports import paired_interval
from poise.reports.statistics import NATURAL, SUM, WORST

LABELS = [0, 1] * 20


def record(natural: int, **stands: list[int]) -> EvaluationRecord:
    """40 images, the first `natural` of them right; by attack, the places that stand it."""

    def guesses(right: list[int]) -> list[int]:
        return [label if place in right else 1 - label for place, label in enumerate(LABELS)]

    attacks = [
        AttackRecord(name=name, settings={"of": name}, predicted=guesses(right), seconds=0.0)
        for name, right in stands.items()
    ]
    values = {each.name: "" for each in dataclasses.fields(EvaluationRecord) if each.default is dataclasses.MISSING}
    known = {
        "labels": LABELS,
        "natural": guesses(list(range(natural))),
        "attacks": attacks,
        "classes": 2,
        "versions": {},
        "seconds": 0.0,
    }
    return EvaluationRecord(**{**values, **known, "dataset": "d", "split": "test", "seed": 0})  # type: ignore[arg-type]


def table(**by_recipe: EvaluationRecord) -> Table:
    return Table({name: [each] for name, each in by_recipe.items()}, {})


def test_folds_are_joined_in_order():
    first, second = record(40, a=[0, 1]), record(0, a=list(range(40)))
    both = whole([first, second])
    assert both.count == 80 and both.natural_accuracy == 0.5
    assert both.correct_under("a") == first.correct_under("a") + second.correct_under("a")


def experts(accuracy: float, overlap: float, **more: Any) -> dict[str, Any]:
    return {
        "experts": {
            "members": [0.5, accuracy],
            "overlap": overlap,
            "oracle": 1 - overlap,
            "accuracy": accuracy,
            "choice": None,
            **more,
        }
    }


def test_measures_of_experts_are_joined_over_all_images_largest_first():
    one, other = record(40, a=[]), record(40, a=[])
    first = dataclasses.replace(
        one, notes=experts(0.9, 0.0), attacks=[dataclasses.replace(one.attacks[0], notes=experts(0.2, 0.5))]
    )
    half = dataclasses.replace(other, labels=LABELS[:20], natural=other.natural[:20], notes=experts(0.3, 0.3))
    half = dataclasses.replace(
        half, attacks=[dataclasses.replace(one.attacks[0], predicted=one.attacks[0].predicted[:20], notes={})]
    )
    both = whole([first, half])
    found = both.notes["experts"]
    assert found["members"] == pytest.approx([(0.9 * 40 + 0.5 * 20) / 60, (0.5 * 40 + 0.3 * 20) / 60])
    assert found["overlap"] == pytest.approx(0.1) and found["choice"] is None
    assert both.attacks[0].notes == {}  # one fold said nothing


def test_the_page_says_who_is_best_and_whose_experts_are_fooled_least():
    chosen = Suite(("a", "b"), "a", Protocol(name="p", attacks=()), experts=("pgd",))
    low, high = (dataclasses.replace(record(right, pgd=list(range(right // 2)))) for right in (20, 40))
    low = dataclasses.replace(low, attacks=[dataclasses.replace(low.attacks[0], notes=experts(0.25, 0.125))])
    high = dataclasses.replace(high, attacks=[dataclasses.replace(high.attacks[0], notes=experts(0.5, 0.25))])
    text = "\n".join(page(chosen, table(a=low, b=high)))
    assert (
        "The largest in each column, over the seeds that all have: natural b (100.00, 1 seed(s)), worst case b (50.00,"
        " 1 seed(s))." in text
    )
    assert "| pgd | b | 50.00 | 75.00 | 25.00 | - | - | 50.00 50.00 | - |" in text
    assert "all experts are fooled: pgd a (12.50)." in text


def test_an_image_stands_a_pooled_column_if_it_stands_every_member():
    one = pooled(record(40, sets_1=[0, 1, 2], sets_2=[1, 2, 3], other=[]), {"transfer": ("sets",)})
    assert [place for place, right in enumerate(one.correct_under("transfer")) if right] == [1, 2]
    assert one.worst_case_accuracy == 0


def test_the_sum_of_both_accuracies_has_an_interval_around_the_sum_of_the_differences():
    a, b = record(40, pgd=list(range(30))), record(36, pgd=list(range(10)))
    found = paired_interval([a], [b], SUM)
    assert found.difference == pytest.approx(0.1 + 0.5)
    parts = [paired_interval([a], [b], column) for column in (NATURAL, WORST)]
    assert found.low < found.difference < found.high
    assert found.high - found.low < sum(part.high - part.low for part in parts) + 1e-9
    assert table(a=a, b=b).mean([a], SUM) == pytest.approx(175)


def test_autoattack_is_the_second_protocols_worst_case_or_else_the_attack_of_that_name():
    main, second = record(40, pgd=list(range(40))), record(40, apgd=list(range(4)))
    for measured, share in (
        (Table({"r": [main]}, {"r": [second]}), 10),
        (table(r=record(40, AutoAttack=list(range(8)), pgd=[])), 20),
    ):
        assert measured.mean(measured.records("r", AUTOATTACK), AUTOATTACK) == pytest.approx(share)
    assert Table({"r": [main]}, {}).records("r", AUTOATTACK) == []


@pytest.mark.parametrize(
    ("better", "worse", "seen"), [(40, 10, "yes"), (10, 40, "the opposite"), (20, 21, "not told apart")]
)
@pytest.mark.parametrize(("seeds", "said"), [(1, " (one seed)"), (2, "")])
def test_a_claim_is_seen_reversed_or_undecided(better: int, worse: int, seen: str, seeds: int, said: str):
    sides = {"a": better, "b": worse}
    measured = Table(
        {
            name: [dataclasses.replace(record(right, pgd=[]), seed=seed) for seed in range(seeds)]
            for name, right in sides.items()
        }
    )
    (line,) = verdicts([Claim("a", "b", NATURAL, "a paper")], measured)[2:]
    assert line.split(" | ")[3] == seen + said


def test_a_trend_names_the_best_of_its_recipes_and_those_not_told_apart_from_it():
    recipes = ("a", "b", "c")
    suite = Suite(
        recipes, "a", Protocol(name="p", attacks=()), trends=(Trend("t", recipes, "a is best", SUM, "a paper"),)
    )
    (line,) = trends(suite, table(a=record(20, pgd=[]), b=record(40, pgd=[]), c=record(39, pgd=[])))[3:]
    assert "a 50.00, b 100.00, c 97.50 | b | c |" in line


def test_recipes_are_compared_over_the_seeds_that_they_share():
    def seeds(**right: int) -> list[EvaluationRecord]:
        return [dataclasses.replace(record(each, pgd=[]), seed=int(seed[1:])) for seed, each in right.items()]

    measured = Table({"a": seeds(s0=10, s2=30), "b": seeds(s0=40, s1=0, s2=20), "c": seeds(s1=40)})
    found = measured.difference("a", "b", NATURAL)
    assert found is not None and (found.points, found.seeds) == (pytest.approx(50 - 75), 2)
    assert measured.difference("a", "c", NATURAL) is None
    trend = Trend("t", ("a", "b"), "", NATURAL, "a paper")
    (line,) = trends(Suite(("a", "b"), "a", Protocol(name="p", attacks=()), trends=(trend,)), measured)[3:]
    assert "| 2 | a 50.00, b 75.00 | b | a |" in line


@pytest.mark.parametrize("name", [name for name in cross_validation.MODULES if name != "ensembles"])
def test_every_suite_compares_recipes_on_the_data_it_names(name: str, tmp_path):
    chosen = cross_validation.suite(name, tmp_path)
    assert chosen.baseline in chosen.recipes
    claimed = {recipe for claim in chosen.claims for recipe in (claim.better, claim.worse)}
    assert claimed <= set(chosen.recipes) and np.all(
        [recipe in chosen.recipes for trend in chosen.trends for recipe in trend.recipes]
    )
    assert ("data.fold=0" in chosen.overrides(0, 1)) == (chosen.folds > 1)
