from __future__ import annotations

import csv
import dataclasses
import io
from typing import Any

import numpy as np
import pytest

from poise.core.errors import RunError
from poise.core.records import EvaluationRecord
from poise.reports import read_runs, table, to_csv, to_latex, to_markdown, to_terminal
from poise.reports.collect import Run
from poise.reports.plots import _per_class

HOSTILE = r"a_b & 50% $x$ #1 {y} ~^\z <script>alert(1)</script> | *w*"


def runs_of(tmp_path, *records):
    return [Run(tmp_path / str(place), record.run, records={record.checkpoint: record}) for place, record in enumerate(records)]


def cells(shown, row, *columns):
    labels = [column.label for column in shown.columns]
    return [shown.rows[row].cells[labels.index(column)] for column in columns]


def test_columns_are_natural_each_attack_and_the_worst_case_with_absent_ones_dashed(make_record, tmp_path):
    a = make_record(natural_wrong=[39], attacks={"PGD-20": range(10)})
    b = make_record(model="AT", attacks={"CW-100": range(30)})
    shown = table(runs_of(tmp_path, a, b))
    assert [column.label for column in shown.columns] == ["natural", "PGD-20", "CW-100", "worst case"]
    assert [cell.text for cell in shown.rows[0].cells] == ["97.50", "75.00", "-", "72.50"]
    assert [cell.text for cell in shown.rows[1].cells] == ["100.00", "-", "25.00", "25.00"]


def test_seeds_become_mean_and_sample_deviation(make_record, tmp_path):
    shown = table(runs_of(tmp_path, *(make_record(seed=s, attacks={"PGD-20": range(10 * s)}) for s in (1, 2, 3))))
    (cell,) = cells(shown, 0, "PGD-20")
    assert cell.text == "50.00 ± 25.00 (3)"
    assert cell.spread == pytest.approx(np.std([75, 50, 25], ddof=1))
    assert "t over 3 seeds" in cell.detail


def test_ties_share_the_best_mark_and_the_next_value_is_second(make_record, tmp_path):
    wrong = {"A": 4, "B": 4, "C": 8, "D": 12}
    shown = table(runs_of(tmp_path, *(make_record(model=model, attacks={"PGD-20": range(count)}) for model, count in wrong.items())))
    assert [cells(shown, row, "PGD-20")[0].mark for row in range(4)] == ["best", "best", "second", ""]
    assert [cells(shown, row, "natural")[0].mark for row in range(4)] == ["best"] * 4


def test_a_single_row_is_not_the_best_of_anything(make_record, tmp_path):
    assert {cell.mark for cell in table(runs_of(tmp_path, make_record())).rows[0].cells} == {""}


def test_worst_cases_over_different_attacks_are_not_ranked(make_record, tmp_path):
    shown = table(runs_of(tmp_path, make_record(), make_record(model="AT", attacks={"PGD-20": range(5), "CW-100": range(5)})))
    assert [cells(shown, row, "worst case")[0].mark for row in (0, 1)] == ["", ""]
    assert "not ranked" in shown.notes[0] and "not ranked" in to_markdown(shown)


def test_rows_trained_in_different_arithmetics_are_named_below_the_table(make_record, tmp_path):
    arithmetics = {"A": "float32", "B": "float32", "C": "bfloat16", "D": None}
    told = [make_record(model=name, notes={} if dtype is None else {"trained_in": dtype}) for name, dtype in arithmetics.items()]
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
    assert [(r.label, r.checkpoint) for r in table(runs).rows] == [("AT", "selected"), ("TRADES", "selected"), ("MART", "epoch 80")]
    both = table(runs[:1] + runs[2:], "both")
    assert [(r.label, r.checkpoint) for r in both.rows] == [("AT", "selected"), ("TRADES", "selected"), ("AT", "last"), ("TRADES", "last")]
    assert [cells(both, row, "PGD-20")[0].mark for row in range(4)] == ["best", "second", "best", "second"]
    assert "| method | checkpoint |" in to_markdown(both)
    with pytest.raises(RunError, match="must be 'selected'"):
        table(runs, "first")  # type: ignore[arg-type]
    with pytest.raises(RunError, match="no run has an evaluation record"):
        table(runs[1:2], "last")


def test_records_of_weights_that_a_run_had_before_it_was_trained_on_do_not_count(make_record, make_run):
    """Evaluated in the middle of its training, then trained to its end: one run, of its present weights."""
    old = make_record(model_digest="before", natural_wrong=range(20), started="2026-01-01T00:00:00", protocol="autoattack")
    new = make_record(started="2026-01-02T00:00:00")
    folder = make_run(new)
    old.write(folder / "records" / "selected-autoattack.json")
    (run,) = read_runs([folder])
    assert list(run.records) == ["selected"]
    shown = table([run])
    assert [row.cells[0].text for row in shown.rows] == ["100.00"]
    assert shown.notes == ["Not of TRADES's present weights, left out: selected-autoattack.json."]


