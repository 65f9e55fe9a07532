"""The table of experts and the surrogate x target matrix, made from records alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from poise.core.errors import RunError
from poise.core.records import AttackRecord, EvaluationRecord
from poise.reports import read_runs, table
from poise.reports.experts import COLUMNS, experts_markdown, experts_rows, experts_terminal
from poise.reports.heatmap import matrix, matrix_markdown, matrix_terminal, write_heatmap
from poise.reports.html import render

Make = Callable[..., EvaluationRecord]
MEASURES = {
    "members": [0.5, 0.75],
    "overlap": 0.125,
    "oracle": 0.8,
    "best": [0.4, 0.6],
    "accuracy": 0.7,
    "choice": {"right": 0.7, "best": 0.9, "missed": 0.05, "won": [0.25, 0.75]},
}


def of_experts(record: EvaluationRecord, **changes: object) -> EvaluationRecord:
    attacks = [
        dataclasses.replace(attack, notes={"experts": {**MEASURES, "choice": None}}) for attack in record.attacks
    ]
    return dataclasses.replace(record, notes={"experts": {**MEASURES, **changes}}, attacks=attacks)


def test_experts_have_a_row_for_natural_images_and_for_each_attack(
    make_record: Make, make_run: Callable[..., Path]
) -> None:
    results = table(read_runs(make_run(of_experts(make_record()))))
    natural, attacked = experts_rows(results)
    assert dict(zip(COLUMNS, natural.cells, strict=True)) == {
        "images": "natural",
        "whole": "70.00",
        "best expert": "80.00",
        "all fooled": "12.50",
        "choice is best": "90.00",
        "right one missed": "5.00",
        "experts": "75.00 50.00",
        "shares won": "75.00 25.00",
    }
    assert attacked.cells[0] == "PGD-20"
    assert attacked.cells[4:6] == ("-", "-")
    assert "12.50" in experts_markdown(results)
    assert experts_terminal(results) is not None
    assert "all fooled" in render(read_runs(make_run(of_experts(make_record()), name="again")))


def test_experts_of_several_runs_are_averaged_by_rank(make_record: Make, make_run: Callable[..., Path]) -> None:
    first, second = of_experts(make_record()), of_experts(make_record(seed=1), members=[0.95, 0.3], overlap=0.25)
    results = table(read_runs([make_run(first), make_run(second)]))
    cells = dict(zip(COLUMNS, experts_rows(results)[0].cells, strict=True))
    assert (cells["experts"], cells["all fooled"]) == ("85.00 40.00", "18.75")


def test_single_networks_have_no_table_of_experts(make_record: Make, make_run: Callable[..., Path]) -> None:
    runs = read_runs(make_run(make_record()))
    assert experts_markdown(table(runs)) == ""
    assert experts_terminal(table(runs)) is None
    assert "<h2>Experts</h2>" not in render(runs)


def shown(record: EvaluationRecord, wrong: dict[tuple[str, str], list[int]]) -> EvaluationRecord:
    """The record with attacks of surrogates, wrong at these places."""
    attacks = []
    for (surrogate, attack), places in wrong.items():
        settings = {"type": "Saved", "surrogate": surrogate, "made_by": attack, "digest": surrogate + attack}
        predicted = [(label + 1) % 4 if place in places else label for place, label in enumerate(record.labels)]
        attacks.append(AttackRecord(f"{surrogate}: {attack}", settings, predicted, 0.1))
    return dataclasses.replace(record, attacks=attacks)


@pytest.fixture
def records(make_record: Make) -> list[EvaluationRecord]:
    soe = {("s3", "MPGD"): [0, 1], ("s3", "SGM"): [1, 2], ("s5", "MPGD"): [3]}
    adp = {("s3", "MPGD"): [], ("s3", "SGM"): [5], ("s5", "MPGD"): list(range(10))}
    return [shown(make_record("SoE", count=20, natural_wrong=[7]), soe), shown(make_record("ADP", count=20), adp)]


def test_the_matrix_is_all_or_nothing(records: list[EvaluationRecord]) -> None:
    found = matrix(records)
    assert found.targets == ("SoE", "ADP")
    assert found.columns == ("natural", "s3", "s5", "all surrogates")
    assert found.cells == ((0.95, 0.85, 0.95, 0.8), (1.0, 0.95, 0.5, 0.5))
    assert matrix(records, every_attack=True).columns == (
        "natural",
        "s3: MPGD",
        "s3: SGM",
        "s5: MPGD",
        "all surrogates",
    )
    assert "| SoE | 95.00 | 85.00 | 95.00 | 80.00 |" in matrix_markdown(found)
    assert len(matrix_terminal(found).heads) == 4


def test_the_heat_map_is_valid_svg_with_every_number(records: list[EvaluationRecord], tmp_path: Path) -> None:
    named = [dataclasses.replace(records[0], model='a <very> "long" name & one that does not fit'), records[1]]
    text = write_heatmap(matrix(named), tmp_path / "map.svg").read_text()
    root = ElementTree.fromstring(text)
    assert len(root.findall(".//{*}g")) == 8
    assert "80.0" in [element.text for element in root.iter()]
    assert any(
        (element.text or "").startswith('a <very> "long" name & one that does not fit, natural')
        for element in root.iter()
    )


def test_records_that_cannot_be_compared_are_refused(make_record: Make, records: list[EvaluationRecord]) -> None:
    with pytest.raises(RunError, match="poise transfer"):
        matrix([make_record()])
    with pytest.raises(RunError, match="poise transfer"):
        matrix([])
    with pytest.raises(RunError, match="same sets"):
        matrix([records[0], dataclasses.replace(records[1], attacks=records[1].attacks[:1])])


def test_targets_of_one_name_are_told_apart(records: list[EvaluationRecord]) -> None:
    twice = [records[0], dataclasses.replace(records[0], run="again")]
    assert matrix(twice).targets == ("SoE (SoE-0)", "SoE (again)")
