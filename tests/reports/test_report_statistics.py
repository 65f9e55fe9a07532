from __future__ import annotations

import io
import math

import numpy as np
import pytest
from scipy import stats

from poise.core.errors import RunError
from poise.core.wording import flatten
from poise.reports.diff import diff, to_terminal
from poise.reports.statistics import group_records, paired_interval, summary


def test_summary_equals_scipys_t_interval():
    values = [0.51, 0.48, 0.55, 0.50]
    s = summary(values, images=100)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (s.n, s.over) == (4, "seeds")
    assert (s.low, s.high) == pytest.approx((low, high), abs=1e-12)
    assert s.std == pytest.approx(np.std(values, ddof=1))


def test_a_single_run_gets_wilsons_interval_over_images():
    s = summary([0.3], images=50)
    expected = stats.binomtest(15, 50).proportion_ci(0.95, method="wilson")
    assert s.over == "images" and math.isnan(s.std)
    assert (s.low, s.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_groups_gather_seeds_and_keep_checkpoints_and_data_apart(make_record):
    records = [
        make_record(seed=0),
        make_record(seed=0, checkpoint="last"),
        make_record(seed=1),
        make_record(model="AT"),
        make_record(seed=2, split="train"),
    ]
    groups = group_records(records)
    assert [(group.key, group.checkpoint, len(group.records)) for group in groups] == [
        ("TRADES-abcd", "selected", 2),
        ("TRADES-abcd", "last", 1),
        ("AT-abcd", "selected", 1),
        ("TRADES-abcd", "selected", 1),
    ]


def test_two_protocols_on_the_same_weights_are_one_run_with_all_attacks(make_record):
    first = make_record(attacks={"PGD-20": range(10)})
    second = make_record(attacks={"PGD-20": range(10), "CW-100": range(5, 15)}, protocol="strict")
    (group,) = group_records([first, second])
    (record,) = group.records
    assert record.attack_names == ["PGD-20", "CW-100"]
    assert record.protocol == "standard + strict"
    assert record.worst_case_accuracy == 25 / 40


def test_the_paired_interval_of_identical_records_is_zero(make_record):
    interval = paired_interval([make_record()], [make_record(model="AT")], "PGD-20")
    assert (interval.difference, interval.low, interval.high) == (0, 0, 0)
    assert not interval.excludes_zero


def test_the_paired_interval_agrees_with_the_closed_form_and_has_the_sign_of_a_minus_b(make_record):
    a = make_record(attacks={"PGD-20": range(100)}, count=1000)
    b = make_record(model="AT", attacks={"PGD-20": range(20, 200)}, count=1000)
    interval = paired_interval([a], [b], "PGD-20", draws=20000)
    gaps = np.array(a.correct_under("PGD-20"), float) - np.array(b.correct_under("PGD-20"), float)
    half = 1.96 * gaps.std() / math.sqrt(1000)
    assert interval.difference == pytest.approx(0.08)
    assert interval.low == pytest.approx(0.08 - half, abs=0.0015)
    assert interval.high == pytest.approx(0.08 + half, abs=0.0015)
    assert interval.excludes_zero
    turned = paired_interval([b], [a], "PGD-20", draws=20000)
    assert (turned.difference, turned.low, turned.high) == (-interval.difference, -interval.high, -interval.low)


def test_turning_sides_negates_the_interval_of_a_tie_too(make_record):
    a = make_record(attacks={"PGD-20": range(10)})
    b = make_record(model="AT", attacks={"PGD-20": range(5, 15)})
    interval, turned = paired_interval([a], [b], "PGD-20"), paired_interval([b], [a], "PGD-20")
    assert interval.difference == 0 and interval.low < 0 < interval.high
    assert (turned.low, turned.high) == (-interval.high, -interval.low)


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says(make_record):
    rng, hits = np.random.default_rng(0), 0
    for trial in range(200):
        wrong = [np.flatnonzero(rng.random(200) < share).tolist() for share in (0.4, 0.5)]
        a, b = (make_record(attacks={"PGD-20": places}, count=200) for places in wrong)
        interval = paired_interval([a], [b], "PGD-20", draws=400, seed=trial)
        hits += interval.low <= 0.1 <= interval.high
    assert 180 <= hits <= 198


def test_the_interval_of_three_seeds_a_side_covers_the_true_difference_as_often_as_it_says(make_record):
    rng, hits = np.random.default_rng(0), 0

    def runs(model, share):  # seeds differ far more than images let one see
        shares = share + 0.05 * rng.standard_normal(3)
        return [
            make_record(model=model, seed=seed, attacks={"PGD-20": range(round(2000 * each))}, count=2000)
            for seed, each in enumerate(shares)
        ]

    for trial in range(100):
        interval = paired_interval(runs("TRADES", 0.4), runs("AT", 0.5), "PGD-20", draws=100, seed=trial)
        hits += interval.low <= 0.1 <= interval.high
    assert 90 <= hits <= 99


def test_runs_of_one_accuracy_on_the_same_images_leave_the_images_margin_alone(make_record):
    a = [make_record(seed=seed, attacks={"PGD-20": range(10)}) for seed in range(3)]
    b = [make_record(model="AT", seed=seed, attacks={"PGD-20": range(5, 20)}) for seed in range(3)]
    assert paired_interval(a, b, "PGD-20") == paired_interval(a[:1], b[:1], "PGD-20")


def test_the_margins_of_images_and_of_runs_add_up_in_squares_and_the_latter_is_welchs(make_record):
    wrong = {"TRADES": (100, 140, 150), "AT": (300, 310, 360, 330)}
    groups = [
        [
            make_record(model=model, seed=seed, attacks={"PGD-20": range(each)}, count=1000)
            for seed, each in enumerate(counts)
        ]
        for model, counts in wrong.items()
    ]
    interval = paired_interval(groups[0], groups[1], "PGD-20", draws=20000)
    welch = stats.ttest_ind(
        *(1 - np.array(counts) / 1000 for counts in wrong.values()), equal_var=False
    ).confidence_interval()
    ours, theirs = (np.mean([record.correct_under("PGD-20") for record in records], axis=0) for records in groups)
    images = 1.96 * (ours - theirs).std() / math.sqrt(1000)
    half = math.hypot(images, (welch.high - welch.low) / 2)
    assert interval.high - interval.difference == pytest.approx(half, rel=0.01)
    assert interval.difference - interval.low == pytest.approx(half, rel=0.01)


def test_seeds_that_disagree_widen_the_interval(make_record):
    other = [make_record(model="AT", seed=seed, attacks={"PGD-20": range(20)}) for seed in range(2)]
    agreeing = [make_record(seed=seed, attacks={"PGD-20": range(10)}) for seed in range(2)]
    spread = [make_record(seed=0, attacks={"PGD-20": range(0)}), make_record(seed=1, attacks={"PGD-20": range(20)})]
    narrow, wide = paired_interval(agreeing, other, "PGD-20"), paired_interval(spread, other, "PGD-20")
    assert narrow.difference == wide.difference == pytest.approx(0.25)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_what_cannot_be_paired_is_refused(make_record):
    a = make_record()
    with pytest.raises(RunError, match="not of the same data set"):
        paired_interval([a], [make_record(count=44)], "natural")
    with pytest.raises(RunError, match="their attacks are not the same"):
        paired_interval([a], [make_record(settings={"type": "PGD", "steps": 5})], "PGD-20")
    with pytest.raises(RunError, match="has no attack 'FAB'"):
        paired_interval([a], [a], "FAB")
    with pytest.raises(RunError, match="at least one record"):
        paired_interval([a], [], "natural")


def test_diff_counts_the_examples_whose_verdict_changed(make_record):
    a = make_record(natural_wrong=[0], attacks={"PGD-20": range(10)})
    b = make_record(model="AT", natural_wrong=[1, 2], attacks={"PGD-20": range(7, 15), "CW-100": range(3)})
    found = diff(a, b, {"epochs": 3, "same": 1}, {"epochs": 4, "same": 1})
    columns = {column.column: column for column in found.columns}
    assert (columns["natural"].only_a, columns["natural"].only_b, columns["natural"].changed) == (2, 1, 3)
    assert (columns["PGD-20"].only_a, columns["PGD-20"].only_b) == (5, 7)
    assert columns["PGD-20"].paired is not None and columns["PGD-20"].paired.difference == pytest.approx(-0.05)
    assert columns["CW-100"].a is None and columns["CW-100"].changed is None
    assert found.settings["model"] == ("TRADES", "AT")
    assert found.settings["experiment.epochs"] == ("3", "4")
    assert "experiment.same" not in found.settings and "seed" not in found.settings
    assert columns["worst case"].paired is None  # the attacks differ


def test_diff_of_other_images_pairs_nothing_and_can_be_printed(make_record):
    from rich.console import Console

    found = diff(make_record(), make_record(count=44))
    assert not found.same_examples
    assert all(column.paired is None and column.changed is None for column in found.columns)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(to_terminal(found))
    assert "not of the same images" in console.export_text()


def test_settings_are_worded_as_people_write_them():
    nested = {
        "type": "PGD",
        "threat": {"type": "Linf", "epsilon": 8 / 255},
        "step_size": 0.01,
        "random": True,
        "sizes": [1, 2],
    }
    assert flatten(nested) == {
        "type": "PGD",
        "threat": "Linf",
        "threat.epsilon": "8/255",
        "step_size": "0.01",
        "random": "yes",
        "sizes": "1, 2",
    }
    assert flatten({"attacks": [{"type": "A", "x": None}, {"type": "B"}]}) == {
        "attacks.0": "A",
        "attacks.0.x": "none",
        "attacks.1": "B",
    }
