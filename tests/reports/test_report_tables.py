from __future__ import annotations

import csv
import dataclasses
import io
from typing import Any

import numpy as np
import pytest

from poise.core.errors import RunError
from poise.core.records import EvaluationRecord
from poise.reports import Table, read_runs, table, to_csv, to_latex, to_markdown, to_terminal
from poise.reports.collect import Run
from poise.reports.plots import per_class

PGD = {"type": "PGD", "threat": {"type": "Linf", "epsilon": 8 / 255}, "step_size": 2 / 255, "steps": 20}
HOSTILE = r"a_b & 50% $x$ #1 {y} ~^\z <script>alert(1)</script> | *w*"


def runs_of(tmp_path, *records):
    return [
        Run(tmp_path / str(place), record.run, records={record.checkpoint: record})
        for place, record in enumerate(records)
    ]


def cells(shown, row, *columns):
    labels = [column.label for column in shown.columns]
    return [shown.rows[row].cells[labels.index(column)] for column in columns]


def test_columns_are_natural_each_attack_and_the_worst_case_with_absent_ones_dashed(make_record, tmp_path):
    a = make_record(natural_wrong=[39], attacks={"PGD-20": range(10)})
    b = make_record(model="AT", attacks={"CW-100": range(30)})
    shown = table(runs_of(tmp_path, a, b))
    assert [column.label for column in shown.columns] == ["natural", "PGD-20", "CW-100", "worst case"]
    assert [cell.text for cell in shown.rows[0].cells] == ["97.50", "75.00", "-", "-"]
    assert [cell.text for cell in shown.rows[1].cells] == ["100.00", "-", "25.00", "-"]


def test_seeds_become_mean_and_sample_deviation(make_record, tmp_path):
    shown = table(runs_of(tmp_path, *(make_record(seed=s, attacks={"PGD-20": range(10 * s)}) for s in (1, 2, 3))))
    (cell,) = cells(shown, 0, "PGD-20")
    assert cell.text == "50.00 ± 25.00 (std, 3)"
    assert cell.spread == pytest.approx(np.std([75, 50, 25], ddof=1))
    assert "t over 3 seeds" in cell.detail


def test_ties_share_the_best_mark_and_the_next_value_is_second(make_record, tmp_path):
    wrong = {"A": 4, "B": 4, "C": 8, "D": 12}
    shown = table(
        runs_of(
            tmp_path, *(make_record(model=model, attacks={"PGD-20": range(count)}) for model, count in wrong.items())
        )
    )
    assert [cells(shown, row, "PGD-20")[0].mark for row in range(4)] == ["best", "best", "second", ""]
    assert [cells(shown, row, "natural")[0].mark for row in range(4)] == ["best"] * 4


def test_a_single_row_is_not_the_best_of_anything(make_record, tmp_path):
    assert {cell.mark for cell in table(runs_of(tmp_path, make_record())).rows[0].cells} == {""}


def test_a_worst_case_is_over_all_columns_that_are_shown_or_there_is_none(make_record, tmp_path):
    shown = table(
        runs_of(tmp_path, make_record(), make_record(model="AT", attacks={"PGD-20": range(5), "CW-100": range(5)}))
    )
    assert [cells(shown, row, "worst case")[0].text for row in (0, 1)] == ["-", "87.50"]
    said = "No worst case of TRADES: it would not be over all columns that are shown, for every run."
    assert said in shown.notes and said in to_markdown(shown)


def test_a_worst_case_of_some_runs_does_not_stand_beside_columns_of_others(make_record, tmp_path):
    """AutoAttack of one seed, PGD of three: the worst case of three would lie above AutoAttack's column."""
    records = [make_record(seed=seed, attacks={"PGD-20": range(20)}) for seed in range(3)]
    strong = make_record(seed=0, protocol="autoattack", attacks={"AutoAttack": range(26)}, settings=AA)
    runs = [Run(tmp_path / str(place), "x", records={"selected": record}) for place, record in enumerate(records)]
    runs[0].records["selected-autoattack"] = strong
    shown = table(runs)
    assert [cell.text for cell in cells(shown, 0, "PGD-20", "AutoAttack", "worst case")] == [
        "50.00 ± 0.00 (std, 3)",
        "35.00 (1)",
        "-",
    ]
    runs[1].records["selected-autoattack"] = dataclasses.replace(strong, **told(records[1]))
    runs[2].records["selected-autoattack"] = dataclasses.replace(strong, **told(records[2]))
    whole = table(runs)
    assert [cell.text for cell in cells(whole, 0, "AutoAttack", "worst case")] == ["35.00 ± 0.00 (std, 3)"] * 2


