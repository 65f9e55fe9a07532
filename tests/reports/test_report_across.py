"""Not tuning's regret and the agreement of regret with error, on records made by hand."""

from __future__ import annotations

import json

import pytest

from poise.core.errors import RunError
from poise.reports import read_runs
from poise.reports.across import agreement, regretted, score, untuned


@pytest.fixture
def measured(make_record):
    """Records of choices from the numbers of images wrong: natural, and under attack."""

    def make(**wrong):
        return {
            name: [
                make_record(model=name, seed=seed, natural_wrong=range(n), attacks={"PGD-20": range(a)})
                for seed, (n, a) in enumerate(pairs)
            ]
            for name, pairs in wrong.items()
        }

    return make


def test_the_score_is_the_mean_of_natural_plus_worst_case(measured):
    assert score(measured(a=[(4, 20), (8, 20)])["a"]) == pytest.approx((0.9 + 0.5 + 0.8 + 0.5) / 2)


def test_the_regret_is_the_best_on_the_target_less_the_choice_of_the_source(measured):
    source = measured(early=[(0, 10)], late=[(0, 20)], half=[(0, 30)])
    target = measured(early=[(10, 24), (10, 24)], late=[(4, 20), (4, 20)], half=[(20, 40), (20, 40)])
    found = untuned(source, target)
    assert (found.chosen, found.best) == ("early", "late")
    assert found.regret == pytest.approx((0.9 + 0.5) - (0.75 + 0.4))
    assert found.spread == pytest.approx(1.4 - 0.5)
    assert found.natural is not None and found.natural.difference == pytest.approx(0.15) and found.natural.excludes_zero
    assert found.worst is not None and found.worst.difference == pytest.approx(0.1)


def test_a_choice_that_is_the_best_there_too_costs_nothing(measured):
    source = measured(a=[(0, 10)], b=[(0, 20)])
    for target in (measured(a=[(0, 5)], b=[(0, 6)]), measured(b=[(0, 5)], a=[(0, 5)])):
        found = untuned(source, target)
        assert (found.chosen, found.best, found.regret, found.natural, found.worst) == ("a", "a", 0, None, None)


def test_kendalls_tau_by_hand():
    names = "abcdef"
    rising = dict(zip(names, range(6), strict=True))
    same, opposite = agreement(rising, rising), agreement(rising, {name: -value for name, value in rising.items()})
    assert (same.tau, opposite.tau, same.settings) == (pytest.approx(1), pytest.approx(-1), 6)
    assert same.p == pytest.approx(2 / 720) == opposite.p
    assert same.text.startswith("lower R_T goes with lower error") and "higher error" in opposite.text
    one_swapped = agreement({"a": 0, "b": 1, "c": 2}, {"a": 1, "b": 0, "c": 2})
    assert one_swapped.tau == pytest.approx(1 / 3) and one_swapped.text.startswith("no relation")


def test_regrets_are_held_against_the_best_of_each_run_and_of_all(make_record, make_run):
    """By hand: two learners, three rounds; the second run has seen a better robust network than the first."""
    for name, suffered, least in (("TRADES", (0.2, 0.8), (0.1, 0.7)), ("AT", (0.3, 0.6), (0.2, 0.4))):
        folder = make_run(
            make_record(model=name, checkpoint="last", natural_wrong=range(4), attacks={"PGD-20": range(20)})
        )
        own = 3 * sum(a - b for a, b in zip(suffered, least, strict=True)) / 2
        lines = [{"kind": "epoch", "epoch": e, "step": e, "regret/tradeoff": own * e / 3} for e in (1, 2, 3)]
        for learner, mean, best in zip(("natural", "robust"), suffered, least, strict=True):
            lines[-1] |= {f"regret/{learner} suffered": mean, f"regret/{learner} least": best}
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = regretted(read_runs(folder.parent))
    assert found.own == {"TRADES": pytest.approx(0.1), "AT": pytest.approx(0.15)}
    assert found.common == {"TRADES": pytest.approx((0.1 + 0.4) / 2), "AT": pytest.approx((0.2 + 0.2) / 2)}
    assert found.errors == dict.fromkeys(("TRADES", "AT"), pytest.approx(1 - (0.9 + 0.5) / 2))


def test_refusals(measured, make_record, make_run):
    with pytest.raises(RunError, match=r"the source \(a\) and on the target \(a, b\) must be the same"):
        untuned(measured(a=[(0, 1)]), measured(a=[(0, 1)], b=[(0, 1)]))
    with pytest.raises(RunError, match="'a': no record"):
        untuned({"a": []}, measured(a=[(0, 1)]))
    weaker = {"a": [make_record()], "b": [make_record(attacks={"CW-100": range(3)})]}
    with pytest.raises(RunError, match="different attacks or images"):
        untuned(weaker, weaker)
    with pytest.raises(RunError, match="at least three"):
        agreement({"a": 1.0}, {"a": 1.0})
    with pytest.raises(RunError, match="no order to compare"):
        agreement(dict.fromkeys("abc", 1.0), {"a": 1.0, "b": 2.0, "c": 3.0})
    runs = read_runs(make_run(make_record()))
    with pytest.raises(RunError, match=r"is not diagnosed \(diagnosis=Diagnosis\)"):
        regretted(runs)
    runs[0].metrics.append(
        {"epoch": 1, "regret/tradeoff": 0.1, "regret/natural suffered": 0.2, "regret/natural least": 0.1}
    )
    with pytest.raises(RunError, match="has no record of 'last'"):
        regretted(runs)
