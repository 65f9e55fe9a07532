"""A tiny experiment on real digits, which trains in a fraction of a second."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from poise.attacks import PGD, Ascent
from poise.core.progress import Progress
from poise.data import Digits, Shift
from poise.engine import Experiment, Monitor, Run
from poise.engine.training import Meters
from poise.evaluation import Protocol
from poise.learners import EMA, SGD, Policy
from poise.methods import Generalist, Joint, Method
from poise.objectives import AT, NT
from poise.threats import Linf

THREAT = Linf(epsilon=0.2)
QUICK_PGD = PGD(threat=THREAT, step_size=0.1, steps=2)


class Stopping(Progress):
    """Sends a signal to this process after so many steps or images, or so many notes; keeps what is said."""

    def __init__(
        self, after: int | None = None, notes: int | None = None, number: signal.Signals = signal.SIGTERM
    ) -> None:
        self.left, self.notes, self.number = after, notes, number
        self.said: list[str] = []

    def begin(self, what: str, total: int, unit: str, cost: float = 0.0) -> Callable[[int], None]:
        def advance(done: int) -> None:
            if self.left is not None:
                self.left -= done
                if self.left == 0:
                    signal.raise_signal(self.number)

        return advance

    def note(self, text: str, share: float | None = None) -> None:
        if self.notes is not None:
            self.notes -= 1
            if self.notes == 0:
                signal.raise_signal(self.number)

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


@pytest.fixture
def steps_taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every step of training from here on."""
    taken: list[int] = []
    add = Meters.add
    monkeypatch.setattr(Meters, "add", lambda self, *given: taken.append(1) or add(self, *given))
    return taken


@pytest.fixture
def stopping() -> type[Stopping]:
    return Stopping


def policy(objective: Any) -> Policy:
    return Policy(
        objective=objective, optimizer=SGD(learning_rate=0.05), average=EMA(decay=0.8), augmentation=Shift(pixels=1)
    )


def tiny(base: str = "joint", **changes: Any) -> Experiment:
    """Two steps of inner maximisation, 120 training images in batches of 32, every part of the engine in use."""
    at = AT(inner=Ascent(threat=THREAT, step_size=0.1, steps=2))
    methods: dict[str, Method] = {
        "joint": Joint(policy=policy(at), batch_size=32),
        "generalist": Generalist(
            natural=policy(NT()), robust=policy(at), batch_size=32, decay=0.8, redistribute_every=1
        ),
    }
    made = Experiment(
        name=f"tiny_{base}",
        data=Digits(train_images=120, test_images=60),
        method=methods[base],
        epochs=3,
        monitors=(Monitor(), Monitor(name="pgd", attack=QUICK_PGD)),
        protocol=Protocol(
            name="tiny", attacks=(QUICK_PGD, PGD(threat=THREAT, step_size=0.1, steps=2, loss="margin")), first=40
        ),
    )
    return dataclasses.replace(made, **changes)


def fingerprint(run: Run) -> dict[str, str]:
    """Digests of everything that must not depend on interruptions: deployed weights, all learners' states, the metrics
    but for times.
    """
    prints = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (run.path / "checkpoints").glob("*.safetensors")
    }
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    timeless = [{key: value for key, value in line.items() if "second" not in key} for line in lines]
    return {**prints, "metrics": json.dumps(timeless)}


@pytest.fixture
def tiny_experiment() -> Callable[..., Experiment]:
    return tiny


@pytest.fixture
def fingerprint_of() -> Callable[[Run], dict[str, str]]:
    return fingerprint


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run, to be read only."""
    from poise.engine import train

    return train(tiny(), tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture
def lines_of() -> Callable[[Run], list[dict[str, Any]]]:
    def lines(run: Run) -> list[dict[str, Any]]:
        return run.metrics()

    return lines


@pytest.fixture
def names_in() -> Callable[[Path], set[str]]:
    """Everything below a folder, by relative path."""
    return lambda folder: {str(path.relative_to(folder)) for path in folder.rglob("*")}
