"""A record that was damaged, or holds another type than it should, is refused in one sentence that names the file and
the place.
"""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest

from poise.core.documents import line_of, lines_in, parse, read_lines, sealed
from poise.core.errors import RunError
from poise.core.hardware import Hardware
from poise.core.records import AttackRecord, EvaluationRecord
from poise.core.verdicts import Finding, Verdict

CPU = Hardware("a processor", ["avx2"], 2, "float32")


def record(**changes: Any) -> EvaluationRecord:
    made = EvaluationRecord(
        model="TRADES",
        checkpoint="selected",
        model_digest="ab12",
        run="run",
        group="trades-1",
        seed=1,
        evaluation_seed=0,
        dataset="Digits",
        split="test",
        classes=["0", "1", "2"],
        protocol="standard",
        labels=[0, 1, 2, 0],
        natural=[0, 1, 2, -1],
        attacks=[
            AttackRecord("PGD-20", {"steps": 20, "threat": {"epsilon": 0.1}}, [0, 1, 1, 2], 0.5, {"survivors": [2]})
        ],
        seconds=1.25,
        started="2026-01-01T00:00:00+00:00",
        device="a processor",
        versions={"torch": "2"},
        training_seconds=12.5,
        trained_on=[CPU],
        evaluated_on=[CPU],
    )
    return dataclasses.replace(made, **changes)


def verdict() -> Verdict:
    finding = Finding("black_box", "warning", "seen", "means", "then", {"accuracy": 0.5})
    about: dict[str, Any] = {
        "model": "TRADES",
        "checkpoint": "selected",
        "model_digest": "ab12",
        "run": "",
        "dataset": "Digits",
        "split": "test",
    }
    numbers: dict[str, Any] = {
        "count": 20,
        "natural_accuracy": 0.5,
        "threat": {"epsilon": 0.1},
        "effort": {},
        "seed": 0,
    }
    facts: dict[str, Any] = {"attacks": {"PGD": 0.25}, "seconds": 1.0, "started": "", "device": "", "versions": {}}
    return Verdict(findings=[finding], **about, **numbers, **facts)


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    found = EvaluationRecord.read(record().write(tmp_path / "record.json"))
    assert dataclasses.asdict(found) == dataclasses.asdict(record()) and found.lacking == []
    assert Verdict.read(verdict().write(tmp_path / "verdict.json")) == verdict()


@pytest.mark.parametrize("made", [record(), verdict()], ids=["record", "verdict"])
def test_no_flipped_bit_of_a_file_changes_what_is_read(tmp_path: Path, made: Any) -> None:
    file, places = made.write(tmp_path / "file.json"), random.Random(0)
    whole = file.read_bytes()
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[places.randrange(len(whole))] ^= 1 << places.randrange(8)
        file.write_bytes(damaged)
        try:
            assert dataclasses.asdict(type(made).read(file)) == dataclasses.asdict(made)
        except RunError as error:
            assert str(file) in str(error)


WRONG: tuple[Any, ...] = (
    None,
    True,
    -7,
    2**70,
    0.5,
    float("nan"),
    float("inf"),
    "text",
    [],
    [True],
    ["a"],
    {},
    {"a": 1},
)


