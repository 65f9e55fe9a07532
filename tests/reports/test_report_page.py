from __future__ import annotations

import dataclasses
import itertools
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from poise.core.errors import RunError
from poise.reports import read_runs, write_picture, write_report
from poise.reports.figures.still import ticks
from poise.reports.html import render
from poise.reports.plots import tradeoff
from poise.reports.tables import table

HOSTILE = '</script><script>alert(1)</script> " onload="x" {{ 7*7 }} & <b>'


class Page(HTMLParser):
    """All tags with their attributes; complains about tags closed out of order."""

    VOID = {"meta", "img", "br", "link", "wbr"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def without_scripts(text: str) -> str:
    return re.sub(r"<script[^>]*>.*?</script>", "", text, flags=re.DOTALL)


def chart_data(text: str) -> dict[str, Any]:
    """The specifications in the page."""
    return json.loads(text.partition('id="chart-data">')[2].partition("</script>")[0])


def test_the_page_is_whole_and_loads_nothing(make_record, make_run, tmp_path):
    make_run(make_record(), make_record(checkpoint="last", attacks={"PGD-20": range(22)}), gallery=True)
    folder = make_run(make_record(model="AT", attacks={"PGD-20": range(10)}))
    out = write_report([folder.parent], tmp_path)
    assert out == tmp_path / "report.html"
    text = out.read_text()
    page = Page(text)
    own = without_scripts(text)
    assert not re.search(r"https?:|//[a-z]", re.sub(r'data:image/png;base64,[^"]*', "", own))
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "base"}
    assert [attrs for tag, attrs in page.tags if tag == "script"] == [
        {"type": "application/json", "id": "chart-data"},
        {},
        {},
    ]
    assert "@import" not in own and "url(" not in own
    loaded = [
        value or ""
        for _, attrs in page.tags
        for name, value in attrs.items()
        if name in ("src", "href", "srcset", "action")
    ]
    anchors = [value.removeprefix("#") for value in loaded if value.startswith("#")]
    assert len(anchors) == 7 and set(anchors) <= {attrs.get("id") for _, attrs in page.tags}
    images = [value for value in loaded if not value.startswith("#")]
    assert len(images) == 6 and all(value.startswith("data:image/png;base64,") for value in images)
    for part in (
        "What is proven",
        "Natural against robust accuracy",
        "loss/model/robust",
        "Adversarial examples",
        "digest-AT-0",
        "8/255",
    ):
        assert part in text
    assert "95 % interval" in text and "last checkpoint" in text


def test_hostile_names_are_shown_and_not_run(make_record, make_run, tmp_path):
    notes = {"published": {"table": HOSTILE, "columns": {HOSTILE: 1.0}}}
    record = make_record(
        model=HOSTILE,
        run=HOSTILE,
        group=HOSTILE,
        classes=[HOSTILE] * 4,
        device=HOSTILE,
        notes=notes,
        attacks={HOSTILE: [1]},
    )
    text = write_report(make_run(record, name="plain", gallery=True), tmp_path / "page.html").read_text()
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert HOSTILE in json.dumps(chart_data(text), ensure_ascii=False).replace('\\"', '"')
    assert text.count("&lt;/script&gt;&lt;script&gt;alert(1)") >= 10 and 'onload="' not in text
    assert not [attrs for _, attrs in page.tags if "onload" in attrs]
    assert "{{ 7*7 }}" in text


def test_a_run_without_a_record_is_named_with_the_command_that_makes_one(make_record, make_run, tmp_path):
    folder = make_run(make_record(seed=1))
    waiting = make_run(make_record(seed=2))
    (waiting / "records" / "selected.json").unlink()
    text = write_report(folder.parent, tmp_path / "page.html").read_text()
    assert "TRADES-2 has no evaluation record yet" in text and f"poise evaluate {waiting}" in text
    assert "TRADES-1 has no evaluation record yet" not in text


@pytest.mark.parametrize(
    ("selection", "criterion", "said"),
    [
        ("held-out", "worst", "Selected checkpoints were chosen on images held out from training (criterion: worst)."),
        ("test", "last", "The last epoch was selected, without a look at accuracies."),
    ],
)
def test_the_page_says_how_weights_were_selected(make_record, make_run, tmp_path, selection, criterion, said):
    folder = make_run(make_record())
    settings = json.loads((folder / "experiment.json").read_text())
    (folder / "experiment.json").write_text(json.dumps({**settings, "selection": selection, "criterion": criterion}))
    assert said in write_report([folder], tmp_path / "report.html").read_text()


def test_a_page_needs_neither_metrics_nor_attacks_nor_settings(make_record, tmp_path):
    path = make_record(attacks={}).write(tmp_path / "alone.json")
    text = render(read_runs(path))
    assert "Training</h2>" not in text and "Natural against robust accuracy" not in text and "100.00" in text


