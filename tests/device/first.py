"""The first quarter of an hour on a GPU, at toy size on the pretended one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from benchmarks import gpu_archive, gpu_first
from benchmarks.measuring import Kept
from benchmarks.pretended import pretended_gpu


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poise.learners.compiled.compiled_call", lambda function: function)
    monkeypatch.setattr("poise.learners.recording._WARMUPS", 1)


def test_numbers_are_right_and_a_call_made_again_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for table, names in (("OBJECTIVES", ["AT", "NT"]), ("ATTACKS", ["PGD"])):
        monkeypatch.setattr(gpu_first, table, {name: getattr(gpu_first, table)[name] for name in names})
    words = ["numbers", "--out", str(tmp_path), "--toy", "--device", "cuda"]
    with pretended_gpu() as gpu:
        gpu_first.main([*words, "--seconds", "0.001"])
        assert "not reached yet" in capsys.readouterr().out
        gpu_first.main([*words, "--seconds", "1000"])
        assert not gpu.faults
        shown = capsys.readouterr().out
    assert "WRONG" not in shown and "not reached" not in shown
    assert "| AT ResNet-18: times faster than strict fp32 |" in shown
    known = Kept(tmp_path / "first.json").known
    assert known["objective AT"][1][:2] == ["AT: recorded, the same bits", True]


def test_what_fails_is_said_and_hides_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        gpu_first, "parts", lambda device: {"bad": lambda: 1 / 0, "good": lambda: iter([("good", True, "")])}
    )
    monkeypatch.setattr(gpu_first.gpu_speed, "first", lambda device, toy: {})
    gpu_first.main(["numbers", "--out", str(tmp_path), "--toy", "--device", "cpu"])
    shown = capsys.readouterr().out
    assert "WRONG  bad  ZeroDivisionError" in shown and "| right | 1 of 2 |" in shown


def test_a_row_is_trained_archived_and_attacked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["row", "--out", str(tmp_path), "--toy", "--device", "cuda"]
    with pretended_gpu() as gpu:
        gpu_first.main([*words, "--seconds", "1000"])
        assert not gpu.faults
    shown = capsys.readouterr().out
    assert "selected.part1of1.safetensors" in shown and "AutoAttack on 40 images" in shown
    archive = tmp_path / "archive"
    ((name, digest),) = json.loads((archive / "selected.json").read_text())["digests"].items()
    assert hashlib.sha256((archive / name).read_bytes()).hexdigest() == digest
    assert len(json.loads((archive / "selected-autoattack.json").read_text())["predicted"]) == 40
    (archive / name).write_bytes(b"altered")
    with pytest.raises(SystemExit, match="not the part"):
        gpu_archive.read(archive, "selected")
