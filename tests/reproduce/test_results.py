"""From runs to tables and pictures: what is there is shown, what is missing is made, once, whoever stops or shares the
work.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from poise.core.errors import RunError, SettingsError
from poise.core.overrides import override
from poise.core.papers import GENERALIST
from poise.core.progress import Progress
from poise.core.records import AttackRecord, EvaluationRecord
from poise.core.settings import to_json
from poise.recipes.items import Item, Line, Picture, item
from poise.reproduce.pictures import panels
from poise.reproduce.plan import Plan, Work, planned
from poise.reproduce.results import folder_of, write, write_picture
from poise.reproduce.sheet import GAIN, name_of, sheet
from poise.reproduce.work import Where, _made, make

drawn = pytest.mark.skipif(find_spec("matplotlib") is None, reason="pictures need the extra 'plots'; make test-extras")
Fill = Callable[[Plan], Plan]


@pytest.fixture
def fill() -> Fill:
    """Writes the folder of every run of a plan, with records of all its protocols, as training and evaluating would
    leave them.
    """

    def record(work: Work, which: str, place: int, attacks: tuple) -> EvaluationRecord:
        draw = np.random.default_rng(place)
        labels = [k % 10 for k in range(200)]

        def wrong(share: float) -> list[int]:
            return [(label + 1) % 10 if draw.random() < share else label for label in labels]

        made = work.experiment
        found = [AttackRecord(attack.name, to_json(attack), wrong(0.4), 1.0) for attack in attacks]
        return EvaluationRecord(
            model=made.label,
            checkpoint=which,
            model_digest=f"{work.folder}-{which}",
            run=work.folder.name,
            group=made.group,
            seed=made.seed,
            evaluation_seed=0,
            dataset="CIFAR-10",
            split="test",
            classes=[f"class {k}" for k in range(10)],
            protocol="own",
            labels=labels,
            natural=wrong(0.1),
            attacks=found,
            seconds=1.0,
            started="2026-01-01T00:00:00",
            device="a GPU",
            versions={},
            notes=(
                {"published": rows[0], "also_published": rows[1:]}
                if (rows := [row.told(made.protocol) for row in made.rows])
                else {}
            ),
            training_seconds=600.0 + 60 * made.seed,
        )

    def filled(plan: Plan) -> Plan:
        for place, work in enumerate(plan.works):
            work.folder.mkdir(parents=True, exist_ok=True)
            (work.folder / "experiment.json").write_text(json.dumps(to_json(work.experiment)))
            (work.folder / "checkpoints").mkdir(exist_ok=True)
            (work.folder / "checkpoints" / "last.json").write_text("{}")
            names = (
                "monitor/natural",
                "monitor/PGD-20",
                "watch/benign/mean",
                "watch/benign/std",
                "watch/benign/share",
                "diagnosis/natural/natural",
                "diagnosis/natural/natural loss",
                "regret/tradeoff",
            )
            lines = [
                {"kind": "epoch", "epoch": e, "step": e, **dict.fromkeys(names, 0.1 * e + 0.01 * place)}
                for e in (1, 2, 3)
            ]
            (work.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            for which in ("selected", "last"):
                record(work, which, 7 * place, work.experiment.protocol.attacks).write(
                    work.folder / "records" / f"{which}.json"
                )
            for protocol in work.protocols:
                made = record(work, "selected", 7 * place, protocol.attacks)
                made.write(work.folder / "records" / f"selected-{protocol.name}.json")
        return plan

    return filled


def test_a_table_has_paper_ours_and_difference_with_its_interval_and_the_last_epoch(fill: Fill, tmp_path: Path) -> None:
    plan = fill(planned(item("zipper/table8"), "paper", 3, tmp_path))
    assert plan.missing == []
    shown = sheet(plan)
    assert [row.label for row in shown.table.rows][:4] == [
        "TRADES (lambda=1), paper",
        "TRADES (lambda=1)",
        "TRADES (lambda=1), difference",
        "TRADES (lambda=1)",
    ]
    assert [row.checkpoint for row in shown.table.rows][:4] == ["selected", "selected", "selected", "last"]
    labels = [column.label for column in shown.table.columns]
    assert labels[:3] == ["natural", "PGD-20", "PGD-100"] and "AutoAttack" in labels
    paper, ours, gap = (row.cells[labels.index("AutoAttack")] for row in shown.table.rows[:3])
    assert paper.value == 40.38 and ours.n == 3 and ours.value is not None and ours.low is not None
    assert gap.value == pytest.approx(ours.value - 40.38) and gap.low == pytest.approx(ours.low - 40.38)
    assert gap.text == f"{gap.value:+.2f} ({gap.low:+.2f} to {gap.high:+.2f})"
    _, files = write(plan, tmp_path)
    names = {path.name for path in files}
    assert names == {"table.md", "table.csv", "table.tex", "document.tex", "report.html"}
    rows = list(csv.DictReader(io.StringIO((folder_of(plan, tmp_path) / "table.csv").read_text())))
    assert [row["kind"] for row in rows[:4]] == ["published", "measured", "difference", "measured"]


def test_minutes_are_the_runs_own_beside_the_papers(fill: Fill, tmp_path: Path) -> None:
    shown = sheet(fill(planned(item("zipper/table6"), "paper", 2, tmp_path))).table
    cells = [row.cells[-1] for row in shown.rows if row.checkpoint == "selected"]
    assert [cell.value for cell in cells[:2]] == [414, 10.5]
    assert cells[1].text == "10.50 ± 0.71 (std, 2)" and cells[1].detail == "on a GPU"
    assert [cell.value for cell in cells if cell.gap] == [10.5 - 414, 10.5 - 397, 10.5 - 342]


@drawn
@pytest.mark.parametrize(
    ("name", "scale", "count"),
    [
        ("zipper/fig2", "paper", 4),
        ("zipper/fig3a", "paper", 4),
        ("zipper/fig2-gamma", "digits", 3),
        ("zipper/fig4a", "paper", 10),
        ("generalist/fig1", "paper", 14),
        ("st/fig6", "paper", 7),
        ("st/fig9", "paper", 8),
        ("st/fig5", "paper", 2),
        ("zipper/fig5", "paper", 2),
        ("soe/fig5", "paper", 4),
        ("soe/table1", "paper", 10),
    ],
)
def test_every_kind_of_picture_is_drawn_with_text_as_text_and_the_numbers_beside_it(
    fill: Fill, tmp_path: Path, name: str, scale: str, count: int
) -> None:
    whole = planned(item(name), scale, 2, tmp_path)  # type: ignore[arg-type]
    lines = {work.line for work in whole.works}
    kept = [line for line in lines if line.x is None or line.x in (1, 4, 6, 16, 0.01, 0.03)]  # two or three of a family
    plan = fill(dataclasses.replace(whole, works=[work for work in whole.works if work.line in kept]))
    shown = sheet(plan)
    files = write_picture(plan, shown, tmp_path)
    made = {path.suffix: path for path in files if path.stem == "figure"}
    assert set(made) == {".pdf", ".svg", ".png", ".csv"}
    assert made[".png"].read_bytes()[:4] == b"\x89PNG"
    pdf, svg = made[".pdf"].read_bytes(), made[".svg"].read_text()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf, "fonts are embedded as TrueType"
    numbers = list(csv.DictReader(io.StringIO(made[".csv"].read_text())))
    series = {(line["panel"], line["series"]) for line in numbers}
    assert len(series) == count
    assert all(label.replace("&", "&amp;") in svg for _, label in series), "text is text"
    assert all(np.isfinite(float(line["y"])) for line in numbers)
    again = [path.read_bytes() for path in (made[".pdf"], made[".svg"])]
    write_picture(plan, shown, tmp_path)
    assert again == [path.read_bytes() for path in (made[".pdf"], made[".svg"])], "the same numbers give the same file"


def test_a_papers_own_points_are_hollow_and_only_at_the_papers_scale(fill: Fill, tmp_path: Path) -> None:
    for scale, wanted in (("paper", 9), ("digits", 0)):
        plan = fill(planned(item("generalist/fig1"), scale, 1, tmp_path))  # type: ignore[arg-type]
        (panel,) = panels(plan.item, sheet(plan))
        printed = [point for series in panel.series if series.printed for point in series.points]
        assert len(printed) == wanted
    headline = next(
        point
        for series in panels(item("generalist/fig1"), sheet(planned(item("generalist/fig1"), "paper", 1, tmp_path)))[
            0
        ].series
        if series.printed
        for point in series.points
        if point.name == "Generalist"
    )
    assert (headline.x, headline.y) == (89.09, 46.07)


def test_without_matplotlib_a_picture_is_refused_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from poise.reports.figures.draw import draw

    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SettingsError, match=r"pip install 'poise\[plots\]'"):
        draw("bars", [], "title")


# -- making what is missing ------------------------------------------------------------------------------------------

SMALL = (
    "data.train_images=40 data.test_images=20 epochs=2 monitor_every=1 protocol.attacks.1.restarts=1"
    " protocol.attacks.1.steps=5"
)
TINY = Item(
    "trial/two",
    "Two rows",
    GENERALIST,
    (
        Line("AT", "at_digits", f"at_digits {SMALL}", family="AT"),
        Line("half", "at_half_digits", f"at_half_digits {SMALL}", family="AT"),
    ),
    picture=Picture("trade-off") if find_spec("matplotlib") is not None else None,
)


class Stopping(Progress):
    """Ends the work after so many begun things."""

    def __init__(self, after: int) -> None:
        self.left = after

    def begin(self, what: str, total: int, unit: str, cost: float = 0.0) -> Callable[[int], None]:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return lambda done: None


def test_stopped_three_times_it_ends_with_the_same_table(tmp_path: Path) -> None:
    whole, broken = (planned(TINY, "digits", 1, tmp_path / name) for name in ("whole", "broken"))
    make(whole, Where(), Progress())
    for after in (1, 3, 6):
        with pytest.raises(KeyboardInterrupt):
            make(broken, Where(), Stopping(after))
        assert broken.missing
    make(broken, Where(), Progress())
    tables = []
    for plan, name in ((whole, "whole"), (broken, "broken")):
        write(plan, tmp_path / name)
        tables.append((folder_of(plan, tmp_path / name) / "table.md").read_text())
    assert tables[0] == tables[1] and "| AT |" in tables[0]
    again = planned(TINY, "digits", 1, tmp_path / "whole")
    assert again.missing == []
    make(again, Where(), Stopping(0))


def test_a_run_that_another_process_has_in_hand_is_passed_over(tmp_path: Path) -> None:
    work = planned(TINY, "digits", 1, tmp_path).works[0]
    work.folder.parent.mkdir(parents=True)
    with FileLock(work.folder.with_suffix(".lock")):
        assert not _made(work, Where(), Stopping(0))
    assert not work.folder.exists()


BOTH = """
import sys
from pathlib import Path
from poise.core.overrides import override
from poise.core.papers import GENERALIST
from poise.core.progress import Progress
from poise.recipes.items import Item, Line
from poise.reproduce.plan import planned
from poise.reproduce.work import Where, make
lines = tuple(Line(name, name, f"{name} {sys.argv[2]}") for name in ("at_digits", "at_half_digits", "nt_digits"))
make(planned(Item("trial/three", "", GENERALIST, lines), "digits", 1, Path(sys.argv[1])), Where(), Progress())
"""


@pytest.mark.slow
def test_two_processes_on_one_folder_share_the_work(tmp_path: Path) -> None:
    commands = [sys.executable, "-c", BOTH, str(tmp_path), SMALL]
    both = [subprocess.Popen(commands, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    for name in ("at_digits", "at_half_digits", "nt_digits"):
        (folder,) = (tmp_path / "runs" / "digits").glob(f"{name}-data*/seed-0")
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        epochs = [line["epoch"] for line in lines if line.get("kind", "epoch") == "epoch"]
        assert epochs == sorted(set(epochs)) and epochs[-1] == 2, "trained once"
        assert {record.stem for record in (folder / "records").glob("*.json")} == {"selected", "last"}


@pytest.mark.slow
def test_experts_gain_under_transfer_are_inspected_and_chosen_on_held_out_images_too(tmp_path: Path) -> None:
    small = "data.train_images=40 data.test_images=20 epochs=1 protocol.name=quick model.member.width=2"
    lines = tuple(
        Line(f"{n} experts", "at_digits", f"soe_ensembles_digits_x{n} {small}", family="a", x=float(n)) for n in (1, 2)
    )
    what = Item("trial/experts", "Experts", GENERALIST, lines, transfer="soe-transfer-3", gains=True, sanity=True)
    plan = planned(what, "digits", 1, tmp_path, held_out=True)
    (source,) = plan.sources
    fast = override(source.experiment, small.split())
    plan = dataclasses.replace(plan, sources=[dataclasses.replace(source, experiment=fast)])
    assert not _made(plan.works[0], Where(), Progress()), "its surrogate is not there yet"
    make(plan, Where(), Progress())
    assert plan.missing == [] and not (source.folder / "records" / "selected.json").exists()
    shown = sheet(plan).table
    assert {row.checkpoint for row in shown.rows} >= {"selected", "held-out"}
    labels = [column.label for column in shown.columns]
    (place,) = (place for place, column in enumerate(shown.columns) if name_of(column) == "soe-transfer-3")
    chosen = [row for row in shown.rows if row.checkpoint == "selected"]
    gain = chosen[1].cells[labels.index(GAIN)]
    one, two = (row.cells[place].value for row in chosen)
    assert one is not None and two is not None and gain.value == pytest.approx(two - one)
    assert gain.low is not None and gain.high is not None and gain.low <= two - one <= gain.high
    assert chosen[0].cells[labels.index(GAIN)].value is None
    assert sum("experts, seed-0: " in note for note in shown.notes) == 2, "what sanity found of each"


def test_what_a_choice_costs_elsewhere_is_said_once_all_is_there(fill: Fill, tmp_path: Path) -> None:
    plan = planned(item("rebuttal/untuned-cifar100"), "paper", 1, tmp_path)
    fill(dataclasses.replace(plan, works=plan.works[:-1]))
    assert not any("Chosen on the source" in note for note in sheet(plan).table.notes)
    fill(plan)
    (note,) = (note for note in sheet(plan).table.notes if "Chosen on the source" in note)
    assert re.search(r"best on the target: .*, by \d+\.\d\d points", note)


@drawn
def test_what_needs_no_runs_is_drawn_alone(tmp_path: Path) -> None:
    plan = planned(item("theory/meta-gradient"), "quick", 1, tmp_path)
    made, files = write(plan, tmp_path)
    assert made.made == [] and {path.suffix for path in files} == {".pdf", ".svg", ".png", ".csv"}
    rows = list(csv.DictReader(io.StringIO(files[-1].read_text())))
    slopes = {name: [float(row["y"]) for row in rows if row["series"] == name] for name in ("Eq. 12", "gradient alone")}
    ends = {name: (ys[4] - ys[0]) for name, ys in slopes.items()}  # over one power of ten
    assert ends["Eq. 12"] == pytest.approx(2, abs=0.05) and ends["gradient alone"] == pytest.approx(1, abs=0.05)


def test_missing_data_are_named_before_any_run(tmp_path: Path) -> None:
    offline = dataclasses.replace(
        TINY, lines=(Line("AT", "at_cifar10_resnet18", "at_digits"), Line("x", "nt_cifar10_resnet18", ""))
    )
    plan = planned(offline, "paper", 1, tmp_path / "out")
    works = [
        dataclasses.replace(
            w, experiment=dataclasses.replace(w.experiment, data=dataclasses.replace(w.experiment.data, download=False))
        )  # type: ignore[type-var]
        for w in plan.works
    ]
    with pytest.raises(Exception, match=r"CIFAR-10|cifar-10"):
        make(dataclasses.replace(plan, works=works), Where(data_dir=tmp_path), Progress())
    assert not (tmp_path / "out").exists()
    corrupted = dataclasses.replace(
        planned(item("zipper/table4"), "paper", 1, tmp_path), works=planned(TINY, "digits", 1, tmp_path).works
    )
    with pytest.raises(RunError, match=r"zipper/table4 has a column of corrupted images.*--corruptions FOLDER"):
        make(corrupted, Where(), Progress())