def test_a_papers_point_is_hollow_and_linked_to_the_measured_one(make_record, tmp_path):
    strongest = {"type": "AutoAttack", "threat": {"type": "Linf", "epsilon": 8 / 255}}
    paper = {"columns": {"natural": 90.0, "AA": 46.07}, "measured": {"AA": [strongest]}}
    for notes, expected in (({"published": paper}, 1), ({}, 0)):
        made = make_record(protocol="zipper-linf", notes=notes, natural_wrong=[1])
        aa = make_record(attacks={"AutoAttack": range(22)}, settings=strongest).attacks
        path = dataclasses.replace(made, attacks=[*made.attacks, *aa]).write(tmp_path / "one.json")
        chart = tradeoff(table(read_runs(path)), {"TRADES-abcd": 0})
        assert chart is not None
        assert chart.still.count("mark hollow") == chart.still.count('class="link') == expected
        rows = chart.spec["data"]["values"]
        assert sum(row["printed"] for row in rows) == sum("our_x" in row for row in rows) == expected
        hollow = [layer for layer in chart.spec["layer"] if layer["mark"].get("fill") == "var(--card)"]
        assert len(hollow) == expected and all(not layer["mark"]["filled"] for layer in hollow)


def test_many_classes_show_the_hardest(make_record, tmp_path):
    labels = [place % 40 for place in range(80)]
    predicted = [label if label >= 5 else label + 1 for label in labels]
    record = make_record(attacks={}, labels=labels, natural=predicted, classes=[f"class{k:02}" for k in range(40)])
    text = render(read_runs(record.write(tmp_path / "many.json")))
    assert "the 20 hardest of 40 classes" in text
    assert all(f">class{k:02}<" in text for k in range(5)) and ">class39<" not in text


def test_the_same_runs_give_the_same_page(make_record, make_run, tmp_path):
    folder = make_run(make_record(), gallery=True)
    assert render(read_runs(folder)) == render(read_runs(folder))


def test_a_damaged_gallery_is_named(make_record, make_run, tmp_path):
    folder = make_run(make_record(), gallery=True)
    (folder / "records" / "gallery-selected.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(RunError, match=r"gallery-selected\.npz cannot be read"):
        write_report(folder, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.31, 0.97), (-3, 250), (5, 5), (0, 0), (1e-6, 3e-6)])
def test_ticks_cover_the_range_evenly(low, high):
    found = ticks(low, high)
    assert found[0] <= low and found[-1] >= high and 2 <= len(found) <= 9
    gaps = [b - a for a, b in itertools.pairwise(found)]
    assert max(gaps) == pytest.approx(min(gaps))


def test_reports_work_with_torchs_import_blocked_and_without_the_slow_libraries(make_record, make_run, tmp_path):
    folder = make_run(make_record(), gallery=True)
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import poise.reports as r\n"
        "assert 'numpy' not in sys.modules\n"
        f"runs = r.read_runs({str(folder)!r})\n"
        "t = r.table(runs); r.to_markdown(t); r.to_csv(t); r.to_latex(t); r.to_terminal(t)\n"
        f"print(r.write_report({str(folder)!r}, {str(tmp_path / 'page.html')!r}))\n"
        "assert not {'matplotlib', 'scipy.stats'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("page.html")


def test_the_front_page_names_only_what_exists():
    import poise.reports

    assert all(hasattr(poise.reports, name) for name in poise.reports.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        poise.reports.nothing  # noqa: B018


def test_the_picture_stands_alone(make_record, make_run, tmp_path):
    path = write_picture(make_run(make_record(attacks={"PGD-20": [1]})), tmp_path / "picture.svg")
    text = path.read_text()
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert "natural accuracy" in text


def test_what_scrolls_is_marked_and_reached_by_keyboard(make_record, make_run, tmp_path):
    names = ["FGSM", "PGD-20", "PGD-100", "MIM-20", "CW-100", "APGD-CE", "APGD-T", "FAB-T", "Square", "AutoAttack"]
    make_run(make_record(attacks={name: range(5) for name in names}))
    text = write_report(tmp_path / "runs", tmp_path / "page.html").read_text()
    regions = [
        attrs for tag, attrs in Page(text).tags if tag == "div" and "scroll" in (attrs.get("class") or "").split()
    ]
    assert regions and all(
        (attrs["role"], attrs["tabindex"]) == ("region", "0") and "scrolls" in (attrs["aria-label"] or "")
        for attrs in regions
    )
    style = text[text.index(".scroll {") :].partition("}")[0]
    assert style.count("no-repeat local") == style.count("no-repeat scroll") == 2, (
        "covers move with the table, shadows stay"
    )