def told(record: EvaluationRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in ("run", "seed", "model_digest")}


@pytest.mark.parametrize("seed", range(20))
def test_no_worst_case_exceeds_a_column_of_its_row(make_record, tmp_path, seed):
    draw = np.random.default_rng(seed)
    names, records = ["PGD-20", "CW-100", "FGSM"], []
    for model in ("A", "B"):
        for run in range(2):
            for part in range(2):
                attacks = {
                    name: draw.choice(40, draw.integers(1, 30), replace=False)
                    for name in draw.permutation(names)[: 1 + part]
                }
                corrupted = {"corruptions": {"mean": draw.random()}} if draw.random() < 0.3 else {}
                count = 40 if draw.random() < 0.8 else 30
                attacks = {name: [int(place) for place in wrong if place < count] for name, wrong in attacks.items()}
                records.append(
                    make_record(
                        model=model, seed=run, protocol=f"p{part}", attacks=attacks, count=count, notes=corrupted
                    )
                )
    shown = table(runs_of(tmp_path, *records))
    for row in shown.rows:
        worst = [cell.value for cell, column in zip(row.cells, shown.columns, strict=True) if column.worst]
        others = [
            cell.value
            for cell, column in zip(row.cells, shown.columns, strict=True)
            if not column.worst and cell.value is not None
        ]
        assert all(value is None or value <= min(others) for value in worst)


def test_rows_of_other_images_of_one_number_say_so(make_record, tmp_path):
    shown = table(
        runs_of(tmp_path, make_record(), make_record(model="AT", labels=[3] * 40, natural=[3] * 40, attacks={}))
    )
    assert [row.data for row in shown.rows] == ["Digits test, 40 images", "Digits test, 40 images (others, 2)"]
    assert "| method | data |" in to_markdown(shown)


def test_rows_trained_in_different_arithmetics_are_named_below_the_table(make_record, tmp_path):
    arithmetics = {"A": "float32", "B": "float32", "C": "bfloat16", "D": None}
    told = [
        make_record(model=name, notes={} if dtype is None else {"trained_in": dtype})
        for name, dtype in arithmetics.items()
    ]
    assert table(runs_of(tmp_path, *told[:2], told[3])).notes == table(runs_of(tmp_path, told[2], told[3])).notes == []
    (note,) = table(runs_of(tmp_path, *told)).notes
    assert note == "Rows were trained in different arithmetics. bfloat16: C; float32: A, B."


def test_one_attack_name_with_two_settings_makes_two_columns(make_record, tmp_path):
    a = make_record(settings={"type": "PGD", "steps": 10})
    b = make_record(model="AT", settings={"type": "PGD", "steps": 20})
    labels = [column.label for column in table(runs_of(tmp_path, a, b)).columns]
    assert labels == ["natural", "PGD-20 [steps=10]", "PGD-20 [steps=20]", "worst case"]


def test_checkpoints_are_chosen_and_ranked_apart(make_record, make_run):
    for model, wrong in (("AT", 5), ("TRADES", 10)):
        make_run(
            make_record(model=model, attacks={"PGD-20": range(wrong)}),
            make_record(model=model, checkpoint="last", attacks={"PGD-20": range(wrong + 1)}),
        )
    folder = make_run(make_record(model="MART", checkpoint="epoch 80"))
    runs = read_runs(folder.parent)
    assert [(r.label, r.checkpoint) for r in table(runs).rows] == [
        ("AT", "selected"),
        ("TRADES", "selected"),
        ("MART", "epoch 80"),
    ]
    both = table(runs[:1] + runs[2:], "both")
    assert [(r.label, r.checkpoint) for r in both.rows] == [
        ("AT", "selected"),
        ("TRADES", "selected"),
        ("AT", "last"),
        ("TRADES", "last"),
    ]
    assert [cells(both, row, "PGD-20")[0].mark for row in range(4)] == ["best", "second", "best", "second"]
    assert "| method | checkpoint |" in to_markdown(both)
    with pytest.raises(RunError, match="must be 'selected'"):
        table(runs, "first")  # type: ignore[arg-type]
    with pytest.raises(RunError, match="no run has an evaluation record"):
        table(runs[1:2], "last")


