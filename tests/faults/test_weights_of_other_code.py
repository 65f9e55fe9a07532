"""Weights are found in whatever other people's training code wrote, under whatever names wrappers gave them, or refused
by their keys.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils import parametrizations

from poise.core.errors import CheckpointError
from poise.engine.foreign_weights import fitting, foreign_weights, load_into
from poise.models.layers import Standardise

Weights = dict[str, Any]


def build(seed: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))


NET, OTHER = build().train(), build(2)
NET(torch.rand(8, 3, 8, 8))  # running statistics of its own
NET.eval()
SD, RAW = NET.state_dict(), OTHER.state_dict()
IMAGES = torch.rand(4, 3, 8, 8)
OPTIMIZER = torch.optim.Adam(OTHER.parameters())
OTHER(IMAGES).sum().backward()
OPTIMIZER.step()


def prefixed(prefix: str, weights: Weights = SD) -> Weights:
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


def loaded(path: Path, network: nn.Module) -> nn.Module:
    load_into(network, fitting(foreign_weights(path), network), str(path))
    return network.eval()


KEYS = [
    "state_dict",
    "model",
    "net",
    "ema",
    "model_state_dict",
    "params",
    "network",
    "weights",
    "rmodel",
    "student",
    "params_ema",
    "0",
]
CONTAINERS: dict[str, Any] = {
    **{key: {key: SD, "epoch": 3, "best_acc": 92.6} for key in KEYS},
    "beside an optimizer": {
        "model": SD,
        "optimizer": OPTIMIZER.state_dict(),
        "lr_scheduler": {"last_lr": torch.tensor(0.1)},
    },
    "beside numpy numbers and arguments": {
        "state_dict": SD,
        "acc": np.float64(0.9),
        "args": argparse.Namespace(lr=0.1, out=None),
    },
    "beside tensors": {"state_dict": SD, "epoch": torch.tensor(3), "best": torch.tensor(0.9)},
    "two levels down": {"checkpoint": {"model": {"state_dict": SD}}, "step": 1},
    "a list of one": [SD],
    "a tuple of one in a key": {"state_dict": (SD,), "err": 0.1},
    "beside what it was averaged from": {"model_state_dict": SD, "unaveraged_model_state_dict": RAW},
    "twice the same": {"state_dict": SD, "model": SD},
    "numbers and words beside the tensors": {**SD, "eps": 0.031, "arch": "conv", "note": None},
    "lightning": {
        "state_dict": prefixed("model."),
        "hyper_parameters": {"w": torch.ones(2)},
        "callbacks": {"x": {"y": torch.ones(1)}},
    },
}


@pytest.mark.parametrize("content", CONTAINERS.values(), ids=CONTAINERS)
def test_weights_are_found_in_any_container(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pt")
    assert torch.equal(loaded(tmp_path / "w.pt", build(3))(IMAGES), NET(IMAGES))


def compiled_inside(weights: Weights) -> Weights:
    return {
        name.replace("0.", "0._orig_mod.", 1) if name.startswith("0.") else name: tensor
        for name, tensor in weights.items()
    }


NAMES: dict[str, Weights] = {
    **{
        prefix: prefixed(prefix)
        for prefix in ("module.", "model.", "net.", "network.", "_orig_mod.", "encoder.backbone.")
    },
    "several wrappers": prefixed("module._orig_mod.model."),
    "compiled inside": compiled_inside(SD),
    "sharded": prefixed(
        "_fsdp_wrapped_module.", {k.replace("1.", "1._fsdp_wrapped_module."): v for k, v in SD.items()}
    ),
    "averaged": torch.optim.swa_utils.AveragedModel(copy.deepcopy(NET)).state_dict(),
    "averaged and wrapped": prefixed("model.", torch.optim.swa_utils.AveragedModel(copy.deepcopy(NET)).state_dict()),
    "without counters of batches": {name: tensor for name, tensor in SD.items() if "num_batches" not in name},
    "wrapped without counters": prefixed(
        "module.", {name: tensor for name, tensor in SD.items() if "num_batches" not in name}
    ),
    "double precision": {
        name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in SD.items()
    },
}


@pytest.mark.parametrize("weights", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_names_lose_what_wrappers_put_into_them(tmp_path: Path, weights: Weights, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": weights}, path)
    else:
        path.write_bytes(safetensors.torch.save({name: tensor.contiguous() for name, tensor in weights.items()}))
    torch.testing.assert_close(loaded(path, build(3))(IMAGES), NET(IMAGES), rtol=0, atol=0)


def test_weights_of_half_precision_are_taken_as_they_are_rounded(tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        half = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in SD.items()}
        torch.save(half, tmp_path / "w.pt")
        network = loaded(tmp_path / "w.pt", build(3))
        assert next(network.parameters()).dtype is torch.float32
        torch.testing.assert_close(network(IMAGES), NET(IMAGES), rtol=0.05, atol=0.05)


def with_norm(wrap: Callable[..., nn.Module]) -> nn.Sequential:
    network = build()
    wrap(network[0], "weight")
    wrap(network[4], "weight")
    network.train()(torch.rand(8, 3, 8, 8))
    return network.eval()


OLD: Any = nn.utils.weight_norm
WRAPS: list[Callable[..., Any]] = [
    OLD,
    parametrizations.weight_norm,
    nn.utils.spectral_norm,
    parametrizations.spectral_norm,
]


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(
    "wrap", WRAPS, ids=["weight_norm", "parametrized weight_norm", "spectral_norm", "parametrized spectral_norm"]
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_normalised_weights_are_multiplied_out_for_a_plain_network_and_kept_for_its_own(
    tmp_path: Path, wrap: Callable[..., Any], prefix: str
) -> None:
    network = with_norm(wrap)
    torch.save(prefixed(prefix, network.state_dict()), tmp_path / "w.pt")
    torch.testing.assert_close(loaded(tmp_path / "w.pt", build(3))(IMAGES), network(IMAGES), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        loaded(tmp_path / "w.pt", with_norm(wrap))(IMAGES), network(IMAGES), rtol=1e-5, atol=1e-6
    )


class Constants(nn.Module):
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.4))
        self.register_buffer("std", torch.full((1, 3, 1, 1), 0.2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


def test_constants_of_standardisation_are_the_networks_own_where_a_file_has_none_and_never_dropped(
    tmp_path: Path,
) -> None:
    standardised = nn.Sequential(Constants(), build())
    torch.save(standardised.state_dict(), tmp_path / "whole.pt")
    torch.save(prefixed("1."), tmp_path / "bare.pt")
    right = nn.Sequential(Standardise([0.4] * 3, [0.2] * 3), NET)(IMAGES)
    for name in ("whole", "bare"):
        network = nn.Sequential(Constants(), build(1 if name == "whole" else 3))
        network = loaded(tmp_path / f"{name}.pt", network)
        if name == "bare":
            torch.testing.assert_close(network(IMAGES), right)
    with pytest.raises(CheckpointError, match=r"0.mean, which Sequential does not know .* build that into the network"):
        loaded(tmp_path / "whole.pt", build())


class Stateful(nn.Module):
    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.linear, self.temperature = nn.Linear(2, 2), temperature

    def get_extra_state(self) -> Any:
        return {"temperature": self.temperature}

    def set_extra_state(self, state: Any) -> None:
        self.temperature = state["temperature"]


def test_an_extra_state_is_taken_over_where_there_is_one_and_missing_where_there_is_none(tmp_path: Path) -> None:
    torch.save(Stateful(4.0).state_dict(), tmp_path / "w.pt")
    assert loaded(tmp_path / "w.pt", Stateful()).temperature == 4
    torch.save(Stateful().linear.state_dict(), tmp_path / "w.pt")
    torch.save({f"linear.{name}": tensor for name, tensor in Stateful().linear.state_dict().items()}, tmp_path / "w.pt")
    assert loaded(tmp_path / "w.pt", Stateful(2.0)).temperature == 2


class Code:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return (Path.touch, (self.folder / "ran",))


REFUSED: dict[str, tuple[Any, tuple[str, ...]]] = {
    "two networks": ({"state_dict": SD, "state_dict_ema": RAW}, ("'state_dict', 'state_dict_ema'", "alone")),
    "a generator and a critic": ({"G": SD, "D": {"a.weight": torch.ones(2)}}, ("'G', 'D'",)),
    "several in a list": ([SD, RAW], ("list of 2",)),
    "no tensors": ({"epoch": 3, "accuracy": 0.9}, ("no state dict", "'epoch', 'accuracy'")),
    "an optimizer only": ({"optimizer": OPTIMIZER.state_dict(), "epoch": 3}, ("no state dict", "'optimizer', 'epoch'")),
    "empty": ({}, ("empty",)),
    "a tensor": (torch.ones(3), ("Tensor",)),
    "a number": (3, ("int",)),
    "a whole network": (NET, ("torch.nn.modules.container.Sequential", "could run code", "state_dict alone")),
    "a whole network in a key": ({"model": NET, "epoch": 1}, ("could run code", "state_dict alone")),
    "a missing tensor": (
        {name: tensor for name, tensor in SD.items() if name != "4.bias"},
        ("lacks 4.bias", "it has '0.weight'"),
    ),
    "a missing running mean": ({n: t for n, t in SD.items() if n != "1.running_mean"}, ("lacks 1.running_mean",)),
    "other names": (
        prefixed("a.", {f"{name}x": tensor for name, tensor in SD.items()}),
        ("lacks 0.weight", "it has 'a.0.weightx'"),
    ),
    "a tensor too many": ({**SD, "5.weight": torch.ones(2)}, ("5.weight", "does not know")),
    "under two prefixes": (
        {**prefixed("model."), **prefixed("ema_model.", RAW)},
        ("lacks 0.weight", "'model.0.weight'"),
    ),
    "another shape": ({**SD, "4.weight": torch.ones(5, 144)}, ("4.weight", "[5, 144]", "[4, 144]")),
    "numbers of another kind": (
        {**SD, "4.weight": torch.ones(4, 144, dtype=torch.int8)},
        ("4.weight", "int8", "floating"),
    ),
}


@pytest.mark.parametrize(("content", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_one_networks_weights_is_refused_by_its_keys(
    tmp_path: Path, content: Any, words: tuple[str, ...]
) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError) as refused:
        loaded(tmp_path / "w.pt", build(3))
    assert all(word in str(refused.value) for word in words), refused.value
    assert "\n" not in str(refused.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated", "ignore:.*torch.load.* received a zip file")
def test_files_that_run_code_are_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": SD, "hook": Code(tmp_path)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="could run code"):
        foreign_weights(tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()
    torch.jit.script(NET).save(tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="TorchScript archive"):
        foreign_weights(tmp_path / "w.pt")
