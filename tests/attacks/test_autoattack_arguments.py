"""What `AutoAttack.run` is told besides images: refused in one sentence before any work, short names of precisions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poise.attacks import APGD, PGD, AutoAttack
from poise.attacks.autoattack import search_precision
from poise.core.errors import InputError, PoiseError, RunError, SettingsError, StorageError
from poise.threats import Linf

QUICK = AutoAttack(threat=Linf(epsilon=0.05), version="custom", attacks=(APGD(steps=3),))
CPU = torch.device("cpu")


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4))


@pytest.fixture
def batch(net: nn.Module) -> tuple[Tensor, Tensor]:
    x = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    return x, net(x).argmax(1)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"precision": "fp16"}, SettingsError, "precision = 'fp16', must be 'auto', 'float32' or 'bfloat16'"),
        ({"precision": "float64"}, SettingsError, "precision = 'float64'"),
        ({"batch_size": -3}, SettingsError, "batch_size = -3, must be at least 1"),
        ({"batch_size": 0}, SettingsError, "batch_size = 0, must be at least 1"),
        ({"memory_limit": 0}, InputError, "memory_limit = 0 bytes, must be at least"),
        ({"memory_limit": -1}, InputError, "memory_limit = -1 bytes, must be at least"),
        ({"save_seconds": -1}, SettingsError, "save_seconds = -1, must be at least 0"),
        ({"save_seconds": float("nan")}, SettingsError, "save_seconds = nan, must be at least 0"),
        ({"state_path": "{}/nowhere/state"}, RunError, "state_path = .*nowhere/state: there is no folder .*nowhere"),
        ({"state_path": "{}"}, StorageError, "it is a folder, must be a file"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_arguments_out_of_range_are_refused_before_the_network_is_asked(
    batch: tuple[Tensor, Tensor], tmp_path: Path, given: dict[str, Any], error: type[PoiseError], words: str
) -> None:
    class Asked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("asked")

    limit = "memory_limit" in given  # which is compared with what the network takes
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)) if limit else Asked()
    given = {name: value.format(tmp_path) if isinstance(value, str) else value for name, value in given.items()}
    with pytest.raises(error, match=words) as refused:
        QUICK.run(network, *batch, **given)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_images_of_another_dtype_than_the_weights_are_refused_unless_the_network_takes_them(
    net: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    calls: list[Callable[[], object]] = [
        lambda: QUICK.run(net.double(), x, y),
        lambda: PGD(steps=1)(net.double(), x, y),
    ]
    for call in calls:
        with pytest.raises(
            InputError, match=r"x has dtype torch.float32, must be torch.float64 as the network's weights: x.to\(torch"
        ):
            call()

    class Casting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net.double()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.double()).float()

    assert QUICK.run(Casting(), x, y).x_adv.dtype == torch.float32
    with pytest.raises(InputError, match=r"\[1, 3, 5, 5\], it raised RuntimeError: mat1 and mat2 shapes"):
        QUICK.run(net.float(), torch.rand(2, 3, 5, 5), y[:2])


def test_precisions_have_short_names(net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    assert [search_precision(name, CPU) for name in ("auto", "fp32", "float32")] == ["float32"] * 3
    assert search_precision("bf16", CPU) == "bfloat16"
    one, other = (QUICK.run(net, *batch, precision=name) for name in ("bf16", "bfloat16"))
    assert torch.equal(one.x_adv, other.x_adv)