def test_records_of_weights_that_a_run_had_before_it_was_trained_on_do_not_count(make_record, make_run):
    """Evaluated in the middle of its training, then trained to its end: one run, of its present weights."""
    old = make_record(
        model_digest="before", natural_wrong=range(20), started="2026-01-01T00:00:00", protocol="autoattack"
    )
    new = make_record(started="2026-01-02T00:00:00")
    folder = make_run(new)
    old.write(folder / "records" / "selected-autoattack.json")
    (run,) = read_runs([folder])
    assert list(run.records) == ["selected"]
    shown = table([run])
    assert [row.cells[0].text for row in shown.rows] == ["100.00"]
    assert shown.notes == ["Not of TRADES's present weights, left out: selected-autoattack.json."]


def test_what_is_known_of_a_papers_columns_stands_below_the_table(make_record, tmp_path):
    paper = {
        "table": "Table 1",
        "row": "TRADES",
        "columns": {"PGD-20": 50.0},
        "note": "ten steps_whatever",
        "measured": {"PGD-20": [PGD]},
    }
    records = [make_record(notes={"published": {**paper, "row": row}}, model=row) for row in ("TRADES", "MART")]
    one = table([Run(tmp_path, "x", records={"selected": records[0]})])
    assert one.notes == ["Published in Table 1, TRADES: ten steps_whatever."] and r"steps\_whatever" in to_markdown(one)
    both = table(
        [Run(tmp_path / row, row, records={"selected": each}) for row, each in zip("ab", records, strict=True)]
    )
    assert both.notes == ["Published in Table 1: ten steps_whatever."]


def test_a_published_row_is_labelled_placed_and_never_ranked(make_record, tmp_path):
    paper = {
        "table": "Table 1",
        "columns": {"natural": 99.9, "PGD20": 98.0, "AA": 46.07},
        "spread": {"natural": 0.1},
        "runs": 5,
    }
    paper |= {"measured": {"PGD20": [PGD]}}
    a = make_record(notes={"published": paper}, natural_wrong=[1])
    shown = table(runs_of(tmp_path, a, make_record(model="AT", natural_wrong=[1, 2])))
    assert [row.kind for row in shown.rows] == ["measured", "published", "measured"]
    assert shown.rows[1].label == "TRADES, published (Table 1)"
    assert [cell.text for cell in cells(shown, 1, "natural", "PGD-20", "AA (published)", "worst case")] == [
        "99.90 ± 0.10 (std, 5)",
        "98.00 (5)",
        "46.07 (5)",
        "-",
    ]
    assert {cell.mark for cell in shown.rows[1].cells} == {""}
    assert cells(shown, 0, "natural")[0].mark == "best"


AA = {"type": "AutoAttack", "threat": {"type": "Linf", "epsilon": 8 / 255}, "version": "standard"}
TRADES_PGD = {**PGD, "threat": {"type": "Linf", "epsilon": 0.031}, "step_size": 0.003}
EUCLIDEAN = {**PGD, "threat": {"type": "L2", "epsilon": 0.5}}


@pytest.mark.parametrize(
    ("settings", "printed", "shown"),
    [
        (PGD, PGD, True),
        (PGD, TRADES_PGD, False),
        (EUCLIDEAN, PGD, False),
        ({**PGD, "steps": 40}, PGD, False),
        ({**PGD, "restarts": 5}, PGD, False),
    ],
)
def test_a_printed_number_stands_only_under_the_attack_that_it_is_of(make_record, tmp_path, settings, printed, shown):
    """Not under another of its name: 57.73 of steps of .003 within .031 is no PGD-20 of steps of 2/255 within 8/255,
    nor in L2.
    """
    paper = {
        "table": "Table 3",
        "row": "ST",
        "columns": {"natural": 84.92, "PGD-20": 57.73},
        "measured": {"PGD-20": [printed]},
    }
    found = table(runs_of(tmp_path, make_record(settings=settings, notes={"published": paper})))
    assert [row.kind for row in found.rows] == ["measured", "published"] if shown else ["measured"]
    if shown:
        assert cells(found, 1, "PGD-20")[0].value == 57.73
    else:
        assert found.notes == [
            "Published in Table 3, ST, by other attacks, threats or settings than any here: not shown."
        ]


