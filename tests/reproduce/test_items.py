"""The papers' tables and figures as data: each plans itself, its rows are the papers', and it says what it lacks."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from poise.cli import app
from poise.core.errors import SettingsError
from poise.recipes import recipes
from poise.recipes.ensembles_cifar10 import ADAPTIVE, TRANSFER_3, TRANSFER_30, WHITE_BOX
from poise.recipes.items import Item, item, items
from poise.reproduce.plan import planned, told
from poise.reproduce.scales import SCALES, at_scale
from poise.reproduce.sheet import papers_of, sheet

WANTED = {
    **{f"generalist/table1{part}": 9 for part in "ab"},
    **{f"zipper/table{number}": count for number, count in ((3, 9), (4, 4), (5, 3), (6, 3), (7, 5), (8, 3), (9, 3))},
    "zipper/table2-mnist": 3,
    "zipper/table2-svhn": 3,
    "zipper/fig2": 15,
    "zipper/fig3a": 4,
    "zipper/fig3b": 6,
    "zipper/fig4a": 5,
    "generalist/fig1": 9,
    "zipper/fig5": 1,
    "rebuttal/gowal": 3,
    **{f"st/table1-{data}": 6 for data in ("cifar10", "cifar100", "svhn")},
    "st/table2": 32,
    "st/table3": 5,
    "st/table4": 6,
    "st/table5": 16,
    "st/fig6": 32,
    "st/fig4": 2,
    "st/fig5": 1,
    "st/fig8": 1,
    "zipper/fig6": 1,
    **{f"soe/table{number}": 35 for number in (1, 2, 3)},
    "soe/section4.5": 20,
    "theory/meta-gradient": 0,
    **{f"st/table6-{data}": 10 for data in ("cifar10", "cifar100", "svhn")},
    "rebuttal/untuned-cifar100": 18,
    "soe/fig5": 7,
}


def test_the_papers_items_have_as_many_rows_as_the_papers() -> None:
    assert {name: len(items()[name].lines) for name in WANTED} == WANTED


@pytest.mark.parametrize("name", items())
def test_every_item_plans_itself_at_every_scale_that_it_has(name: str, tmp_path: Path) -> None:
    made, scales = item(name), []
    for scale in SCALES:
        try:
            plan = planned(made, scale, 2, tmp_path)
        except SettingsError as error:
            assert re.search(r"has no row there; must be .*paper", str(error))
            continue
        scales.append(scale)
        if not made.lines:
            assert told(plan)[1:] == ["  all is there"] and made.picture is not None
            continue
        assert len({work.folder for work in plan.works}) == len(plan.works)
        assert {work.state for work in plan.works} == {"missing"}
        assert all(work.forwards > 0 for work in plan.works)
        lines = told(plan)
        assert lines[0].startswith(f"{name}: ")
        assert "million forwards" in lines[-2] and lines[-1].startswith("  to evaluate")
        assert {work.experiment.seed for work in plan.works} == {0, 1}
        assert len(plan.left_out) + len({work.line for work in plan.works}) == len(made.lines)
    assert {"quick", "digits", "paper"} <= set(scales)


@pytest.mark.parametrize("name", [name for name, made in items().items() if made.table and not made.across])
def test_a_table_without_runs_has_every_number_that_the_paper_prints(name: str, tmp_path: Path) -> None:
    made = item(name)
    shown = sheet(planned(made, "paper", 1, tmp_path)).table
    expected = [
        (f"{line.label}, paper" + (" (Zipper)" if place else ""), line, paper)
        for line in made.lines
        for place, paper in enumerate(papers_of(made, line))
    ]
    assert {row.kind for row in shown.rows} == {"published"} and {line for _, line, _ in expected} >= {
        line for line in made.lines if " " not in line.recipe
    }
    for (label, line, paper), row in zip(expected, shown.rows, strict=True):
        assert row.label == label
        found = sorted(cell.value for cell in row.cells if cell.value is not None)
        assert found == sorted([*paper.columns.values(), *([line.minutes] if line.minutes is not None else [])])


def test_the_cells_that_the_first_version_prints_otherwise_stand_beside_the_later_ones(tmp_path: Path) -> None:
    shown = sheet(planned(item("zipper/table1b"), "paper", 1, tmp_path)).table
    rows = {row.label: row.cells for row in shown.rows}
    places = [place for place, column in enumerate(shown.columns) if column.label.startswith(("FAB-T", "AA"))]
    names = ("AT (beta=1), paper", "AT (beta=1), paper (Zipper)")
    later, first = ({rows[name][place].value for place in places} for name in names)
    assert later == first == {48.17, 46.11}
    assert [rows[names[0]][place].value for place in places] != [rows[names[1]][place].value for place in places]
    assert sum("(Zipper)" in row.label for row in shown.rows) == 4


def test_the_ensembles_tables_have_a_column_for_each_epsilon(tmp_path: Path) -> None:
    tables = {k: sheet(planned(item(f"soe/table{k}"), "paper", 1, tmp_path)).table for k in (1, 2, 3)}
    for shown in tables.values():
        assert [column.label for column in shown.columns] == [f"epsilon {k / 100:g}" for k in range(1, 8)]
    values = {k: {row.label: [cell.value for cell in row.cells] for row in made.rows} for k, made in tables.items()}
    assert len(values[1]) == 11 and len(values[2]) == len(values[3]) == 5
    for row, pairs in WHITE_BOX.items():
        assert values[1][f"{row}, PGD-50x5, paper"] == [robust for robust, _ in pairs]
        assert values[1][f"{row}, natural, paper"] == [natural for _, natural in pairs]
    assert values[1]["SoE, AdaptivePGD-50x5, the stronger one as a whole, paper"] == list(ADAPTIVE)
    for k, printed in ((2, TRANSFER_3), (3, TRANSFER_30)):
        name = {2: "soe-transfer-3", 3: "soe-transfer-30"}[k]
        assert {row: values[k][f"{row}, {name}, paper"] for row in printed} == {
            row: [value for value, _ in pairs] for row, pairs in printed.items()
        }


def test_transfer_tables_train_their_surrogates_once(tmp_path: Path) -> None:
    plan = planned(item("soe/table3"), "paper", 2, tmp_path)
    assert [work.folder.name for work in plan.sources] == ["seed-1003", "seed-1005", "seed-1008"]
    assert plan.missing[:3] == plan.sources and not plan.works[0].ready
    assert sum("surrogate" in line for line in told(plan)) == 3
    assert [work.folder for work in planned(item("soe/table2"), "digits", 1, tmp_path).sources] == [
        tmp_path / "runs/digits/surrogate_ensembles_digits/seed-1000"
    ]


def test_held_out_selection_is_planned_beside_the_recipes_own(tmp_path: Path) -> None:
    plan = planned(item("zipper/table8"), "digits", 2, tmp_path, held_out=True)
    assert [work.experiment.selection for work in plan.works] == ["test", "test", "held-out", "held-out"] * 3
    assert len({work.folder for work in plan.works}) == 12


def test_table_6_prints_the_rows_of_squeeze_training_and_none_of_the_larger_of_two(
    tmp_path: Path,
) -> None:
    made = item("st/table6-cifar10")
    papers = {line.label: papers_of(made, line) for line in made.lines}
    assert papers["Squeeze Training"][0].columns["AA"] == 50.50
    assert papers["Squeeze Training with AWP"][0].spread["AA"] == 0.12
    larger = [line for line in made.lines if "the larger" in line.label]
    assert len(larger) == 4 and not any(papers[line.label] for line in larger)
    policy = at_scale(larger[1], "paper", 0).method.policies()["joint"]
    assert policy.objective.reduce == "max"  # type: ignore[attr-defined]


def test_table_6_prints_the_papers_minutes(tmp_path: Path) -> None:
    shown = sheet(planned(item("rebuttal/timing"), "paper", 1, tmp_path)).table
    place = [column.label for column in shown.columns].index("minutes of training")
    assert [row.cells[place].value for row in shown.rows] == [414, 397, 342]
    serial, parallel = (at_scale(line, "paper", 0) for line in item("zipper/table6").lines[1:])
    assert (serial.placement, parallel.placement) == ("auto", "by-learner")


def test_at_another_scale_nothing_of_a_paper_is_printed_and_the_title_says_so(tmp_path: Path) -> None:
    shown = sheet(planned(item("generalist/table1a"), "digits", 1, tmp_path))
    assert shown.table.rows == [] and "on scikit-learn's digits, not the paper's experiment" in shown.title


def test_what_stands_for_a_row_on_digits_is_a_recipe_with_its_settings() -> None:
    line = next(line for line in item("st/fig6").lines if line.label == "TRADES, JS, beta 16")
    made = at_scale(line, "digits", 3)
    assert made.name == "trades_digits-method.divergence_js-method.beta_16" and made.seed == 3
    objective = made.method.policies()["joint"].objective
    assert (objective.divergence, objective.beta) == ("js", 16)  # type: ignore[attr-defined]


def test_the_study_keeps_methods_and_the_fractions_at_which_they_change() -> None:
    made = at_scale(item("generalist/table1a").lines[-1], "study", 0)
    assert (made.epochs, made.model.width, made.method.redistribute_every) == (20, 16, 1)  # type: ignore[attr-defined]
    assert made.rows == () and made.protocol.first == 1000
    fat = at_scale(item("generalist/table1a").lines[5], "study", 0).method.policies()["joint"].objective
    assert fat.tau_from == (1, 8, 15)  # type: ignore[attr-defined]


def test_an_unknown_item_is_refused_with_its_nearest_names() -> None:
    for wrong, near in (
        ("st/table8", "'zipper/table8'"),
        ("generalist/tabel1a", "'generalist/table1a'"),
        ("fig6", "'st/fig6'"),
    ):
        with pytest.raises(
            SettingsError, match=rf"there is no item '{wrong}'; did you mean .*{near}.* \(poise list papers has all\)"
        ):
            item(wrong)
    assert item("zipper/table1a") is item("generalist/table1a")


def test_papers_are_listed_and_a_dry_run_makes_nothing(tmp_path: Path) -> None:
    runner = CliRunner()
    listed = runner.invoke(app, ["list", "papers"], env={"COLUMNS": "200"}).output
    assert all(name in listed for name in items())
    done = runner.invoke(app, ["reproduce", "zipper/table8", "--dry-run", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0 and "ablation_no_ema_cifar10/seed-0" in done.output and "missing" in done.output
    assert not (tmp_path / "out").exists()
    drawn = runner.invoke(app, ["reproduce", "st/fig6", "--dry-run", "--out", str(tmp_path / "out")]).output
    assert ("pip install 'poise[plots]'" in drawn) is (find_spec("matplotlib") is None)


def test_every_line_names_recipes_that_exist() -> None:
    known = recipes()
    made: list[Item] = list(items().values())
    assert all(
        name.split()[0] in known for each in made for line in each.lines for name in (line.recipe, line.digits) if name
    )
