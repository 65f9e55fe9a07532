"""Each rank of a machine computes on the GPU of its number, whether the GPU was found or named."""

from __future__ import annotations

import pytest
import torch

from poise.core.errors import SettingsError
from poise.engine.devices import choose_device


@pytest.mark.parametrize(
    ("name", "rank", "gpus", "wanted"),
    [
        ("auto", 0, 0, "cpu"),
        ("auto", 3, 0, "cpu"),
        ("auto", 0, 2, "cuda"),
        ("auto", 1, 2, "cuda:1"),
        ("cuda", 0, 2, "cuda"),
        ("cuda", 1, 2, "cuda:1"),
        ("cuda", 3, 2, "cuda:1"),
        ("cpu", 1, 2, "cpu"),
    ],
)
def test_ranks_share_out_the_gpus(
    monkeypatch: pytest.MonkeyPatch, name: str, rank: int, gpus: int, wanted: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    current: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: current.append(str(device)))
    assert str(choose_device(name)) == wanted
    assert current == [wanted] * (wanted == "cuda:1"), "streams and graphs belong to torch's current device"


@pytest.mark.parametrize("name", ["mps", "mps:0"])
def test_apples_gpus_are_refused_because_they_lack_float64(name: str) -> None:
    with pytest.raises(
        SettingsError, match=f"device = '{name}': random numbers are drawn in float64, which Apple's GPUs lack"
    ):
        choose_device(name)


def test_a_device_that_holds_no_numbers_is_refused() -> None:
    with pytest.raises(SettingsError, match="device = 'meta' is not available here"):
        choose_device("meta")


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(SettingsError, match="device = 'gpu' is not available here"):
        choose_device("gpu")