def test_of_a_row_that_fits_in_part_the_rest_stands_in_columns_of_its_own_that_say_by_what(make_record, tmp_path):
    paper = {"columns": {"AA": 53.54, "PGD-20": 57.73}, "measured": {"AA": [AA], "PGD-20": [TRADES_PGD]}}
    record = make_record(notes={"published": paper})
    strong = make_record(attacks={"AutoAttack": range(20)}, settings=AA).attacks
    found = table(runs_of(tmp_path, dataclasses.replace(record, attacks=[*record.attacks, *strong])))
    labels = [column.label for column in found.columns]
    here, there = (label for label in labels if label.startswith("PGD-20"))
    assert "0.031" in there and "0.003" in there and "8/255" in here
    assert [cell.value for cell in cells(found, 1, here, there, "AutoAttack")] == [None, 57.73, 53.54]


def test_records_that_do_not_say_how_a_number_was_measured_have_it_from_the_experiments_own_protocol(
    make_record, tmp_path
):
    paper = {"table": "T", "columns": {"PGD-20": 50.0}}
    for own, kinds in ((PGD, ["measured", "published"]), (TRADES_PGD, ["measured"])):
        run = Run(
            tmp_path,
            "x",
            {"protocol": {"attacks": [own]}},
            records={"selected": make_record(notes={"published": paper})},
        )
        assert [row.kind for row in table([run]).rows] == kinds


ADAPTIVE = {"type": "AdaptivePGD", "threat": {"type": "Linf", "epsilon": 0.03}, "restarts": 5}


def test_the_adaptive_column_of_the_paper_is_the_stronger_attack_as_a_whole_beside_our_stricter_one(
    make_record, tmp_path
):
    aims = {aim: {**ADAPTIVE, "aims": [aim], "lambdas": [0.2]} for aim in ("confidence", "mismatch")}
    wrong = {"confidence": range(10), "mismatch": range(6, 20)}
    attacks = [
        make_record(attacks={f"AdaptivePGD-50x5-{aim}-0.2": wrong[aim]}, settings=aims[aim]).attacks[0] for aim in aims
    ]
    strict = make_record(
        attacks={"AdaptivePGD-50x5": range(20)}, settings={**ADAPTIVE, "aims": list(aims), "lambdas": [0, 0.2]}
    ).attacks
    paper = {"columns": {"AdaptivePGD-50x5": 45.6}, "measured": {"AdaptivePGD-50x5": list(aims.values())}}
    found = table(
        runs_of(tmp_path, dataclasses.replace(make_record(notes={"published": paper}), attacks=[*attacks, *strict]))
    )
    columns = ("AdaptivePGD-50x5, the stronger one as a whole", "AdaptivePGD-50x5", "worst case")
    assert [cell.value for cell in cells(found, 0, *columns)] == [65.0, 50.0, 50.0]
    assert [cell.value for cell in cells(found, 1, *columns)] == [45.6, None, None]


@pytest.mark.parametrize(
    ("plus_minus", "text", "std", "ends"),
    [
        ("standard deviation", "54.62 ± 0.14 (std, 7)", "0.14", ["", ""]),
        ("95 % interval", "54.62 ± 0.14 (95 %, 7)", "", ["54.48", "54.76"]),
        ("not stated", "54.62 ± 0.14 (of a kind not stated, 7)", "", ["", ""]),
    ],
)
def test_every_plus_minus_says_what_it_is_in_every_format(make_record, tmp_path, plus_minus, text, std, ends):
    paper = {
        "table": "T",
        "columns": {"PGD-20": 54.62},
        "spread": {"PGD-20": 0.14},
        "runs": 7,
        "plus_minus": plus_minus,
    }
    paper |= {"measured": {"PGD-20": [PGD]}}
    shown = table(
        runs_of(tmp_path, make_record(notes={"published": paper}), make_record(seed=1, notes={"published": paper}))
    )
    latex = text.replace("±", r"$\pm$").replace("%", r"\%")
    assert text in to_markdown(shown) and latex in to_latex(shown) and text.partition(" ")[2] in render_of(shown)
    line = list(csv.DictReader(io.StringIO(to_csv(shown))))[1]
    assert [line["PGD-20 std"], line["PGD-20 low"], line["PGD-20 high"], line["PGD-20 runs"]] == [std, *ends, "7"]
    assert line["PGD-20 ± not stated"] == ("0.14" if plus_minus == "not stated" else "")
    if plus_minus != "not stated":
        kind = {"standard deviation": "(std, n): standard deviation", "95 % interval": "(95 %, n): 95 % interval"}[
            plus_minus
        ]
        assert any(kind in note for note in shown.notes)


