"""Every registered attack refuses every bad argument by one sentence that names it, or gives a right answer; never a
foreign exception.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from poise.attacks import AdversarialSet, Attack, AutoAttack
from poise.attacks.third_party import ThirdParty
from poise.core.errors import InputError, PoiseError, SettingsError
from poise.core.seeds import everyone
from poise.core.settings import registered, to_json
from poise.evaluation.predictions import logits_of
from poise.models import Collaboration, Ensemble, Mixture, ResNet20, SmallCNN
from poise.threats import L2, Linf, Threat

SHAPE, CLASSES, COUNT = (3, 8, 8), 4, 3
KINDS: dict[str, type] = {  # those of other libraries: tests/attacks/test_third_party.py
    name: kind
    for name, kind in registered(Attack).items()
    if not issubclass(kind, ThirdParty)  # type: ignore[type-abstract]
}
QUICK: dict[str, Any] = {"steps": 1, "restarts": 1, "queries": 2, "targets": 1}
LINEAR = nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES)).eval()
X = torch.rand(COUNT, *SHAPE, generator=torch.Generator().manual_seed(0))
Y = LINEAR(X).argmax(1)


def network(kind: str) -> nn.Module:
    """One that the attack is for."""
    small = SmallCNN() if kind != "SGM" else ResNet20(width=4)
    if kind in ("AdaptivePGD", "SoftMixturePGD", "TransferFromExperts"):
        return Collaboration(member=ResNet20(width=4), members=2).build(SHAPE, CLASSES, seed=0).eval()
    return small.build(SHAPE, CLASSES, seed=0).eval() if kind == "SGM" else LINEAR


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sets") / "set.safetensors"
    AdversarialSet(X, Y, torch.arange(COUNT), to_json(KINDS["PGD"]()), "0" * 8, 0).save(path)
    return path


def quick(kind: str, saved: Path, threat: Threat | None = None) -> Attack:
    """The attack with the smallest budget."""
    given = {
        name: value
        for name, value in QUICK.items()
        if name in {field.name for field in dataclasses.fields(KINDS[kind])}
    }
    if kind == "Saved":
        given["path"] = str(saved)
    if kind == "AutoAttack":
        given |= {"version": "custom", "attacks_to_run": ("apgd-ce",)}
    return KINDS[kind](**given, **({} if threat is None else {"threat": threat}))


def at(values: Tensor, value: float) -> Tensor:
    changed = values.clone()
    changed.view(-1)[1] = value
    return changed


class Lost(nn.Module):
    """Its answers are NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * math.nan


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "images in a list": ({"x": X.tolist()}, "x is list, must be a tensor"),
    "images in an array": ({"x": X.numpy()}, "x is ndarray, must be a tensor"),
    "no images": ({"x": None}, "x is NoneType"),
    "an empty list": ({"x": []}, "x is list"),
    "a path": ({"x": "images.pt"}, "x is str"),
    "bytes": ({"x": (X * 255).to(torch.uint8)}, "x has dtype torch.uint8.*divide uint8 images by 255"),
    "whole numbers": ({"x": X.round().long()}, "x has dtype torch.int64"),
    "flags": ({"x": X > 0.5}, "x has dtype torch.bool"),
    "complex numbers": ({"x": X.to(torch.complex64)}, "x has dtype torch.complex64"),
    "NaN": ({"x": at(X, math.nan)}, "x contains NaN"),
    "infinity": ({"x": at(X, math.inf)}, r"x has pixels in .*inf\]"),
    "minus infinity": ({"x": at(X, -math.inf)}, r"x has pixels in \[-inf"),
    "below 0": ({"x": at(X, -0.1)}, r"x has pixels in \[-0.1.*normalisation belongs into the model"),
    "above 1": ({"x": at(X, 1.5)}, "x has pixels in .*1.5"),
    "levels": ({"x": X * 255}, "x has pixels in .*divide by 255"),
    "standardised": ({"x": (X - 0.5) / 0.2}, "x has pixels in .*normalisation"),
    "an empty batch": ({"x": X[:0], "y": Y[:0]}, r"x has shape \[0, 3, 8, 8\]"),
    "images without pixels": ({"x": X[..., :0]}, r"x has shape \[3, 3, 8, 0\]"),
    "one number": ({"x": torch.tensor(0.5)}, r"x has shape \[\]"),
    "one row": ({"x": X.flatten()}, r"x has shape \[576\]"),
    "sparse images": ({"x": X.to_sparse()}, "x has layout torch.sparse_coo"),
    "no values": ({"x": X.to("meta")}, "x has no values"),
    "another dtype": ({"x": X.double()}, "x has dtype torch.float64, must be torch.float32"),
    "other channels": ({"x": torch.rand(COUNT, 1, 8, 8)}, r"images of shape \[1, 1, 8, 8\], it raised RuntimeError"),
    "labels in a list": ({"y": Y.tolist()}, "y has dtype list"),
    "labels in an array": ({"y": Y.numpy()}, "y has dtype int64, must be torch.int64"),
    "no labels": ({"y": None}, "y has dtype NoneType"),
    "labels of 32 bits": ({"y": Y.int()}, "y has dtype torch.int32"),
    "labels of floats": ({"y": Y.float()}, "y has dtype torch.float32"),
    "labels of flags": ({"y": Y > 1}, "y has dtype torch.bool"),
    "probabilities": ({"y": torch.eye(CLASSES)[Y]}, "y has dtype torch.float32"),
    "one-hot labels": ({"y": torch.eye(CLASSES, dtype=torch.int64)[Y]}, r"y has shape \[3, 4\]"),
    "a column of labels": ({"y": Y[:, None]}, r"y has shape \[3, 1\]"),
    "one label": ({"y": Y[0]}, r"y has shape \[\]"),
    "labels too many": ({"y": torch.cat([Y, Y])}, r"y has shape \[6\], must be \[3\]"),
    "labels too few": ({"y": Y[:1]}, r"y has shape \[1\], must be \[3\]"),
    "no label at all": ({"y": Y[:0]}, r"y has shape \[0\], must be \[3\]"),
    "a label below 0": ({"y": torch.full_like(Y, -1)}, r"y has labels in \[-1, -1\], must be in \[0, 3\]"),
    "a label too large": ({"y": torch.full_like(Y, CLASSES)}, r"y has labels in \[4, 4\], must be in \[0, 3\]"),
    "labels of nowhere": ({"y": Y.to("meta")}, "y is on meta, must be on "),
    "targets in a list": ({"target": [0, 1, 2]}, "target"),
    "targets of 32 bits": ({"target": Y.int()}, "target"),
    "a target too large": ({"target": torch.full_like(Y, 99)}, "target"),
    "targets too few": ({"target": Y[:1]}, "target"),
    "a target of True": ({"target": True}, "target"),
    "a seed for a draw": ({"draw": 0}, "draw is int"),
    "a draw for others": ({"draw": everyone(0, count=COUNT + 1)}, "draw is for 4 examples, must be for 3"),
    "a function": ({"model": lambda x: LINEAR(x)}, "model is function, must be a torch.nn.Module"),
    "no network": ({"model": None}, "model is NoneType"),
    "a class": ({"model": nn.Flatten}, "model is Flatten"),
    "a state dict": ({"model": LINEAR.state_dict()}, "model is OrderedDict"),
    "weights that are NaN": ({"model": Lost()}, "NaN|Collaboration|ResNet|Ensemble"),
}


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("bad", BAD)
def test_every_attack_refuses_a_bad_argument_by_its_name(bad: str, saved: Path) -> None:
    given, words = BAD[bad]
    for kind in KINDS:
        arguments = {"model": network(kind), "x": X, "y": Y, **given}
        model, x, y = (arguments.pop(name) for name in ("model", "x", "y"))
        with pytest.raises(PoiseError, match=words) as refused:
            quick(kind, saved)(model, x, y, **arguments)
        assert "\n" not in str(refused.value), kind
        if kind == "AutoAttack" and "target" not in given and "draw" not in given:
            with pytest.raises(PoiseError):
                AutoAttack(version="custom", attacks_to_run=("apgd-ce",)).run(model, x, y)