def places_in(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [place for key, value in items for place in ((*path, key), *places_in(value, (*path, key)))]


def replaced(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = json.loads(json.dumps(data))
    inside = changed
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return changed


@pytest.mark.parametrize("made", [record(), verdict()], ids=["record", "verdict"])
def test_another_type_anywhere_is_refused_even_under_a_digest_of_its_own(tmp_path: Path, made: Any) -> None:
    data, file = json.loads(made.write(tmp_path / "file.json").read_text()), tmp_path / "file.json"
    del data["sha256"]
    read = 0
    for path in places_in(data):
        for value in WRONG:
            file.write_text(json.dumps(sealed(replaced(data, path, value))))
            try:
                type(made).read(file).write(tmp_path / "again.json")
            except RunError as error:
                assert str(file) in str(error)
            else:
                read += 1
    assert read, "free text and settings may be anything"


@pytest.mark.parametrize("value", [True, "1", float("nan"), float("inf"), None, [1]])
@pytest.mark.parametrize(
    ("made", "path"),
    [
        *(
            (record(), path)
            for path in [("seconds",), ("seed",), ("labels", 0), ("natural", 3), ("attacks", 0, "predicted", 1)]
        ),
        *((verdict(), path) for path in [("count",), ("natural_accuracy",), ("attacks", "PGD"), ("seed",)]),
    ],
)
def test_no_number_may_be_another_type(tmp_path: Path, made: Any, path: tuple[Any, ...], value: Any) -> None:
    data, file = json.loads(made.write(tmp_path / "file.json").read_text()), tmp_path / "file.json"
    del data["sha256"]
    file.write_text(json.dumps(sealed(replaced(data, path, value))))
    with pytest.raises(RunError, match="is not a complete"):
        type(made).read(file)


@pytest.mark.parametrize(
    ("changes", "clause"),
    [
        ({"labels": [0, 1, 2, 3]}, "labels holds 0 to 3, must lie in -1 to 2"),
        ({"natural": [0, 1, 2, -2]}, "natural holds -2 to 2, must lie in -1 to 2"),
        ({"natural": [0]}, "natural has 1 entries for 4 labels"),
    ],
)
def test_labels_beyond_the_classes_and_columns_of_another_length_are_refused(
    tmp_path: Path, changes: Any, clause: str
) -> None:
    with pytest.raises(RunError, match=clause):
        EvaluationRecord.read(record(**changes).write(tmp_path / "record.json"))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 5000 + "1" + "}" * 5000,
        '{"format": ' + "9" * 5000 + "}",
        '{"format": "\\ud800"}',
        "",
        "nul",
        "[]",
        "\x00",
    ],
    ids=["list", "object", "digits", "half", "empty", "word", "kind", "zero"],
)
@pytest.mark.parametrize("kind", [EvaluationRecord, Verdict])
def test_no_text_gives_a_foreign_exception(tmp_path: Path, text: str, kind: Any) -> None:
    file = tmp_path / "file.json"
    file.write_text(text)
    with pytest.raises(RunError, match=str(file)):
        kind.read(file)
    file.write_text(f"{text or 'x'}\n")
    with pytest.raises(RunError):
        read_lines(file)


def test_a_damaged_line_is_named_and_one_cut_off_is_not(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    lines = [line_of({"epoch": epoch, "step": 4 * epoch, "loss": 1.5}) for epoch in (1, 2, 3)]
    file.write_text(f"{lines[0]}\n{lines[1]}\n{lines[2][:20]}")
    assert [entry["epoch"] for entry in read_lines(file)] == [1, 2]
    file.write_text(f"{lines[0]}\n{lines[1].replace('1.5', '1.6')}\n{lines[2]}x")
    entries, damaged = lines_in(file)
    assert [entry["epoch"] for entry in entries] == [1]
    assert [clause.partition(":")[0] for clause in damaged] == ["line 2", "line 3"]
    with pytest.raises(
        RunError,
        match=r"metrics\.jsonl is damaged at line 2: its digest_with_seconds is not the digest of what it says",
    ):
        read_lines(file)


def test_old_lines_without_digests_are_read(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"epoch": 1, "loss": 2.0}\n' + line_of({"epoch": 2}) + "\n")
    assert read_lines(file) == [{"epoch": 1, "loss": 2.0}, {"epoch": 2}]
    with file.open("a") as more:
        more.write('{"epoch": 3}\n')
    with pytest.raises(RunError, match="line 3: its digest_with_seconds is missing"):
        read_lines(file)


def test_numbers_come_back_as_they_were() -> None:
    assert parse("[1e400, -0.0, 123456789012345678901234567890]") == [
        float("inf"),
        -0.0,
        123456789012345678901234567890,
    ]
