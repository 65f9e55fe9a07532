"""What is called proven: paired intervals, against a named baseline or the best other method or in all pairs, with
Holm's correction.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from poise.core.errors import RunError
from poise.reports import comparisons, table
from poise.reports.collect import Run
from poise.reports.html import render
from poise.reports.proof import _corrected
from poise.reports.statistics import paired_interval


@pytest.fixture
def runs(make_record, tmp_path):
    wrong = {"AT": (3, 10), "TRADES": (4, 25), "MART": (3, 12)}
    return [
        Run(
            tmp_path / name,
            name,
            records={"selected": make_record(model=name, natural_wrong=[place], attacks={"PGD-20": range(count)})},
        )
        for name, (place, count) in wrong.items()
    ]


def test_each_method_is_held_against_the_best_other_one_by_default(runs):
    proof = comparisons(table(runs))
    robust = [(each.a, each.b) for each in proof.comparisons if each.column == "PGD-20"]
    assert robust == [("AT", "MART"), ("TRADES", "AT")], "and the best one against the second, once"
    assert [(each.a, each.b, each.column) for each in proof.comparisons if each.proven] == [
        ("TRADES", "AT", "PGD-20"),
        ("TRADES", "AT", "worst case"),
    ]
    assert "AT and TRADES and MART: one run each" in proof.cautions[0]
    assert f"Corrected for {len(proof.comparisons)} comparisons" in proof.cautions[1]


def test_the_user_names_the_baseline(runs):
    proof = comparisons(table(runs), "MART")
    assert {(each.a, each.b) for each in proof.comparisons} == {("AT", "MART"), ("TRADES", "MART")}
    with pytest.raises(
        RunError, match=r"baseline = 'MRT': must be 'all' or one of 'AT', 'TRADES', 'MART'; did you mean 'MART'"
    ):
        comparisons(table(runs), "MRT")


def test_all_pairs_are_a_matrix_of_which_one_half_is_the_other_negated(runs):
    proof = comparisons(table(runs), "all")
    matrix = proof.matrix("PGD-20")
    assert len(matrix) == 6 and len(proof.comparisons) == 3 * 3
    for a, b in matrix:
        there, back = matrix[a, b].interval, matrix[b, a].interval
        assert (there.difference, there.low, there.high) == (-back.difference, -back.high, -back.low)
        assert matrix[a, b].p == matrix[b, a].p


def test_the_page_says_what_the_documented_function_says(runs):
    for baseline in (None, "AT", "all"):
        text = render(runs, baseline=baseline)
        for each in comparisons(table(runs, "both"), baseline).comparisons:
            said = f"{each.column}: {each.a} minus {each.b} <b>{100 * each.interval.difference:+.2f}</b>"
            assert said in text and f"p {each.p:.2g})" in text
        assert text.count("<caption") == (3 if baseline == "all" else 0)


def test_one_method_has_nothing_to_be_compared_with(runs):
    assert comparisons(table(runs[:1])).comparisons == []
    assert "What is proven" not in render(runs[:1])


def test_holms_correction_is_holms(runs):
    found = comparisons(table(runs), "all").comparisons
    given = [0.01, 0.04, 0.03, 0.005, 0.5, 1.0, 0.02, 0.0, 0.6]
    raw = [dataclasses.replace(each, p=p) for each, p in zip(found, given, strict=True)]
    held = [each.p for each in _corrected(raw)]
    ordered = np.sort(given)
    stepped = np.minimum(np.maximum.accumulate(ordered * np.arange(len(given), 0, -1)), 1)
    assert held == pytest.approx([stepped[list(ordered).index(p)] for p in given])


@pytest.mark.parametrize("seed", range(6))
def test_p_is_below_the_level_exactly_where_the_interval_excludes_zero(make_record, seed):
    draw = np.random.default_rng(seed)
    groups = [
        [
            make_record(seed=run, count=200, attacks={"PGD-20": draw.choice(200, count, replace=False).tolist()})
            for run in range(size)
        ]
        for count, size in ((80, 3), (80 + 5 * seed, 1 + seed % 3))
    ]
    a, b = groups
    interval = paired_interval(a, b, "PGD-20")
    assert (interval.p < 0.05) == interval.excludes_zero
    assert interval.p == pytest.approx(paired_interval(b, a, "PGD-20").p, rel=1e-6)


def test_p_of_one_run_each_is_near_mcnemars(make_record):
    a, b = (
        make_record(count=400, attacks={"PGD-20": range(100)}),
        make_record(count=400, attacks={"PGD-20": range(30, 160)}),
    )
    interval = paired_interval([a], [b], "PGD-20")
    exact = stats.binomtest(30, 90).pvalue
    assert math.log10(interval.p) == pytest.approx(math.log10(exact), abs=0.6)


def test_few_images_prove_nothing_however_they_fall(make_record):
    """Four images of forty decided otherwise, all in one direction: a sign test has p = 1/8 at best."""
    a, b = make_record(attacks={"PGD-20": range(10)}), make_record(attacks={"PGD-20": range(14)})
    assert paired_interval([a], [b], "PGD-20").p == pytest.approx(0.125)
    assert paired_interval([a], [a], "PGD-20").p == 1