def render_of(shown: Table) -> str:
    from rich.console import Console

    console = Console(width=300, record=True, file=io.StringIO())
    console.print(to_terminal(shown))
    return console.export_text()


def test_worst_cases_within_other_threats_are_columns_of_their_own(make_record, tmp_path):
    """Also where both threats have attacks of one name."""

    def within(epsilon: float) -> dict[str, Any]:
        return {"type": "PGD", "threat": {"type": "Linf", "epsilon": epsilon}, "steps": 20}

    own = make_record(protocol="own", attacks={"PGD-20": range(8)}, settings=within(0.03))
    more = make_record(protocol="strict", attacks={"PGD-100": range(4, 12)}, settings=within(0.03))
    far = make_record(protocol="strict-eps0.3", attacks={"PGD-20": range(40)}, settings=within(0.3))
    run = Run(tmp_path, "x", {}, records={"a": own, "b": more, "c": far})
    shown = table([run])
    assert [each.label for each in shown.columns[-2:]] == ["worst case [Linf 0.03]", "worst case [Linf 0.3]"]
    near, away = cells(shown, 0, "worst case [Linf 0.03]", "worst case [Linf 0.3]")
    assert [near.value, away.value] == [70.0, 0.0]
    assert "any of 2 attacks" in near.detail and "the one attack" in away.detail
    assert table([Run(tmp_path, "x", {}, records={"a": own, "b": more})]).columns[-1].label == "worst case"


def test_the_worst_case_is_over_all_attacks_of_one_name(make_record):
    record = make_record(attacks={"PGD-20": range(8)})
    twice = dataclasses.replace(record, attacks=[*record.attacks, *make_record(attacks={"PGD-20": range(20)}).attacks])
    assert twice.worst_case_accuracy == 0.5


SETS = {"s3: SGM": range(5), "s3: M-PGD": range(3, 12)}


def shown_images(epsilon: float = 0.03) -> dict[str, Any]:
    return {"type": "Saved", "threat": {"type": "Linf", "epsilon": epsilon}, "digest": "abc"}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_each_whole_transfer_protocol_is_a_column_beside_what_else_the_run_was_attacked_by(
    make_record, tmp_path, order
):
    notes = {
        "published": {
            "table": "Tables 1 to 3 (epsilon 0.03)",
            "columns": {"soe-transfer-3": 78.8, "soe-transfer-30": 61.1},
        }
    }
    records = [
        make_record(
            protocol="soe-adaptive-eps0.03",
            notes=notes,
            attacks={"PGD-50x5": range(30)},
            settings={**shown_images(), "type": "PGD"},
        ),
        make_record(protocol="soe-transfer-3-0.03", notes=notes, attacks=SETS, settings=shown_images()),
        make_record(
            protocol="soe-transfer-30-0.03",
            notes=notes,
            attacks={**SETS, "s5: SGM": range(20)},
            settings=shown_images(),
        ),
    ]
    shown = table([Run(tmp_path, "x", {}, records={str(place): records[place] for place in order})])
    assert sorted(each.label for each in shown.columns[-3:]) == [
        "soe-transfer-3-0.03",
        "soe-transfer-30-0.03",
        "worst case",
    ]
    measured, published = (
        cells(shown, row, "soe-transfer-3-0.03", "soe-transfer-30-0.03", "worst case") for row in (0, 1)
    )
    assert [cell.value for cell in measured] == [70.0, 50.0, 25.0]
    assert "any of the 2 sets of images" in measured[0].detail
    assert [cell.value for cell in published] == [78.8, 61.1, None]
    assert {"soe-transfer-3", "soe-transfer-30"}.isdisjoint(each.label for each in shown.columns)


def both(runs: list[Run]) -> dict[str, EvaluationRecord]:
    """The records of two runs as if they were of one."""
    first = runs[0].records["selected"]
    return {
        run.name: dataclasses.replace(
            run.records["selected"], run=first.run, group=first.group, model_digest=first.model_digest
        )
        for run in runs
    }


