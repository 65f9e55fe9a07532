"""A sudden fall under PGD-10 is measured, said, written down and shown; the weights of the epoch before are kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from poise.attacks import PGD, Ascent
from poise.core.batches import Now
from poise.core.identity import definition
from poise.core.measures import FELL_FROM, MEASURED
from poise.core.overrides import override
from poise.core.progress import Progress
from poise.core.settings import settings, to_json
from poise.data import Digits
from poise.engine import Experiment, resume, train
from poise.engine.overfitting import FallWatch, accuracy, attack_of
from poise.evaluation import Protocol
from poise.learners import SGD, Policy
from poise.methods import Joint
from poise.objectives import AT, NT, FreeAT, Terms
from poise.objectives.at import Adversarial
from poise.recipes import experiment
from poise.reports.collect import read_runs
from poise.reports.tables import table
from poise.threats import L2, Linf
from poise.verbs.evaluate import evaluate

THREAT = Linf(epsilon=0.15)


@settings
class Turncoat(AT):
    """Adversarial training that from the third epoch on learns to be wrong near its images, as it were."""

    def loss(self, model: nn.Module, examples: Adversarial, now: Now) -> Terms:
        terms = super().loss(model, examples, now)
        return terms if now.epoch < 3 else {"robust": -0.05 * terms["robust"].clamp(max=6)}


class Said(Progress):
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)


def falling(**changes: Any) -> Experiment:
    inner = Ascent(threat=THREAT, step_size=0.06, steps=3)
    policy = Policy(objective=Turncoat(inner=inner), optimizer=SGD(learning_rate=0.1))
    protocol = Protocol(name="one", attacks=(PGD(threat=THREAT, steps=1),), first=20)
    given: dict[str, Any] = {"data": Digits(test_images=40), "epochs": 4, "selection": "test", "criterion": "last"}
    given |= {"protocol": protocol, "monitors": (), **changes}
    return Experiment(method=Joint(policy=policy, batch_size=64), **given)


def test_a_fall_is_said_written_shown_and_the_epoch_before_is_kept(tmp_path: Path) -> None:
    said = Said()
    run = train(falling(), tmp_path / "run", progress=said, device="cpu")
    lines = run.metrics()
    assert [line["epoch"] for line in lines if FELL_FROM in line] == [3], [line.get(MEASURED) for line in lines]
    third = lines[2]
    assert third[FELL_FROM] == lines[1][MEASURED] > 0.3 > third[MEASURED]
    (sentence,) = [line for line in said.sentences if "catastrophic overfitting" in line]
    assert sentence.startswith("epoch 3: accuracy under PGD-10 on 40 images fell from")
    assert sentence.endswith("its weights are kept as 'epoch 2'")
    two = train(dataclasses.replace(falling(), epochs=2), tmp_path / "two", device="cpu").network("last")
    kept = run.network("epoch 2")
    for name, tensor in two.state_dict().items():
        assert torch.equal(kept.state_dict()[name], tensor), name
    evaluate(run.path)
    notes = table(read_runs(run.path)).notes
    assert any("fell from" in note and "in epoch 3 of training (catastrophic overfitting)" in note for note in notes)


def test_a_run_that_goes_on_at_the_fall_tells_and_keeps_the_same(tmp_path: Path) -> None:
    whole = train(falling(), tmp_path / "whole", device="cpu")
    train(falling(), tmp_path / "parts", device="cpu", until=2)
    parts = resume(tmp_path / "parts", device="cpu")
    same = [MEASURED, FELL_FROM]
    assert [[line.get(name) for name in same] for line in parts.metrics()] == [
        [line.get(name) for name in same] for line in whole.metrics()
    ]
    assert parts.facts("epoch 2")["sha256"] == whole.facts("epoch 2")["sha256"]


def test_training_is_the_same_without_the_watch_and_its_group_too(tmp_path: Path) -> None:
    watched, alone = falling(epochs=2), falling(epochs=2, overfitting=None)
    assert definition(to_json(watched)) == definition(to_json(alone))
    assert "overfitting" not in to_json(watched)
    ends = [train(made, tmp_path / name, device="cpu") for name, made in (("a", watched), ("b", alone))]
    assert len({run.facts("last")["sha256"] for run in ends}) == 1
    assert MEASURED in ends[0].metrics()[0] and MEASURED not in ends[1].metrics()[0]


def test_who_is_watched_and_by_what() -> None:
    generalist = experiment("generalist_digits").method
    assert attack_of(generalist.policies()) == (
        "robust",
        PGD(threat=Linf(epsilon=0.2), steps=10, step_size=0.05, start="zero"),
    )
    single: Any = override(experiment("at_digits"), {"method.objective": "FreeAT"}).method
    assert isinstance(single.policy.objective, FreeAT)
    assert attack_of(single.policies()) is not None
    assert attack_of({"joint": Policy(objective=NT())}) is None
    within = AT(inner=Ascent(threat=L2(epsilon=0.4)))
    assert attack_of({"joint": Policy(objective=within)}) == (
        "joint",
        PGD(threat=L2(epsilon=0.4), steps=10, step_size=0.1, start="zero"),
    )


@pytest.mark.parametrize(
    ("before", "now", "count", "fell"),
    [
        (0.4, 0.0, 64, True),
        (0.4, 0.19, 64, True),
        (0.4, 0.2, 64, False),  # a half exactly
        (0.1, 0.03, 64, False),  # four images: chance
        (0.5, 0.1, 12, False),  # too few images
        (0.4, 0.5, 64, False),
        (None, 0.0, 64, False),
        (0.4, None, 64, False),
    ],
)
def test_what_counts_as_a_fall(before: float | None, now: float | None, count: int, fell: bool) -> None:
    assert FallWatch().fell(before, now, count) == fell


def test_the_accuracy_is_that_of_pgd_10_from_the_images_themselves() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    x = torch.rand(30, 1, 8, 8)
    y = network(x).argmax(1)
    attack = PGD(threat=Linf(epsilon=0.05), steps=10, step_size=0.0125, start="zero")
    wanted = float((network(attack(network, x, y)).argmax(1) == y).double().mean())
    assert 0 < accuracy(network, x, y, attack) == wanted < 1
