"""What recipes say beyond their own row: further tables, schedules against the vectors, and the commands that their
texts print.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from poise.cli import app
from poise.core.batches import Now
from poise.core.overrides import override
from poise.core.settings import from_json, to_json
from poise.engine import Experiment, Run
from poise.recipes import experiment, recipes, trades_matched
from poise.recipes.squeeze_training import COLUMNS

# -- Squeeze Training, Table 5: column by column, as printed ---------------------------------------------------------

METHODS = ("nt", "at", "trades", "mart")
PRINTED: dict[str, tuple[tuple[float, float], ...]] = {
    "cifar10_resnet18": ((95.09, 0.0), (82.66, 47.62), (82.51, 49.18), (81.15, 47.28)),
    "cifar10_wrn34-10": ((95.28, 0.0), (86.90, 48.31), (84.80, 52.94), (83.62, 50.93)),
    "cifar100_resnet18": ((76.33, 0.0), (57.72, 24.67), (57.99, 24.58), (55.28, 25.15)),
    "cifar100_wrn34-10": ((79.42, 0.0), (61.82, 25.39), (57.10, 26.76), (57.99, 27.12)),
}
TABLE_5 = {
    f"{method}_{where}_st": row for where, rows in PRINTED.items() for method, row in zip(METHODS, rows, strict=True)
}
AGAIN = [name for name in TABLE_5 if experiment(name).also_published]
"""Whose own row is of Table 1 or 3."""


def listed() -> dict[str, list[str]]:
    """The lines of `poise list recipes` by the title they stand under."""
    out = CliRunner().invoke(app, ["list", "recipes"], env={"COLUMNS": "250"}).output
    tables: dict[str, list[str]] = {}
    for line in out.splitlines():
        if line.startswith("recipes: "):
            tables[line.removeprefix("recipes: ").strip()] = []
        else:
            tables[next(reversed(tables))].append(line)
    return tables


def test_all_rows_of_table_5_are_listed_with_its_own_numbers_and_those_of_other_tables_there_too() -> None:
    tables = listed()
    lines = {line.split()[0]: line for line in tables["Squeeze Training, Table 5"] if "_" in line}
    assert set(lines) == set(TABLE_5) and len(lines) == 16
    for name, (natural, autoattack) in TABLE_5.items():
        assert f"published {natural:.2f} natural, {autoattack:.2f} AA." in lines[name]
    for name in AGAIN:
        row = experiment(name).published
        assert row is not None
        (own,) = [line for line in tables[row.table] if line.startswith(f"{name} ")]
        assert f"published {row.values[0]:.2f} natural, {row.values[-1]:.2f} AA." in own


def test_rows_of_table_5_are_data() -> None:
    assert len(AGAIN) == 8
    for name, values in TABLE_5.items():
        made = experiment(name)
        (row,) = [
            row
            for row in (made.published, *made.also_published)
            if row is not None and row.table == "Squeeze Training, Table 5"
        ]
        assert (row.columns, row.values) == (("natural", "AA"), values)


@pytest.mark.parametrize("name", AGAIN)
def test_show_prints_rows_of_further_tables(name: str) -> None:
    out = CliRunner().invoke(app, ["show", name, "--no-estimate"]).output
    natural, autoattack = TABLE_5[name]
    assert re.search(
        rf"^Also published: Squeeze Training, Table 5, .*: {natural:.2f} natural, {autoattack:.2f} AA\.$", out, re.M
    )
    settings = json.loads(out[out.index("{") :])
    assert [row["values"] for row in settings["also_published"]] == [[natural, autoattack]]


# -- rows of further tables are no part of what a run is -------------------------------------------------------------


HEADLINE = "generalist_cifar10_resnet18"


def test_rows_of_further_tables_are_no_part_of_a_runs_identity(tmp_path: Path) -> None:
    made = experiment("at_cifar10_resnet18_st")
    bare = dataclasses.replace(made, also_published=())
    assert made.also_published
    assert made.group == bare.group
    run = Run(tmp_path / "run")
    run.create(bare, {})
    (run.path / "experiment.json").write_text(json.dumps(to_json(made)))
    run.check_unchanged()


def test_experiments_written_before_there_were_further_tables_are_read_and_are_the_same() -> None:
    made = dataclasses.replace(experiment("at_cifar10_resnet18_st"), also_published=())
    data = to_json(made)
    del data["also_published"]
    before = from_json(Experiment, data)
    assert before == made
    assert before.group == made.group


def test_the_headline_of_generalist_is_a_row_of_each_table_around_it_as_its_baselines_are_where_printed() -> None:
    rows = {
        (row.table.split(" (")[0], row.row): dict(zip(row.columns, row.values, strict=True))
        for row in experiment(HEADLINE).also_published
    }
    assert [table for table, _ in rows] == [
        *(f"Zipper, Table {number}" for number in (6, 6, 7, 8, 9)),
        "Zipper, Figure 2",
        "Zipper, Figure 3b",
    ]
    assert rows["Zipper, Table 6", "Zipper (Serial)"] == {"natural": 89.11, "PGD-100": 50.12, "APGD-CE": 46.12}
    assert rows["Zipper, Table 6", "Zipper (Parallel)"] == {"natural": 89.09, "PGD-100": 50.0, "APGD-CE": 46.53}
    assert rows["Zipper, Table 7", "NT=0.1, AT=0.01"] == {"natural": 89.09, "AA": 46.07}
    assert rows["Zipper, Table 8", "Zipper with EMA"]["APGD-T"] == 45.37
    assert rows["Zipper, Table 9", "gamma = (1, 1, 1, 0.5)"]["Square"] == 56.68
    others = [
        name
        for name in recipes()
        if name != HEADLINE and any("Zipper" in row.table for row in experiment(name).also_published)
    ]
    assert others == ["at_cifar10_resnet18", "trades1_cifar10_resnet18"]
    (trades,) = experiment("trades1_cifar10_resnet18").also_published
    printed = dict(zip(trades.columns, trades.values, strict=True))
    assert (trades.table, printed["APGD-T"], printed["AA"]) == ("Zipper, Table 8 (CIFAR-10, ResNet-18)", 40.32, 40.38)


def test_another_objective_has_no_row_of_any_table() -> None:
    changed = override(experiment("at_cifar10_resnet18_st"), {"method.policy.objective": "BAT"})
    assert (changed.published, changed.also_published) == (None, ())


# -- spreads ---------------------------------------------------------------------------------------------------------

SEVEN_RUNS = [
    name
    for name in recipes()
    if (row := experiment(name).published) is not None
    and row.table in ("Squeeze Training, Table 1", "Squeeze Training, Table 6")
]


def test_every_row_of_tables_1_and_6_is_of_seven_runs_with_intervals_where_they_can_be_read() -> None:
    assert len(SEVEN_RUNS) == 18 + 12
    unread = set()
    for name in SEVEN_RUNS:
        row = experiment(name).published
        assert row is not None
        assert row.columns == COLUMNS
        assert row.runs == 7
        assert len(row.spread) == 6
        assert all(value is None or 0 < value < 0.5 for value in row.spread)
        unread |= {name} if all(value is None for value in row.spread) else set()
    damaged = ("at_cifar10", "mart_cifar100", "trades_awp_cifar100", "mart_svhn", "trades_awp_svhn")
    assert unread == {"mart_svhn_resnet18_st", *(f"two_{row}_resnet18" for row in damaged)}


# -- schedules and settings ------------------------------------------------------------------------------------------

DROPS = (
    ("gairat_cifar10_wrn32-10_official", "gairat_wrn120_lr_base0.1_by_epoch_1based"),
    ("gairat_cifar10_resnet18_official", "gairat_resnet100_lr_base0.1_by_epoch_1based"),
    ("fat_cifar10_resnet18_official", "fat_lr_base0.1"),
    ("mart_cifar10_resnet18_official", "mart_code_lr_base0.01"),
    ("trades_awp_cifar10_wrn34-10_official", "trades_awp_lr_base0.1"),
    ("st_cifar10_resnet18", "st_lr_120e_base0.1"),
    ("st_svhn_resnet18", "st_lr_80e_base0.01"),
)


@pytest.mark.parametrize(("name", "vector"), DROPS, ids=[name for name, _ in DROPS])
def test_learning_rates_are_those_of_the_vectors_in_every_epoch(
    vectors: Callable[[str], Any], name: str, vector: str
) -> None:
    made: Any = experiment(name)
    policy = made.method.policies()["joint"]
    moments = [Now(epoch, 391 * (epoch - 1), made.epochs, 391, seed=0) for epoch in range(1, made.epochs + 1)]
    found = [policy.optimizer.learning_rate * policy.schedule.value(now) for now in moments]
    assert found == pytest.approx(vectors("schedules")[vector].tolist(), rel=1e-12)


@pytest.mark.parametrize(("model", "from_epoch"), [("wrn32-10", 60), ("resnet18", 30)])
def test_gairat_weights_images_from_its_first_drop(model: str, from_epoch: int) -> None:
    policy: Any = experiment(f"gairat_cifar10_{model}_official").method.policies()["joint"]
    assert policy.objective.from_epoch == policy.schedule.at[0] == from_epoch


def test_bat_is_trained_by_the_preset() -> None:
    bat, at = experiment("bat_cifar10_resnet18_st"), experiment("at_cifar10_resnet18_st")
    objective: Any = bat.method.policies()["joint"].objective
    assert (objective.beta, objective.bridges, objective.maximised) == (6, 2, "cross_entropy")
    policy: Any = at.method.policies()["joint"]
    assert objective.inner == policy.objective.inner
    method = dataclasses.replace(at.method, policy=dataclasses.replace(policy, objective=objective))  # type: ignore[call-arg]
    assert dataclasses.replace(at, name=bat.name, method=method, published=bat.published, also_published=()) == bat


def test_collaborative_examples_on_cifar100_differ_from_those_on_cifar10_in_the_data_only() -> None:
    ten, hundred = (experiment(f"collaborative_cifar{classes}_resnet18") for classes in (10, 100))
    assert dataclasses.replace(ten, name=hundred.name, data=hundred.data, published=hundred.published) == hundred
    for made, panel in ((ten, "4(a)"), (hundred, "4(b)")):
        assert made.published is not None
        assert panel in made.published.note


# -- texts -----------------------------------------------------------------------------------------------------------


def test_iat_says_who_trains_it_so_and_whose_number_it_is() -> None:
    text = recipes()["iat_cifar10_resnet18_official"].text
    assert text.splitlines()[0].endswith("as third parties train it; published 93.55 natural.")
    assert "Published: Lamb et al. 2019, abstract" in text
    assert "architecture not stated" in text
    assert not re.search("as its authors|Authors' repositories|no numbers", text)


@pytest.mark.parametrize("row", ["nt", "at", "trades1", "generalist"])
def test_texts_of_tiny_imagenet_print_the_command_of_the_column_that_no_protocol_measures(row: str) -> None:
    name = f"{row}_tinyimagenet_resnet18"
    assert f"poise evaluate runs/{name} --corruptions Tiny-ImageNet-C" in recipes()[name].text


def test_the_printed_call_sweeps_beta(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = recipes()["trades_matched_cifar10_resnet18"].text
    (command,) = re.findall(r'python -c "[^"]+"', text)
    assert command in (trades_matched.__doc__ or "")
    assert "at most 9 runs" in text
    assert 2 + inspect.signature(trades_matched.matched_beta).parameters["most"].default == 9
    signature = inspect.signature(trades_matched.matched_trades)

    def swept(*given: Any, **named: Any) -> Run:
        return Run(Path(signature.bind(*given, **named).arguments["out"]) / "beta-0.25")

    monkeypatch.setattr(trades_matched, "matched_trades", swept)
    _, flag, code = shlex.split(command)
    assert flag == "-c"
    exec(code, {})
    assert capsys.readouterr().out == "runs/matched/beta-0.25\n"