def test_transfer_protocols_of_other_images_are_columns_of_their_own(make_record, tmp_path):
    runs = [
        Run(
            tmp_path,
            name,
            {},
            records={"selected": make_record(model=name, protocol="soe-transfer-3-0.03", attacks=SETS, settings=each)},
        )
        for name, each in (("x", shown_images()), ("y", {**shown_images(), "digest": "other"}))
    ]
    together = table([Run(tmp_path, "x", {}, records=both(runs))])
    assert [cell.value for cell in together.rows[0].cells if cell.value is not None][-3:-1] == [
        70.0,
        70.0,
    ], "one run, two sets"
    shown = table(runs)
    labels = ("soe-transfer-3-0.03 [images 1]", "soe-transfer-3-0.03 [images 2]")
    assert [[cell.value for cell in cells(shown, row, *labels)] for row in (0, 1)] == [[70.0, None], [None, 70.0]]


@pytest.mark.parametrize("protocol", ["soe-transfer-30-part-0.03", "soe-transfer-3-0.03"])
def test_a_published_protocol_is_no_other_and_no_part_of_it(make_record, tmp_path, protocol):
    a = make_record(
        protocol=protocol,
        notes={"published": {"columns": {"soe-transfer-30": 61.1}}},
        attacks=SETS,
        settings=shown_images(),
    )
    shown = table([Run(tmp_path, "x", {}, records={"selected": a})])
    assert [row.kind for row in shown.rows] == ["measured"]
    assert "soe-transfer-30" not in [column.label for column in shown.columns]


@pytest.mark.parametrize("epsilon", [0.03, 8 / 255, 0.07])
def test_published_numbers_stand_only_beside_measurements_of_their_epsilon(make_record, tmp_path, epsilon):
    own = {"type": "PGD", "threat": {"type": "Linf", "epsilon": 0.03}}
    paper = {
        "table": "Tables 1 to 3 (CIFAR-10, epsilon 0.03)",
        "columns": {"soe-transfer-3": 78.8, "PGD-50x5": 47.8, "natural": 80.2},
    }
    paper |= {"measured": {"PGD-50x5": [own]}}
    settings = {**own, "threat": {"type": "Linf", "epsilon": epsilon}}
    white = make_record(
        protocol="soe-adaptive", notes={"published": paper}, attacks={"PGD-50x5": range(10)}, settings=settings
    )
    images = make_record(protocol=f"soe-transfer-3-{epsilon:g}", attacks=SETS, settings=shown_images(epsilon))
    shown = table(runs_of(tmp_path, white, images))
    labels = [each.label for each in shown.columns]
    assert len(labels) == len(set(labels))
    if epsilon != 0.03:
        assert [row.kind for row in shown.rows] == ["measured"]
        return
    assert [cell.value for cell in cells(shown, 1, "natural", "soe-transfer-3-0.03", "PGD-50x5")] == [80.2, 78.8, 47.8]
    assert sum(cell.value is not None for cell in shown.rows[1].cells) == 3


def test_no_published_row_stands_beside_what_was_measured_on_other_data(make_record, tmp_path):
    paper = {"table": "T", "columns": ["natural"], "values": [90.0], "spread": [], "runs": None}
    other = make_record(notes={"tested_on": "other"}, dataset="other", count=44)
    run = Run(tmp_path, "x", {"published": paper}, records={"selected-on-other": other})
    assert [row.kind for row in table([run]).rows] == ["measured"]
    for records in ({"selected": make_record(), "other": other}, {"other": other, "selected": make_record()}):
        shown = table([Run(tmp_path, "x", {"published": paper}, records=records)])
        assert [(row.kind, row.data.split()[0]) for row in shown.rows if row.data.startswith("Digits")] == [
            ("measured", "Digits"),
            ("published", "Digits"),
        ]
        assert len(shown.rows) == 3


def test_the_bars_of_classes_are_of_one_threat(make_record, tmp_path):
    def within(epsilon: float) -> dict[str, Any]:
        return {"type": "PGD", "threat": {"type": "Linf", "epsilon": epsilon}, "steps": 20}

    near = make_record(protocol="own", attacks={"PGD-20": range(8)}, settings=within(0.03))
    far = make_record(protocol="far", attacks={"PGD-20": range(40)}, settings=within(0.3))
    shown = table([Run(tmp_path, "x", {}, records={"a": near, "b": far})])
    (group,) = shown.groups
    _, worst = per_class(group, [column for column in shown.columns if column.worst])
    assert worst.tolist() == [0.8] * 4


