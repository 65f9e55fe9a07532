"""What is measured on GPUs runs at toy size on a CPU."""

from __future__ import annotations

import pytest
import torch
from benchmarks import gpu_archive, gpu_beside, gpu_speed
from benchmarks.measuring import Kept
from torch import nn

CPU = torch.device("cpu")


LINES = {"AT ResNet-18": 2, "NT ResNet-18": 2}
CHEAP = [
    "crafting ResNet-18",
    "same points",
    "epoch ResNet-18, 128",
    "epoch WRN-34-10, 512",
    "deterministic",
    "memory ResNet-18",
]


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
def test_every_item_is_measured_once_and_a_call_made_again_goes_on(tmp_path, capsys):
    words = ["--out", str(tmp_path), "--toy", "--device", "cpu"]
    names = list(gpu_speed.items(CPU, toy=True))
    gpu_speed.main([*words, "--seconds", "0.01"])
    assert f"stopped before {names[1]!r}" in capsys.readouterr().out
    gpu_speed.main(words)
    found = Kept(tmp_path / "speed.json").known
    assert [name for name in found if name != "machine"] == names
    assert not [name for name in names if "failed" in found[name]]
    assert {name for name in names if gpu_speed.rows({name: found[name]})} == set(names)
    capsys.readouterr()
    gpu_speed.main(words)
    assert Kept(tmp_path / "speed.json").known == found
    assert all(name in capsys.readouterr().out or name in ("same points", "deterministic") for name in names[:1])


def test_all_wanted_items_are_there_and_a_failed_one_is_shown():
    names = list(gpu_speed.items(CPU, toy=True))
    assert {f"epoch {network}, {batch}" for network in ("ResNet-18", "WRN-34-10") for batch in (128, 512)} <= set(names)
    assert {
        f"{each} ResNet-18"
        for each in ("NT", "AT", "TRADES", "MART", "SqueezeTraining", "Generalist", "PGD-10", "memory")
    } <= set(names)
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
