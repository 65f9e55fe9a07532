"""Attacks of other libraries, shown on a stand-in of torchattacks' form: seeds, threat, refusals, protocols, the
command. Against the libraries themselves: tests/extras/test_third_party.py.
"""

from __future__ import annotations

import importlib.metadata
import json
import random
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import poise
from poise.attacks import ART, PGD, Foolbox, Torchattacks
from poise.attacks.attack import Attack
from poise.cli import main
from poise.core.errors import InputError, MissingExtraError, PoiseError, SettingsError
from poise.core.seeds import everyone
from poise.core.settings import from_json, to_json
from poise.data import Digits
from poise.evaluation.protocol import Protocol
from poise.models import DigitsCNN
from poise.threats import L2, Linf

NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).eval()
X = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = NETWORK(X).argmax(1)


class Base:
    def __init__(self, model: nn.Module) -> None:
        self.model, self.targeted = model, False

    def set_device(self, device: object) -> None:
        print("Device set.")

    def set_mode_targeted_by_label(self, quiet: bool = False) -> None:
        self.targeted = True


class Sign(Base):
    """One step of the gradient's sign from a random place."""

    def __init__(self, model: nn.Module, eps: float = 0.3, noise: float = 0.0, fail: bool = False) -> None:
        super().__init__(model)
        self.eps, self.noise, self.fail = eps, noise, fail

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        if self.fail:
            raise RuntimeError("no such thing\nin two lines")
        x = x.requires_grad_(True)
        loss = nn.functional.cross_entropy(self.model(x), y) * (-1 if self.targeted else 1)
        step = torch.autograd.grad(loss, x)[0].sign()
        drawn = torch.rand_like(x) + float(np.random.rand()) + random.random()  # noqa: NPY002  as libraries draw
        return (x + self.eps * step * (1 - self.noise * drawn / 3)).clamp(0, 1)


class Far(Base):
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        x[:2] = 1 - x[:2]
        return x


class Bright(Base):
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return x + 0.01


class Lost(Base):
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return x * float("nan")


class Flat(Base):
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return x.flatten(1)


class Nothing(Base):
    def __call__(self, x: Tensor, y: Tensor) -> None:
        return None


@pytest.fixture
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    library: Any = types.ModuleType("torchattacks")
    for kind in (Sign, Far, Bright, Lost, Flat, Nothing):
        setattr(library, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "torchattacks", library)
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0" if name == "torchattacks" else version(name))


@pytest.mark.usefixtures("_stand_in")
def test_an_attack_of_a_library_draws_by_keys_and_leaves_all_generators_alone() -> None:
    attack = Torchattacks(name="Sign", noise=1.0)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]  # noqa: NPY002
    first = attack(NETWORK, X, Y)
    _ = torch.rand(3), np.random.rand(), random.random()  # noqa: NPY002
    assert torch.equal(attack(NETWORK, X, Y), first)
    assert not torch.equal(attack(NETWORK, X, Y, draw=everyone(1, "other", count=5)), first)
    torch.set_rng_state(states[0])
    random.setstate(states[2])
    attack(NETWORK, X, Y)
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[2]
    assert float((first - X).abs().max()) <= 8 / 255 and not first.requires_grad
    alone = Torchattacks(name="Sign", noise=1.0, alone=True)
    draw = everyone(0, "some", count=5)
    torch.testing.assert_close(
        alone(NETWORK, X, Y, draw=draw)[3:], alone(NETWORK, X[3:], Y[3:], draw=draw[torch.tensor([3, 4])])
    )


LEFT = {"Far": r"left Linf\(epsilon=8/255\) on 2 of 5", "Bright": r"left \[0, 1\] on 5 of 5"}


