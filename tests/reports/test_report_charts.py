"""The page's charts show the records' numbers: specifications as plain data, and the same panels as static pictures."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from poise.reports import read_runs, table
from poise.reports.collect import Run
from poise.reports.figures.series import Panel, Point, Series
from poise.reports.figures.still import KINDS, still, write_still
from poise.reports.figures.vega import vega
from poise.reports.html import render
from poise.reports.plots import (
    Chart,
    class_charts,
    confusion_chart,
    curve_charts,
    epsilon_charts,
    group_of,
    tradeoff,
)

PLACES, LABELS = {"TRADES-abcd": 0}, {"TRADES-abcd": "TRADES"}
HOSTILE = "</script><script>alert(1)</script> <!-- '\"] | datum.x + constructor"


def within(epsilon: float) -> dict[str, Any]:
    return {
        "type": "PGD",
        "threat": {"type": "Linf", "epsilon": epsilon},
        "step_size": epsilon / 4,
        "steps": 20,
    }


def layers(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from spec.get("layer", [spec])


def rows(chart: Chart) -> list[dict[str, Any]]:
    return chart.spec["data"]["values"]


def test_a_curve_is_its_runs_metrics(make_record, make_run):
    (run,) = read_runs(make_run(make_record(), epochs=4))
    charts = curve_charts([run], PLACES, LABELS)
    assert [chart.title for chart in charts["monitor"]] == ["natural"]
    (natural,) = rows(charts["monitor"][0])
    assert (natural["series"], natural["run"], natural["x"]) == ("TRADES", "seed 0", [1, 2, 3, 4])
    assert natural["y"] == pytest.approx([0.3, 0.6, 0.9, 1.2]), "no share, as it is above 1, so no percent"
    (loss,) = charts["other"]
    assert (loss.title, rows(loss)[0]["y"]) == ("loss/model/robust", pytest.approx([2, 1, 2 / 3, 0.5], rel=1e-3))
    assert "by epoch" in loss.note


def test_of_several_runs_the_mean_stands_before_each_and_says_how_many(make_record, make_run):
    runs = [read_runs(make_run(make_record(seed=seed), epochs=3 + seed))[0] for seed in (0, 1)]
    runs[1].metrics[1]["loss/model/robust"] = 4.0
    ((chart),) = curve_charts(runs, PLACES, LABELS)["other"]
    (mean,) = rows(chart)
    assert (mean["run"], mean["n"], mean["x"]) == ("", 2, [1, 2, 3]), "at the epochs that both have"
    assert mean["y"][1] == pytest.approx((1 + 4) / 2)
    assert mean["high"][1] - mean["y"][1] == pytest.approx(math.sqrt(4.5), rel=1e-3), "one std"
    thin = next(layer["data"]["values"] for layer in layers(chart.spec) if "data" in layer)
    assert [(row["run"], row["x"][-1], row["last"]) for row in thin] == [("seed 0", 3, 0.66667), ("seed 1", 4, 0.5)]
    assert "mean and std of runs" in chart.note
    assert chart.still.count("<polyline") == 1, "the static picture shows the mean"


def test_very_many_points_are_thinned_and_it_is_said(make_record):
    record = make_record()
    metrics = [{"kind": "epoch", "epoch": e, "loss": 1 / e} for e in range(1, 25_001)]
    chart = curve_charts([Run(Path("r"), "r", {}, metrics, {"selected": record})], PLACES, LABELS)["other"][0]
    (row,) = rows(chart)
    assert len(row["x"]) == 25 and row["x"][-1] == 25_000 and "every 1000th point" in chart.note


def test_the_tradeoffs_points_are_the_tables_cells(make_record, tmp_path):
    path = make_record(natural_wrong=[1]).write(tmp_path / "one.json")
    shown = table(read_runs(path))
    chart = tradeoff(shown, PLACES)
    assert chart is not None
    (row,) = rows(chart)
    natural, worst = shown.rows[0].cells[0], shown.rows[0].cells[-1]
    assert (row["x"], row["y"]) == (natural.value, worst.value) == (97.5, pytest.approx(47.5, abs=3))
    ends = [row[name] for name in ("x_low", "x_high", "low", "high")]
    assert ends == pytest.approx([natural.low, natural.high, worst.low, worst.high], rel=1e-4)
    assert f"natural: {natural.text}" in row["about"] and f": {natural.detail}" in row["about"]
    assert "runs: 1" in row["about"] and "95 % intervals" in chart.note


@pytest.mark.parametrize(
    ("kind", "said"), [("standard deviation", "the standard deviation"), ("95 % interval", "95 %")]
)
def test_a_papers_error_bar_is_drawn_and_says_what_it_is(make_record, tmp_path, kind, said):
    attack = {"type": "PGD", "threat": {"type": "Linf", "epsilon": 8 / 255}, "step_size": 2 / 255, "steps": 20}
    paper = {
        "columns": {"natural": 90.0, "AA": 46.0},
        "spread": {"natural": 0.5, "AA": 0.25},
        "plus_minus": kind,
        "measured": {"AA": [{"type": "AutoAttack", "threat": attack["threat"]}]},
    }
    strongest = {"type": "AutoAttack", "threat": attack["threat"]}
    record = make_record(attacks={"AutoAttack": range(22)}, settings=strongest, notes={"published": paper})
    chart = tradeoff(table(read_runs(record.write(tmp_path / "one.json"))), PLACES)
    assert chart is not None
    ours, printed = rows(chart)
    assert printed["printed"] and [printed[k] for k in ("x_low", "x_high", "low", "high")] == [89.5, 90.5, 45.75, 46.25]
    assert (printed["our_x"], printed["series"]) == (ours["x"], "TRADES"), "it is switched off with ours"
    assert said in chart.note
    assert chart.still.count("mark hollow") == 1 and chart.still.count('class="error') == 4


def test_an_attack_at_several_epsilons_is_a_curve_from_natural_accuracy_on(make_record, tmp_path):
    weak = make_record(attacks={"PGD-20": range(8)}, settings=within(4 / 255), natural_wrong=[0])
    strong = make_record(protocol="far", attacks={"PGD-20": range(20)}, settings=within(8 / 255), natural_wrong=[0])
    shown = table([Run(tmp_path, "x", {}, records={"a": weak, "b": strong})])
    (chart,) = epsilon_charts(shown, PLACES)
    assert (chart.title, chart.kind) == ("PGD-20 within Linf", "sweep")
    points = [(row["x"], row["y"]) for row in rows(chart)]
    assert points == [(0, 97.5), (4, 80), (8, 50)] and chart.panels[0].across == "epsilon, /255"
    assert all(row["low"] < row["y"] < row["high"] for row in rows(chart))
    assert "epsilon: 8/255" in rows(chart)[2]["about"] and "95 % intervals" in chart.note
    assert not epsilon_charts(table([Run(tmp_path, "x", {}, records={"a": weak})]), PLACES)


def test_epsilons_that_are_no_levels_of_a_pixel_stay_decimals(make_record, tmp_path):
    records = {
        str(epsilon): make_record(protocol=str(epsilon), attacks={"PGD": range(8)}, settings=within(epsilon))
        for epsilon in (0.1, 0.3)
    }
    (chart,) = epsilon_charts(table([Run(tmp_path, "x", {}, records=records)]), PLACES)
    assert [row["x"] for row in rows(chart)] == [0, 0.1, 0.3] and chart.panels[0].across == "epsilon"


def test_other_attacks_are_no_points_of_the_same_curve(make_record, tmp_path):
    other = {**within(4 / 255), "steps": 100}
    a = make_record(attacks={"PGD": range(8)}, settings=within(8 / 255))
    b = make_record(protocol="far", attacks={"PGD": range(8)}, settings=other)
    assert not epsilon_charts(table([Run(tmp_path, "x", {}, records={"a": a, "b": b})]), PLACES)


def test_bars_and_confusions_are_counts_of_the_records(make_record, tmp_path):
    record = make_record(natural_wrong=[0, 4], attacks={"PGD-20": [0, 4, 8, 1]})
    shown = table([Run(tmp_path, "x", {}, records={"selected": record})])
    (bars,) = class_charts(shown, shown.groups, PLACES, LABELS)
    assert [(row["name"], row["pale"], row["full"]) for row in rows(bars)] == [
        ("zero", 80.0, 70.0),
        ("one", 100.0, 90.0),
        ("two", 100.0, 100.0),
        ("three", 100.0, 100.0),
    ]
    assert {"natural: 80.00 %", "worst case: 70.00 %", "images: 10", "runs: 1"} <= set(rows(bars)[0]["about"])
    confusions = confusion_chart(shown, shown.groups, LABELS)
    assert confusions is not None and confusions.choices == ["TRADES, natural", "TRADES, PGD-20"]
    natural, attacked = rows(confusions)
    assert attacked["share"] == [70, 30, 0, 0, 0, 90, 10, 0, 0, 0, 100, 0, 0, 0, 0, 100], "a row for each class"
    assert natural["share"][:5] == [80, 20, 0, 0, 0]
    assert [param["value"] for param in confusions.spec["params"][1:]] == [["zero", "one", "two", "three"]] * 2
    field = confusions.panels[0].field
    assert field is not None and all(sum(line) == pytest.approx(100) for line in field.values)


def test_many_methods_are_a_matrix_and_of_many_classes_the_hardest_are_shown(make_record, tmp_path):
    runs = [
        Run(tmp_path / str(k), "x", {}, records={"selected": make_record(model=f"M{k}", group=f"g{k}")})
        for k in range(13)
    ]
    shown = table(runs)
    places = {group.key: place for place, group in enumerate(shown.groups)}
    (chart,) = class_charts(shown, shown.groups, places, shown.labels)
    assert (chart.kind, chart.choices) == ("matrix", ["worst case", "natural"])
    field = chart.panels[0].field
    assert field is not None and field.rows == tuple(f"M{k}" for k in range(13)) and field.values[3] == (50.0,) * 4
    labels = [place % 30 for place in range(60)]
    predicted = [label if label >= 5 else label + 20 for label in labels]
    many = make_record(attacks={}, labels=labels, natural=predicted, classes=[f"class{k:02}" for k in range(30)])
    shown = table([Run(tmp_path, "x", {}, records={"selected": many})])
    confusions = confusion_chart(shown, shown.groups, LABELS)
    assert confusions is not None
    field = confusions.panels[0].field
    assert field is not None and len(field.rows) == 20 and field.columns[-1] == "others"
    assert field.rows[:5] == tuple(f"class{k:02}" for k in range(5)) and field.values[0][-1] == 100.0


SERIES = (
    Series("A", (Point(1, 2, 1, 3, 0.5, 1.5, name="a", n=3, about=(("n", "3"),)), Point(2, 4, name="b"))),
    Series("A", (Point(1.5, 2.5, name="published"),), printed=True, place=0),
)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "matrix"])
def test_every_kind_is_drawn_as_data_and_as_a_picture(kind: str) -> None:
    series = SERIES if kind == "trade-off" else (SERIES[0], dataclasses.replace(SERIES[0], label="B"))
    panel = Panel("title", "across", "up", series)
    spec = vega(kind, [panel])
    assert json.loads(json.dumps(spec, allow_nan=False)) == spec
    root = ElementTree.fromstring(still(kind, panel))
    assert root.attrib["role"] == "img" and root.attrib["aria-label"] == "title"
    alone = ElementTree.fromstring(write_still(kind, panel))
    said = [element.text for element in alone.iter()]
    assert alone.tag == "{http://www.w3.org/2000/svg}svg" and ("a" if kind == "trade-off" else "A") in said


def expressions(part: Any, key: str = "") -> Iterator[str]:
    """Everything in a specification that Vega reads as an expression."""
    if isinstance(part, dict):
        for name, value in part.items():
            if name in ("filter", "calculate", "expr", "test", "signal", "update") and isinstance(value, str):
                yield value
            if name != "values":
                yield from expressions(value, name)
    elif isinstance(part, list):
        for value in part:
            yield from expressions(value, key)


def test_no_text_of_a_record_is_a_part_of_an_expression_a_field_or_a_title(make_record, make_run, tmp_path):
    settings = within(8 / 255)
    near = make_record(
        model=HOSTILE,
        run=HOSTILE,
        group=HOSTILE,
        classes=[HOSTILE, *"bcd"],
        attacks={HOSTILE: [1]},
        settings=settings,
    )
    far = dataclasses.replace(near, attacks=make_record(attacks={HOSTILE: [2]}, settings=within(0.1)).attacks)
    run = Run(tmp_path, HOSTILE, {}, [{"epoch": 1, HOSTILE: 1.0}], {"a": near, "b": far})
    text = render([run])
    data = json.loads(text.partition('id="chart-data">')[2].partition("</script>")[0])
    assert len(data["charts"]) == 5
    for spec in data["charts"]:
        assert all("alert" not in expression for expression in expressions(spec))
        encodings = [spec.get("encoding", {}), *(layer.get("encoding", {}) for layer in layers(spec))]
        for encoding in encodings:
            for channel in encoding.values():
                for told in channel if isinstance(channel, list) else [channel]:
                    assert "alert" not in str(told.get("field")) + str(told.get("title"))
    assert group_of(run) == HOSTILE


def test_the_policy_lets_the_pages_own_scripts_run_and_nothing_else(make_record, make_run):
    text = render(read_runs(make_run(make_record())))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    told = dict(part.split(" ", 1) for part in policy[1].replace("&#39;", "'").split("; "))
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert told["script-src"].split() == [f"'sha256-{digest}'" for digest in hashes] and len(hashes) == 2
    assert told["default-src"] == told["base-uri"] == told["form-action"] == "'none'"
    assert "unsafe-eval" not in policy[1] and "http" not in policy[1]


def test_without_scripts_every_chart_is_a_picture_and_nothing_waits_for_one(make_record, make_run):
    text = render(read_runs(make_run(make_record(), gallery=True)))
    figures = re.findall(r"<figure.*?</figure>", text, flags=re.DOTALL)
    assert len(figures) == 5 and all('<div class="plot"><svg ' in figure for figure in figures)
    body = text.partition("<body>")[2].partition("<script")[0]
    assert "<button" not in body and '<form class="filters" hidden>' in body


def test_the_runtime_has_the_licences_of_all_that_it_is_made_of():
    from poise.reports.html import _asset

    licences, lock = _asset("page", "vega.LICENSES.txt"), Path(__file__).parents[2] / "runtime" / "package-lock.json"
    packages = json.loads(lock.read_text())["packages"]
    for name in ("vega-lite", "vega-view", "vega-interpreter", "vega-expression", "d3-scale", "d3-delaunay"):
        assert f"{name} {packages[f'node_modules/{name}']['version']} (" in licences
    assert "Redistribution and use in source and binary forms" in licences
    runtime = _asset("page", "vega.js")
    assert "</script" not in runtime.lower() and "<!--" not in runtime and runtime.isascii()


def test_what_is_not_known_of_a_record_stands_on_the_page(make_record, make_run):
    record = make_record()
    assert record.lacking
    text = render(read_runs(make_run(record)))
    assert f'selected: not known</th><td class="mono">{", ".join(record.lacking)}<' in text


def test_settings_that_all_runs_have_are_told_once(make_record, make_run):
    folder = make_run(make_record()).parent
    make_run(make_record(model="AT"))
    text = render(read_runs(folder))
    assert text.count(">held-out</td>") == 1 and "In common" in text
    assert text.count('>name</th><td class="mono">AT<') == 1