def test_a_published_row_is_found_in_the_settings_too(make_record, tmp_path):
    paper = {"table": "T", "columns": ["natural", "PGD-20"], "values": [90.0, None], "spread": [], "runs": None}
    run = Run(tmp_path, "x", {"published": paper}, records={"selected": make_record()})
    assert [cell.text for cell in table([run]).rows[1].cells] == ["90.00", "-", "-"]


def test_rows_of_further_tables_stand_beside_the_first(make_record, tmp_path):
    first = {
        "table": "Table 1",
        "columns": ["natural", "PGD-20"],
        "values": [82.4, 52.0],
        "spread": [0.1, None],
        "runs": 7,
    }
    further = {"table": "Table 5", "columns": ["natural", "AA"], "values": [82.66, 47.62], "spread": [], "runs": None}
    settings = {"published": first, "also_published": [further], "protocol": {"attacks": [PGD, AA]}}
    strong = make_record(attacks={"AutoAttack": range(22)}, settings=AA).attacks
    record = dataclasses.replace(make_record(), attacks=[*make_record().attacks, *strong])
    noted = {
        "published": {
            **first,
            "columns": {"natural": 82.4, "PGD-20": 52.0},
            "spread": {"natural": 0.1},
            "measured": {"PGD-20": [PGD]},
        },
        "also_published": [{**further, "columns": {"natural": 82.66, "AA": 47.62}, "measured": {"AA": [AA]}}],
    }
    noting = dataclasses.replace(record, notes=noted)
    for run in (Run(tmp_path, "x", settings, records={"selected": record}), *runs_of(tmp_path, noting)):
        shown = table([run])
        assert [row.label for row in shown.rows][1:] == ["TRADES, published (Table 1)", "TRADES, published (Table 5)"]
        assert [[cell.text for cell in cells(shown, row, "natural", "PGD-20", "AutoAttack")] for row in (1, 2)] == [
            ["82.40 ± 0.10 (std, 7)", "52.00 (7)", "-"],
            ["82.66", "-", "47.62"],
        ]


def test_a_paper_that_prints_no_numbers_has_no_row(make_record, tmp_path):
    paper = {
        "table": "Figure 6",
        "columns": [],
        "values": [],
        "spread": [],
        "runs": None,
        "note": "no numbers are printed",
    }
    noted = make_record(notes={"published": {**paper, "columns": {}, "spread": {}}})
    for run in (
        Run(tmp_path, "x", {"published": paper}, records={"selected": make_record()}),
        *runs_of(tmp_path, noted),
    ):
        assert [row.kind for row in table([run]).rows] == ["measured"]


def test_models_of_the_same_name_are_told_apart_by_what_they_differ_in_and_never_by_a_digest(make_record, tmp_path):
    method = {"type": "Joint", "policy": {"type": "Policy", "objective": {"type": "TRADES", "beta": 6.0}}}
    base = {
        "name": "trades",
        "model": {"type": "ResNet18", "width": 64},
        "epochs": 120,
        "method": method,
        "data": {"type": "CIFAR10"},
    }
    beta = {**base, "method": {**method, "policy": {"type": "Policy", "objective": {"type": "TRADES", "beta": 3.0}}}}
    network = {**base, "model": {"type": "VGG16"}, "epochs": 3}
    thin = {**base, "model": {"type": "ResNet18", "width": 8}}
    few = {**base, "data": {"type": "CIFAR10", "train_images": 500}}

    def labels(*settings: dict[str, Any]) -> list[str]:
        records = [make_record(group=f"TRADES-{place}111", run=f"r{place}") for place, _ in enumerate(settings)]
        runs = [
            Run(tmp_path / r.run, r.run, each, records={"selected": r})
            for r, each in zip(records, settings, strict=True)
        ]
        return [row.label for row in table(runs).rows]

    assert labels(base, beta) == ["TRADES, beta 6", "TRADES, beta 3"]
    assert labels(base, network) == ["TRADES, ResNet-18, 120 epochs", "TRADES, VGG-16, 3 epochs"]
    assert labels(base, thin) == ["TRADES, ResNet-18, width 64", "TRADES, ResNet-18, width 8"]
    assert labels(base, few) == ["TRADES, all training images", "TRADES, 500 training images"]
    assert labels(base, {**base, "seed": 4}) == [
        "TRADES (run r0)",
        "TRADES (run r1)",
    ], "nothing that counts is different"
    assert labels({}, {}) == ["TRADES (run r0)", "TRADES (run r1)"]
    same = table(runs_of(tmp_path, make_record(group="TRADES-1111"), make_record(group="TRADES-2222")))
    assert [row.label for row in same.rows] == ["TRADES (run TRADES-0) (1)", "TRADES (run TRADES-0) (2)"]