GOOD: dict[str, Callable[[], Tensor]] = {
    "asking for gradients": lambda: X.clone().requires_grad_(True),
    "channels last": lambda: X.contiguous(memory_format=torch.channels_last),
    "a transposed view": lambda: X.transpose(2, 3).contiguous().transpose(2, 3),
    "every other of a larger batch": lambda: X.repeat_interleave(2, 0)[::2],
    "a hair outside the box": lambda: at(X, 1 + 5e-7),
    "a subclass": lambda: nn.Parameter(X.clone(), requires_grad=False),
}


@pytest.mark.parametrize("good", GOOD)
@pytest.mark.parametrize("threat", [Linf(epsilon=0.05), L2(epsilon=0.3)], ids=["linf", "l2"])
def test_images_however_they_lie_in_memory_give_the_same_result(good: str, threat: Threat, saved: Path) -> None:
    for kind in set(KINDS) - {"Saved"}:
        model, attack = network(kind), quick(kind, saved, threat)
        y = logits_of(model, X).argmax(1)
        x = GOOD[good]()
        right = attack(model, x.detach().contiguous().clone(), y)
        z = attack(model, x, y)
        assert not z.requires_grad
        torch.testing.assert_close(z, right, rtol=0, atol=1e-6, msg=kind)


VALUES: list[Any] = [
    True,
    False,
    None,
    "a",
    "8/0",
    "",
    -1,
    1.5,
    math.nan,
    math.inf,
    -math.inf,
    10**400,
    [],
    {},
    (1,),
    b"1",
    object(),
    np.ones(2),
]
VALUES += [torch.tensor(1.0), {"type": "Linf", "epsilon": True}, {"type": "nobody"}, Linf, "Linf", 1 + 2j]


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_of_every_attack_is_taken_or_refused_by_its_name(kind: str, saved: Path) -> None:
    for field in (field for field in dataclasses.fields(KINDS[kind]) if field.init):
        for value in VALUES:
            given = {"path": str(saved)} if kind == "Saved" else {}
            try:
                attack = KINDS[kind](**{**given, field.name: value})
            except SettingsError as error:
                assert (
                    field.name in str(error)
                    or "attacks" in str(error)
                    or "epsilon" in str(error)
                    or "registered" in str(error)
                ), error
                continue
            stored = getattr(attack, field.name)
            assert not isinstance(stored, bool) or isinstance(
                KINDS[kind].__dataclass_fields__[field.name].default, bool
            ), field.name
            to_json(attack)