def test_what_is_known_of_a_papers_columns_stands_below_the_table(make_record, tmp_path):
    paper = {"table": "Table 1", "row": "TRADES", "columns": {"PGD-20": 50.0}, "note": "ten steps_whatever"}
    records = [make_record(notes={"published": {**paper, "row": row}}, model=row) for row in ("TRADES", "MART")]
    one = table([Run(tmp_path, "x", records={"selected": records[0]})])
    assert one.notes == ["Published in Table 1, TRADES: ten steps_whatever."] and r"steps\_whatever" in to_markdown(one)
    both = table([Run(tmp_path / row, row, records={"selected": each}) for row, each in zip("ab", records, strict=True)])
    assert both.notes == ["Published in Table 1: ten steps_whatever."]


def test_a_published_row_is_labelled_placed_and_never_ranked(make_record, tmp_path):
    paper = {"table": "Table 1", "columns": {"natural": 99.9, "PGD20": 98.0, "AA": 46.07}, "spread": {"natural": 0.1}, "runs": 5}
    a = make_record(notes={"published": paper}, natural_wrong=[1])
    shown = table(runs_of(tmp_path, a, make_record(model="AT", natural_wrong=[1, 2])))
    assert [row.kind for row in shown.rows] == ["measured", "published", "measured"]
    assert shown.rows[1].label == "TRADES, published (Table 1)"
    assert [cell.text for cell in cells(shown, 1, "natural", "PGD-20", "AA", "worst case")] == [
        "99.90 ± 0.10 (5)",
        "98.00 (5)",
        "46.07 (5)",
        "-",
    ]
    assert {cell.mark for cell in shown.rows[1].cells} == {""}
    assert cells(shown, 0, "natural", "AA")[0].mark == "best"


def test_autoattack_as_printed_stands_under_the_worst_case_of_that_protocol(make_record, tmp_path):
    a = make_record(protocol="autoattack", notes={"published": {"columns": {"AA": 46.07}}})
    (cell,) = cells(table(runs_of(tmp_path, a)), 1, "worst case")
    assert cell.value == 46.07


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
def test_each_whole_transfer_protocol_is_a_column_beside_what_else_the_run_was_attacked_by(make_record, tmp_path, order):
    notes = {"published": {"table": "Tables 1 to 3 (epsilon 0.03)", "columns": {"soe-transfer-3": 78.8, "soe-transfer-30": 61.1}}}
    records = [
        make_record(
            protocol="soe-adaptive-eps0.03", notes=notes, attacks={"PGD-50x5": range(30)}, settings={**shown_images(), "type": "PGD"}
        ),
        make_record(protocol="soe-transfer-3-0.03", notes=notes, attacks=SETS, settings=shown_images()),
        make_record(protocol="soe-transfer-30-0.03", notes=notes, attacks={**SETS, "s5: SGM": range(20)}, settings=shown_images()),
    ]
    shown = table([Run(tmp_path, "x", {}, records={str(place): records[place] for place in order})])
    assert sorted(each.label for each in shown.columns[-3:]) == ["soe-transfer-3-0.03", "soe-transfer-30-0.03", "worst case"]
    measured, published = (cells(shown, row, "soe-transfer-3-0.03", "soe-transfer-30-0.03", "worst case") for row in (0, 1))
    assert [cell.value for cell in measured] == [70.0, 50.0, 25.0]
    assert "any of the 2 sets of images" in measured[0].detail
    assert [cell.value for cell in published] == [78.8, 61.1, None]
    assert {"soe-transfer-3", "soe-transfer-30"}.isdisjoint(each.label for each in shown.columns)


def both(runs: list[Run]) -> dict[str, EvaluationRecord]:
    """The records of two runs as if they were of one."""
    first = runs[0].records["selected"]
    return {
        run.name: dataclasses.replace(run.records["selected"], run=first.run, group=first.group, model_digest=first.model_digest)
        for run in runs
    }


def test_transfer_protocols_of_other_images_are_columns_of_their_own(make_record, tmp_path):
    runs = [
        Run(tmp_path, name, {}, records={"selected": make_record(model=name, protocol="soe-transfer-3-0.03", attacks=SETS, settings=each)})
        for name, each in (("x", shown_images()), ("y", {**shown_images(), "digest": "other"}))
    ]
    together = table([Run(tmp_path, "x", {}, records=both(runs))])
    assert [cell.value for cell in together.rows[0].cells if cell.value is not None][-3:-1] == [70.0, 70.0], "one run, two sets"
    shown = table(runs)
    labels = ("soe-transfer-3-0.03 [images 1]", "soe-transfer-3-0.03 [images 2]")
    assert [[cell.value for cell in cells(shown, row, *labels)] for row in (0, 1)] == [[70.0, None], [None, 70.0]]


@pytest.mark.parametrize(
    ("protocol", "column"), [("soe-transfer-30-part-0.03", "soe-transfer-30"), ("soe-transfer-3-0.03", "soe-transfer-30")]
)
def test_a_published_protocol_is_no_other_and_no_part_of_it(make_record, tmp_path, protocol, column):
    a = make_record(protocol=protocol, notes={"published": {"columns": {"soe-transfer-30": 61.1}}}, attacks=SETS, settings=shown_images())
    shown = table([Run(tmp_path, "x", {}, records={"selected": a})])
    assert [cell.value for cell in cells(shown, 1, column, protocol)] == [61.1, None]


