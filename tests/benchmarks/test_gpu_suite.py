"""The suite for GPUs runs from its first piece to its table, at toy size on a CPU."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from benchmarks import gpu_archive, gpu_beside, gpu_speed, gpu_suite
from torch import nn

CPU = torch.device("cpu")


def run(folder, capsys, *words: str) -> str:
    gpu_suite.main([*words, "--out", str(folder), "--toy", "--device", "cpu"])
    return capsys.readouterr().out


def test_a_row_is_trained_in_pieces_archived_and_attacked_from_the_archive(tmp_path, capsys):
    out = tmp_path / "suite"
    assert "run the same command again" in run(out, capsys, "train", "--seconds", "0.05")
    for _ in range(9):  # a slow machine may need several pieces
        if "all steps are done" in run(out, capsys, "train", "--seconds", "60"):
            break
    assert len(gpu_suite.kept(out, "train")["pieces"]) >= 2
    assert "selected.part1of1.safetensors" in run(out, capsys, "archive")

    facts = json.loads((out / "archive" / "selected.json").read_text())
    ((name, digest),) = facts["digests"].items()
    assert hashlib.sha256((out / "archive" / name).read_bytes()).hexdigest() == digest

    elsewhere = tmp_path / "elsewhere"  # another sitting has the archive only
    elsewhere.mkdir()
    (out / "archive").rename(elsewhere / "archive")
    table = run(elsewhere, capsys, "attack", "--epsilon", "0.2")
    found = gpu_suite.kept(elsewhere, "attack")["selected"]
    assert found["images"] == 40 and 0 <= found["robust"] <= found["natural"] <= 1
    assert found["largest_change_of_a_pixel_over_epsilon"] <= 1 + 1e-5 and found["verdicts_that_changed_when_asked_again"] == 0
    assert f"{100 * found['natural']:.2f} / {100 * found['robust']:.2f}" in table
    predicted = json.loads((elsewhere / "archive" / "selected-autoattack.json").read_text())["predicted"]
    assert len(predicted) == 40

    (elsewhere / "archive" / name).write_bytes(b"altered")
    with pytest.raises(SystemExit, match="not the part"):
        gpu_archive.read(elsewhere / "archive", "selected")


LINES = {"AT ResNet-18": 2, "NT ResNet-18": 2}
CHEAP = ["crafting ResNet-18", "same points", "epoch ResNet-18, 128", "epoch WRN-34-10, 512", "deterministic", "memory ResNet-18"]


@pytest.mark.parametrize("name", [*LINES, *CHEAP])
def test_what_speed_measures_has_its_lines_in_the_table(name):
    numbers = gpu_speed.items(CPU, toy=True)[name]()
    assert len(gpu_speed.rows({name: numbers, "machine": "here"})) == LINES.get(name, 1)


def test_another_attack_that_can_be_had_is_timed_too(monkeypatch):
    monkeypatch.setattr(gpu_beside, "torchattacks_pgd", lambda network: lambda x, y: network(x))
    found = gpu_speed.items(CPU, toy=True)["PGD-10 ResNet-18"]()
    assert list(found["attack_times"]) == ["straightforward", "strict float32", "torchattacks"]
    assert len(gpu_speed.rows({"PGD-10": found})) == 3


@pytest.mark.slow
def test_the_speed_piece_measures_every_item_once_and_goes_on(tmp_path, capsys):
    out = tmp_path / "suite"
    names = list(gpu_speed.items(CPU, toy=True))
    assert f"stopped before {names[1]!r}" in run(out, capsys, "speed", "--seconds", "0.01")
    run(out, capsys, "speed")
    found = gpu_suite.kept(out, "speed")
    assert [name for name in found if name != "machine"] == names
    assert not [name for name in names if "failed" in found[name]]
    assert {name for name in names if gpu_speed.rows({name: found[name]})} == set(names)
    table = run(out, capsys, "speed")
    assert gpu_suite.kept(out, "speed") == found
    assert all(name in table for name in names if name not in ("same points", "deterministic"))


def test_all_wanted_items_are_there_and_a_failed_one_is_shown():
    names = list(gpu_speed.items(CPU, toy=True))
    assert {f"epoch {network}, {batch}" for network in ("ResNet-18", "WRN-34-10") for batch in (128, 512)} <= set(names)
    assert {f"{each} ResNet-18" for each in ("NT", "AT", "TRADES", "MART", "SqueezeTraining", "Generalist", "PGD-10", "memory")} <= set(
        names
    )
    assert {f"SoE 3 x ResNet-20, phase {phase}" for phase in (1, 2)} <= set(names)
    assert gpu_speed.rows({"AT ResNet-18": {"failed": "RuntimeError"}}) == [["AT ResNet-18", "failed: RuntimeError"]]


def test_flops_of_a_forward_are_counted():
    class Setting(gpu_speed.Setting):
        def model(self) -> nn.Module:
            return nn.Conv2d(3, 5, 3, padding=1, bias=False)

    setting = Setting(gpu_speed.ResNet20(), 1, CPU, size=8)
    assert gpu_speed.forward_flops(setting) == 2 * 8 * 8 * 3 * 5 * 9


def test_weights_go_to_fp16_where_it_can_hold_them():
    wide, counter = torch.tensor([1e6]), torch.tensor(3)
    assert gpu_archive.halved(torch.ones(2)).dtype == torch.float16
    assert gpu_archive.halved(wide) is wide and gpu_archive.halved(counter) is counter
    assert gpu_archive.LIMIT < 16 * 2**20
