"""Large tensors on a CPU lie in files, with the values that they would have in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

from poise.attacks import APGD, AutoAttack
from poise.core import scratch
from poise.core.scratch import gathered
from poise.threats import Linf

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(scratch, "LARGE", 1000)
    return tmp_path


def in_files() -> int:
    """Mapped temporary files of this process."""
    return sum("poise-" in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_large_copies_lie_in_files_that_are_gone_with_them(folder: Path) -> None:
    values = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    before = in_files()
    whole, rows = gathered(values), gathered(values, torch.tensor([3, 1, *range(20, 40)]))
    assert in_files() == before + 2 and not list(folder.iterdir())
    assert torch.equal(whole, values) and torch.equal(rows, values[[3, 1, *range(20, 40)]])
    del whole, rows
    assert in_files() == before
    small = gathered(values, torch.tensor([0, 2]))
    assert torch.equal(small, values[[0, 2]]) and in_files() == before


def test_where_the_disk_has_no_room_they_lie_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    before = in_files()
    assert scratch.scratch((40, 48), torch.float32, CPU).shape == (40, 48) and in_files() == before


def test_autoattack_finds_the_same_images_wherever_they_lie(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    x = torch.rand(30, 3, 8, 8)
    y = network(x).argmax(1).detach()
    attack = AutoAttack(
        threat=Linf(epsilon=8 / 255), version="custom", attacks=(APGD(steps=3), APGD(steps=3, loss="dlr"))
    )
    on_disk = attack.run(network, x, y)
    monkeypatch.setattr(scratch, "LARGE", 1 << 40)
    in_memory = attack.run(network, x, y)
    assert 0 < int(in_memory.robust.sum()) < 30
    assert torch.equal(on_disk.x_adv, in_memory.x_adv) and torch.equal(on_disk.broken_by, in_memory.broken_by)