@pytest.mark.parametrize(("epsilon", "column"), [(0.03, "soe-transfer-3-0.03"), (8 / 255, "soe-transfer-3"), (0.07, "soe-transfer-3")])
def test_published_numbers_stand_only_beside_measurements_of_their_epsilon(make_record, tmp_path, epsilon, column):
    paper = {"table": "Tables 1 to 3 (CIFAR-10, epsilon 0.03)", "columns": {"soe-transfer-3": 78.8, "PGD-50x5": 47.8, "natural": 80.2}}
    settings = {"type": "PGD", "threat": {"type": "Linf", "epsilon": epsilon}}
    white = make_record(protocol="soe-adaptive", notes={"published": paper}, attacks={"PGD-50x5": range(10)}, settings=settings)
    images = make_record(protocol=f"soe-transfer-3-{epsilon:g}", attacks=SETS, settings=shown_images(epsilon))
    shown = table(runs_of(tmp_path, white, images))
    labels = [each.label for each in shown.columns]
    assert len(shown.rows[1].cells) == len(labels) == len(set(labels))
    beside = "PGD-50x5" if epsilon == 0.03 else "PGD-50x5 (epsilon 0.03)"
    assert [cell.value for cell in cells(shown, 1, "natural", column, beside)] == [80.2, 78.8, 47.8]
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
    _, worst = _per_class(group, [column for column in shown.columns if column.worst])
    assert worst.tolist() == [0.8] * 4


def test_a_published_row_is_found_in_the_settings_too(make_record, tmp_path):
    paper = {"table": "T", "columns": ["natural", "PGD-20"], "values": [90.0, None], "spread": [], "runs": None}
    run = Run(tmp_path, "x", {"published": paper}, records={"selected": make_record()})
    assert [cell.text for cell in table([run]).rows[1].cells] == ["90.00", "-", "-"]


def test_rows_of_further_tables_stand_beside_the_first(make_record, tmp_path):
    first = {"table": "Table 1", "columns": ["natural", "PGD-20"], "values": [82.4, 52.0], "spread": [0.1, None], "runs": 7}
    further = {"table": "Table 5", "columns": ["natural", "AA"], "values": [82.66, 47.62], "spread": [], "runs": None}
    settings = {"published": first, "also_published": [further]}
    noted = {
        "published": {**first, "columns": {"natural": 82.4, "PGD-20": 52.0}, "spread": {"natural": 0.1}},
        "also_published": [{**further, "columns": {"natural": 82.66, "AA": 47.62}, "spread": {}}],
    }
    for run in (Run(tmp_path, "x", settings, records={"selected": make_record()}), *runs_of(tmp_path, make_record(notes=noted))):
        shown = table([run])
        assert [row.label for row in shown.rows][1:] == ["TRADES, published (Table 1)", "TRADES, published (Table 5)"]
        assert [[cell.text for cell in cells(shown, row, "natural", "PGD-20", "AA")] for row in (1, 2)] == [
            ["82.40 ± 0.10 (7)", "52.00 (7)", "-"],
            ["82.66", "-", "47.62"],
        ]


def test_a_paper_that_prints_no_numbers_has_no_row(make_record, tmp_path):
    paper = {"table": "Figure 6", "columns": [], "values": [], "spread": [], "runs": None, "note": "no numbers are printed"}
    noted = make_record(notes={"published": {**paper, "columns": {}, "spread": {}}})
    for run in (Run(tmp_path, "x", {"published": paper}, records={"selected": make_record()}), *runs_of(tmp_path, noted)):
        assert [row.kind for row in table([run]).rows] == ["measured"]


def test_models_of_the_same_name_are_told_apart(make_record, tmp_path):
    shown = table(runs_of(tmp_path, make_record(group="TRADES-1111"), make_record(group="TRADES-2222")))
    assert [row.label for row in shown.rows] == ["TRADES-1111", "TRADES-2222"]


def test_markdown_csv_and_terminal_agree(make_record, tmp_path):
    from rich.console import Console

    shown = table(runs_of(tmp_path, make_record(attacks={"PGD-20": range(10)}), make_record(model="AT", attacks={"PGD-20": range(11)})))
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
        runs_of(tmp_path, make_record(model=HOSTILE, attacks={"P_20%": range(4)}), make_record(model="B", attacks={"P_20%": range(5)}))
    )
    latex = to_latex(shown)
    assert r"a\_b \& 50\% \$x\$ \#1 \{y\} \textasciitilde{}\textasciicircum{}\textbackslash{}z \textless{}script" in latex
    assert r"P\_20\%" in latex and r"\textbf{90.00}" in latex and r"\underline{87.50}" in latex
    rows = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert all(line.replace(r"\&", "").count("&") == 3 for line in rows)


def test_markdown_escapes_hostile_names(make_record, tmp_path):
    markdown = to_markdown(table(runs_of(tmp_path, make_record(model=HOSTILE))))
    assert "<script>" not in markdown and r"\| \*w\*" in markdown
