"""By which attack a diagnosis measures, where it is told none: the robust learner's own."""

from __future__ import annotations

import dataclasses

import pytest
from torch import nn

from poise.attacks import FGSM, PGD, Ascent, Attack
from poise.core.batches import Now
from poise.data import Digits
from poise.engine import Diagnosis
from poise.engine.diagnostics import accuracies, described
from poise.learners import Learner, Policy
from poise.models import DigitsCNN
from poise.objectives import AT, NT, TRADES
from poise.recipes import experiment
from poise.threats import L2, Linf

WIDE = Ascent(threat=Linf(epsilon=0.2), step_size=0.08, steps=5)
ROUND = Ascent(threat=L2(epsilon=0.5), step_size=0.1, steps=5)
AS_WIDE, AS_ROUND = PGD(threat=WIDE.threat, step_size=0.08), PGD(threat=ROUND.threat, step_size=0.1)


@pytest.mark.parametrize(
    ("policies", "wanted"),
    [
        ({"natural": NT(), "robust": AT(inner=WIDE)}, AS_WIDE),
        ({"first": AT(inner=ROUND), "robust": TRADES(inner=WIDE)}, AS_WIDE),
        ({"natural": NT(), "l2": AT(inner=ROUND), "linf": AT(inner=WIDE)}, AS_ROUND),
        ({"joint": NT()}, PGD()),
    ],
    ids=["the robust one", "the one called robust", "the first that searches", "none searches"],
)
def test_without_an_attack_it_is_that_of_the_robust_learner(
    policies: dict[str, AT | NT | TRADES], wanted: Attack
) -> None:
    given = {name: Policy(objective=objective) for name, objective in policies.items()}
    assert Diagnosis().against(given) == wanted
    assert Diagnosis(attack=FGSM()).against(given) == FGSM(), "what is asked for stays"


@pytest.mark.parametrize("name", ["generalist_digits", "generalist_cifar10_resnet18_l2", "at_digits"])
def test_recipes_are_diagnosed_within_the_threat_that_judges_them(name: str) -> None:
    made = experiment(name)
    assert Diagnosis().against(made.method.policies()).threat == made.protocol.attacks[0].threat


def test_what_is_measured_is_by_that_attack() -> None:
    data = Digits(train_images=20, test_images=20).load(None)
    objectives = {"natural": NT(), "robust": AT(inner=WIDE), "l2": AT(inner=ROUND)}

    def network(seed: int) -> nn.Module:
        return DigitsCNN().build(data.shape, len(data.classes), seed)

    learners = {
        name: Learner(name, Policy(objective=each), network(seed))
        for seed, (name, each) in enumerate(objectives.items())
    }
    diagnosis = Diagnosis(images=20, geometry=False)
    assert diagnosis.own(learners) == {"l2": dataclasses.replace(AS_ROUND)}
    line = diagnosis.measure(learners, network(3), data.test, Now(1, 0, 1, 1, 0))
    networks = {name: learner.network for name, learner in learners.items()} | {"global": network(3)}
    wanted = accuracies(networks, data.test, AS_WIDE, 0, {"l2": AS_ROUND}) | {"attack": described(AS_WIDE)}
    assert line == {f"diagnosis/{name}": value for name, value in wanted.items()}