def test_markdown_csv_and_terminal_agree(make_record, tmp_path):
    from rich.console import Console

    shown = table(
        runs_of(
            tmp_path, make_record(attacks={"PGD-20": range(10)}), make_record(model="AT", attacks={"PGD-20": range(11)})
        )
    )
    markdown = to_markdown(shown).splitlines()
    assert markdown[2] == "| TRADES | **100.00** | **75.00** | **75.00** |"
    assert markdown[3] == "| AT | **100.00** | *72.50* | *72.50* |"
    lines = list(csv.DictReader(io.StringIO(to_csv(shown))))
    assert [line["PGD-20"] for line in lines] == ["75.00", "72.50"]
    assert lines[0]["PGD-20 std"] == "" and float(lines[0]["PGD-20 low"]) < 75 < float(lines[0]["PGD-20 high"])
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(to_terminal(shown))
    assert "72.50" in console.export_text()


def test_latex_escapes_hostile_names_and_marks_best_and_second(make_record, tmp_path):
    shown = table(
        runs_of(
            tmp_path,
            make_record(model=HOSTILE, attacks={"P_20%": range(4)}),
            make_record(model="B", attacks={"P_20%": range(5)}),
        )
    )
    latex = to_latex(shown)
    assert (
        r"a\_b \& 50\% \$x\$ \#1 \{y\} \textasciitilde{}\textasciicircum{}\textbackslash{}z \textless{}script" in latex
    )
    assert r"P\_20\%" in latex and r"\textbf{90.00}" in latex and r"\underline{87.50}" in latex
    rows = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert all(line.replace(r"\&", "").count("&") == 3 for line in rows)


def test_markdown_escapes_hostile_names(make_record, tmp_path):
    markdown = to_markdown(table(runs_of(tmp_path, make_record(model=HOSTILE))))
    assert "<script>" not in markdown and r"\| \*w\*" in markdown


# -- the terminal ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [24, 40, 80, 132, 400])
def test_no_digit_is_cut_off_at_any_width(make_record, tmp_path, width):
    from rich.console import Console

    names = [
        "FGSM",
        "PGD-20",
        "PGD-100",
        "MIM-20",
        "CW-100",
        "APGD-CE",
        "APGD-DLR",
        "APGD-T",
        "FAB-T",
        "Square",
        "AutoAttack",
    ]
    records = [
        make_record(
            model=model, seed=seed, attacks={name: range(3 * place + seed + 1) for place, name in enumerate(names)}
        )
        for model in ("Generalist (natural: NT, robust: AT), robust learning rate 0.05", "AT")
        for seed in range(3)
    ]
    shown = table(runs_of(tmp_path, *records))
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(to_terminal(shown))
    text = console.export_text()
    words = set(text.split())
    for row in shown.rows:
        for cell in row.cells:
            assert cell.text in text if width >= 80 else set(cell.text.split()) <= words
    assert "…" not in text
    if width >= 80:
        assert all(len(line.rstrip()) <= width for line in text.splitlines())
    assert text.count("method") == (1 if width == 400 else max(text.count("method"), 2))


def test_a_checkpoint_that_is_another_one_again_is_not_shown_twice(make_record, make_run):
    first = make_run(make_record(), make_record(checkpoint="last"))
    shown = table(read_runs(first), "both")
    assert [row.checkpoint for row in shown.rows] == ["selected"]
    assert "The last checkpoint is the selected one and not shown again." in shown.notes
    make_run(make_record(model="AT"), make_record(model="AT", checkpoint="last", model_digest="other"))
    assert [row.checkpoint for row in table(read_runs(first.parent), "both").rows] == ["selected"] * 2 + ["last"] * 2


@pytest.mark.parametrize(
    ("selection", "source", "said"), [("test", "Folder", True), ("test", "CIFAR10", False), ("held-out", "Npz", False)]
)
def test_own_data_that_were_selected_on_say_so_below_the_table(make_record, tmp_path, selection, source, said):
    run = Run(
        tmp_path,
        "x",
        {"selection": selection, "criterion": "sum", "data": {"type": source}},
        records={"selected": make_record()},
    )
    assert any("chosen on the test images themselves" in note for note in table([run]).notes) == said
