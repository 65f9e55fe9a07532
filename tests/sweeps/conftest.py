"""Tiny sweeps on real digits, and an engine that does tasks in this process, in any order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from poise.attacks import PGD, Ascent
from poise.core.progress import Progress
from poise.data import Digits
from poise.engine import Experiment, Monitor
from poise.evaluation import Protocol
from poise.learners import SGD, Policy
from poise.methods import Joint
from poise.objectives import AT
from poise.sweeps.engines import Engine, Told
from poise.sweeps.ledger import Outcome
from poise.sweeps.tasks import Task, perform
from poise.threats import Linf

THREAT = Linf(epsilon=0.2)
QUICK = PGD(threat=THREAT, step_size=0.1, steps=2)
TINY = Experiment(
    name="tiny",
    data=Digits(train_images=100, test_images=40),
    method=Joint(
        policy=Policy(
            objective=AT(inner=Ascent(threat=THREAT, step_size=0.1, steps=1)), optimizer=SGD(learning_rate=0.05)
        ),
        batch_size=32,
    ),
    epochs=3,
    monitors=(Monitor(), Monitor(name="pgd", attack=QUICK)),
    protocol=Protocol(name="tiny", attacks=(QUICK,), first=20),
)
RATE = "method.optimizer.learning_rate"


class Here(Engine):
    """Does the tasks in this process, in the order that `order` puts them in."""

    def __init__(self, order: Callable[[list[Task]], None] = lambda tasks: None) -> None:
        self.order, self.seen = order, list[str]()

    def run(self, tasks: Sequence[Task], told: Told, progress: Progress) -> list[Outcome]:
        shuffled, outcomes = list(tasks), dict[str, Outcome]()
        self.order(shuffled)
        for task in shuffled:
            self.seen.append(task.name)
            outcomes[task.name] = perform(task)
            told(outcomes[task.name])
        return [outcomes[task.name] for task in tasks]


class Said(Progress):
    """Keeps what is said; `do` hears it too."""

    def __init__(self, do: Callable[[str], None] = lambda sentence: None) -> None:
        self.said, self.do = list[str](), do

    def say(self, sentence: str) -> None:
        self.said.append(sentence)
        self.do(sentence)


def fingerprint(run: Path) -> dict[str, Any]:
    """Digests of deployed weights and of the last state, the metrics but for times, and what every record predicts."""
    files = sorted((run / "checkpoints").glob("*.safetensors"))
    passing = [path for path in files if path.name.startswith("step-")][:-1]
    prints: dict[str, Any] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path not in passing
    }
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    prints["metrics"] = [{key: value for key, value in line.items() if "second" not in key} for line in lines]
    for path in (run / "records").glob("*.json"):
        record = json.loads(path.read_text())
        prints[path.name] = [record["natural"], [column["predicted"] for column in record["attacks"]]]
    return prints


@pytest.fixture
def tiny() -> Experiment:
    return TINY


@pytest.fixture
def here() -> type[Here]:
    return Here


@pytest.fixture
def heard() -> type[Said]:
    return Said


@pytest.fixture
def fingerprint_of() -> Callable[[Path], dict[str, Any]]:
    return fingerprint