@pytest.mark.usefixtures("_stand_in")
@pytest.mark.parametrize(("name", "words"), LEFT.items())
def test_images_that_leave_the_threat_are_named_dropped_or_projected(name: str, words: str) -> None:
    bright = X.clone()
    bright[:, 0, 0, 0] = 1
    x = bright if name == "Bright" else X
    with pytest.raises(InputError, match=words):
        Torchattacks(name=name)(NETWORK, x, Y)
    assert torch.equal(Torchattacks(name=name, outside="natural")(NETWORK, x, Y)[:2], x[:2])
    for threat in (Linf(epsilon=0.02), L2(epsilon=0.1)):
        z = Torchattacks(name=name, outside="project", threat=threat)(NETWORK, x, Y)
        assert float(z.min()) >= 0 and float(z.max()) <= 1 and not torch.equal(z, x)
        assert float(threat.norm(z - x).max()) <= threat.epsilon * (1 + 1e-5)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a name that is none": (
        {"name": "Sing"},
        r"name = 'Sing' is no attack of torchattacks; did you mean 'Sign'",
    ),
    "a base class": ({"name": "Tensor"}, "is no attack"),
    "no name": ({"name": ""}, "name = ''"),
    "an argument that is none": ({"name": "Sign", "nois": 1.0}, "Sign takes no 'nois'; did you mean 'noise'"),
    "an argument of what is given": ({"name": "Sign", "model": 1}, "takes no 'model'"),
    "an epsilon beside the threat's": ({"name": "Sign", "eps": 0.5}, r"eps = 0.5, but the threat is Linf"),
    "an attack that raises": (
        {"name": "Sign", "fail": True},
        "Sign of torchattacks does not work here, .* RuntimeError: no such thing$",
    ),
    "images that are NaN": ({"name": "Lost"}, "NaN or infinite"),
    "images of another shape": ({"name": "Flat"}, r"returned \[5, 192\], must return images \[5, 3, 8, 8\]"),
    "no images": ({"name": "Nothing"}, "returned NoneType"),
    "something else outside": ({"name": "Sign", "outside": "keep"}, "outside = 'keep'"),
    "a list of one": ({"name": "Sign", "alone": "maybe"}, "alone = 'maybe'"),
}


@pytest.mark.usefixtures("_stand_in")
@pytest.mark.parametrize(("given", "words"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_work_is_one_sentence(given: dict[str, Any], words: str) -> None:
    with pytest.raises(PoiseError, match=words) as error:
        Torchattacks(**given)(NETWORK, X, Y)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("_stand_in")
def test_an_attack_of_a_library_goes_towards_targets_and_survives_json() -> None:
    attack = Torchattacks(name="Sign", threat=Linf(epsilon=0.5))
    target = (Y + 1) % 4
    z = attack(NETWORK, X, Y, target=target)
    sure = NETWORK(z).softmax(1).gather(1, target[:, None])
    assert bool((sure > NETWORK(X).softmax(1).gather(1, target[:, None])).all())
    more = Torchattacks(name="Sign", noise=0.5, threat=L2(epsilon=0.25), outside="project")
    assert from_json(Attack, json.loads(json.dumps(to_json(more)))) == more  # type: ignore[type-abstract]


@pytest.mark.usefixtures("_stand_in")
def test_a_protocol_and_the_command_hold_attacks_of_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Digits(train_images=40, test_images=20).load()
    network = DigitsCNN().build(data.shape, 10, seed=0)
    threat = Linf(epsilon=0.1)
    protocol = Protocol(name="mixed", attacks=(PGD(steps=1, threat=threat), Torchattacks(name="Sign", threat=threat)))
    record = poise.evaluate(network, data, protocol)
    assert record.attack_names == ["PGD-1", "Sign"] and record.attacks[1].notes["third_party"] == "torchattacks 0.0"
    assert record.attacks[1].settings["type"] == "Torchattacks"
    (tmp_path / "mixed.json").write_text(json.dumps(to_json(protocol)))
    again = poise.evaluate(network, data, str(tmp_path / "mixed.json"))
    assert again.attacks[1].predicted == record.attacks[1].predicted
    torch.save(network.state_dict(), tmp_path / "net.pt")
    images = json.dumps({"type": "Digits", "train_images": 40, "test_images": 20})
    words = ["attack", str(tmp_path / "net.pt"), "Torchattacks", "name=Sign", "noise=0.5", "threat.epsilon=0.1"]
    monkeypatch.setattr(sys, "argv", ["poise", *words, "--model", "DigitsCNN", "--data", images])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code and "Sign" in capsys.readouterr().out
    with pytest.raises(SettingsError, match="there is no settings file"):
        poise.evaluate(network, data, "nowhere.json")


@pytest.mark.parametrize(
    ("attack", "line"),
    [
        (Torchattacks(), "pip install --no-deps torchattacks"),
        (Foolbox(), r"pip install 'poise\[foolbox\]'"),
        (ART(), r"pip install 'poise\[art\]'"),
    ],
    ids=["torchattacks", "foolbox", "art"],
)
def test_a_library_that_is_missing_is_named_with_the_line_that_installs_it(
    attack: Attack, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = type(attack).package  # type: ignore[attr-defined]

    def missing(name: str, *_: object) -> None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr("poise.attacks.third_party.importlib.import_module", missing)
    with pytest.raises(MissingExtraError, match=line):
        attack(NETWORK, X, Y)