@pytest.mark.parametrize("threat", [Linf, L2])
@pytest.mark.parametrize("value", [True, False, "a", None, -1, math.nan, math.inf, "1/0", [], "8/255/2"])
def test_epsilon_is_a_number(threat: type, value: Any) -> None:
    with pytest.raises(SettingsError, match=r"epsilon = "):
        threat(epsilon=value)


RUN: dict[str, tuple[dict[str, Any], str]] = {
    "batch_size of True": ({"batch_size": True}, "batch_size = True"),
    "batch_size in words": ({"batch_size": "a"}, "batch_size = 'a'"),
    "half a batch_size": ({"batch_size": 1.5}, "batch_size = 1.5"),
    "memory_limit in words": ({"memory_limit": "2G"}, "memory_limit = '2G'"),
    "memory_limit of True": ({"memory_limit": True}, "memory_limit = True"),
    "seed of True": ({"seed": True}, "seed = True"),
    "seed in words": ({"seed": "a"}, "seed = 'a'"),
    "save_seconds in words": ({"save_seconds": "1"}, "save_seconds = '1'"),
    "save_seconds of True": ({"save_seconds": True}, "save_seconds = True"),
    "precision of a type": ({"precision": torch.float32}, "precision = torch.float32"),
    "state_path of a number": ({"state_path": 3}, "state_path is int"),
    "ids in a list": ({"ids": [0, 1, 2]}, "ids has dtype list"),
    "ids twice": ({"ids": torch.zeros(COUNT, dtype=torch.int64)}, "ids has shape .*distinct"),
    "ids of floats": ({"ids": torch.arange(COUNT).float()}, "ids has dtype torch.float32"),
    "ids too few": ({"ids": torch.arange(1)}, r"ids has shape \[1\]"),
}


@pytest.mark.parametrize(("given", "words"), RUN.values(), ids=RUN)
def test_a_run_of_autoattack_refuses_its_arguments_by_name(given: dict[str, Any], words: str) -> None:
    with pytest.raises(PoiseError, match=words) as refused:
        AutoAttack(version="custom", attacks_to_run=("apgd-ce",)).run(LINEAR, X, Y, **given)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("make", [Ensemble, Mixture, Collaboration])
@pytest.mark.parametrize("value", [True, 0, -1, 1.5, "a", None])
def test_numbers_of_members_are_whole_numbers(make: Any, value: Any) -> None:
    more: dict[str, Any] = {"gate": SmallCNN()} if make is Mixture else {}
    with pytest.raises(SettingsError, match=r"members = "):
        make(member=SmallCNN(), members=value, **more)


def test_inputs_are_refused_before_the_network_is_asked() -> None:
    class Asked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("asked")

    for name in ("NaN", "levels", "bytes", "an empty batch"):
        with pytest.raises(InputError, match=BAD[name][1]):
            KINDS["PGD"]()(Asked(), BAD[name][0]["x"], Y)
