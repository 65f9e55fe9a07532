"""Whatever a caller has switched on around Poise, autocast, inference mode, another default device or type of numbers,
verbs give the same numbers, and the switches stay as they were.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import poise
from poise.attacks import APGD, CW, FAB, MIM, PGD, Attack, AutoAttack, Square
from poise.core.callers import plainly
from poise.data import Digits
from poise.engine import Experiment, train
from poise.evaluation.protocol import Protocol
from poise.learners import SGD, Policy
from poise.methods import Joint
from poise.models import DigitsCNN
from poise.objectives import AT
from poise.threats import Linf

SOURCE = Digits(train_images=40, test_images=20)
DATA = SOURCE.load()
NETWORK = DigitsCNN().build(DATA.shape, 10, seed=0).eval()
X = DATA.test.pixels()[:4]
Y = NETWORK(X).argmax(1)
THREAT = Linf(epsilon=0.1)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    former = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(former)


@contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


AROUND: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "a default device without values": lambda: default_device("meta"),
    "a default of 64 bits": lambda: default_dtype(torch.float64),
    "a default of 16 bits": lambda: default_dtype(torch.float16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "deterministic algorithms": deterministic,
}
ATTACKS: list[Attack] = [
    PGD(steps=2, restarts=2, threat=THREAT),
    MIM(steps=2, threat=THREAT),
    CW(steps=2, threat=THREAT),
    APGD(steps=3, threat=THREAT),
    FAB(steps=2, restarts=1, threat=THREAT),
    Square(queries=5, threat=THREAT),
    AutoAttack(version="custom", attacks_to_run=("apgd-ce",), threat=THREAT),
]


def switches() -> tuple[object, ...]:
    return (
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.get_default_device(),
        torch.get_default_dtype(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_cache_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    )


@pytest.mark.parametrize("around", [name for name in AROUND if name != "autocast"])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_finds_the_same_whatever_is_switched_on_around_it(attack: Attack, around: str) -> None:
    right = attack(NETWORK, X, Y)
    with AROUND[around]():
        before = switches()
        found = attack(NETWORK, X, Y)
        assert switches() == before
    assert torch.equal(found, right) and found.dtype == right.dtype


def test_under_autocast_it_is_the_network_in_that_arithmetic_that_is_attacked() -> None:
    attack = PGD(steps=3, threat=THREAT)
    with torch.autocast("cpu", torch.bfloat16):
        found = attack(NETWORK, X, Y)
    assert found.dtype == X.dtype and float((found - X).abs().max()) <= 0.1 + 1e-6


def trained(folder: Path) -> Tensor:
    method = Joint(policy=Policy(objective=AT(), optimizer=SGD(learning_rate=0.01)), batch_size=20)
    made = Experiment(data=SOURCE, method=method, epochs=1, criterion="last", model=DigitsCNN())
    run = train(made, folder)
    return torch.cat([values.flatten() for values in run.network("last").state_dict().values()]).clone()


@pytest.mark.parametrize("around", AROUND)
def test_verbs_give_the_same_whatever_is_switched_on_around_them(around: str, tmp_path: Path) -> None:
    protocol = Protocol(attacks=(PGD(steps=2, threat=THREAT),))
    verbs: dict[str, Callable[[str], Any]] = {
        "train": lambda name: trained(tmp_path / name),
        "evaluate": lambda _: poise.evaluate(NETWORK, DATA, protocol).attacks[0].predicted,
        "attack": lambda _: poise.attack(NETWORK, PGD(steps=2, threat=THREAT), DATA).x_adv,
        "build": lambda _: next(DigitsCNN().build(DATA.shape, 10, seed=1).parameters()),
        "load": lambda _: dataclasses.replace(SOURCE).load().test.pixels(),
    }
    for name, verb in verbs.items():
        right = verb(f"{name}-right")
        with AROUND[around]():
            before = switches()
            found = verb(f"{name}-{around}")
            assert switches() == before, name
        same = torch.equal(found, right) and found.dtype == right.dtype if isinstance(right, Tensor) else found == right
        assert same, name


def test_weights_that_were_cast_are_not_kept_where_they_change() -> None:
    layer = torch.nn.Linear(2, 2)
    with torch.autocast("cpu", torch.bfloat16), plainly():
        with torch.autocast("cpu", torch.bfloat16):
            before = layer(torch.ones(1, 2))
        with torch.no_grad():
            layer.weight += 1
        with torch.autocast("cpu", torch.bfloat16):
            after = layer(torch.ones(1, 2))
    assert float((after - before).detach().abs().min()) > 1
