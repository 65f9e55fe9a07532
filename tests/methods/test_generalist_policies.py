"""Recipes beyond the published pair, and those that apply parameters chosen elsewhere."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from poise.core.batches import Now
from poise.core.settings import to_json
from poise.data import Digits
from poise.engine import train
from poise.learners import Adam
from poise.methods import Generalist
from poise.objectives import AT, NT, SqueezeTraining
from poise.recipes import experiment
from poise.recipes.generalist_policies import AROUND_REDISTRIBUTIONS
from poise.recipes.generalist_transfer import TARGETS, candidates
from poise.threats import L2


def method_of(name: str) -> Generalist:
    method = experiment(name).method
    assert isinstance(method, Generalist)
    return method


@pytest.mark.parametrize(
    "name",
    [
        "generalist_three_digits",
        "generalist_norms_digits",
        "generalist_customised_digits",
        "generalist_diagnosed_digits",
    ],
)
def test_quick_variants_train(name: str, tmp_path: Path) -> None:
    made = experiment(name, quick=True)
    diagnosis = made.diagnosis and dataclasses.replace(made.diagnosis, images=16)
    small = dataclasses.replace(
        made, data=Digits(train_images=128, test_images=40), epochs=2, monitors=made.monitors[:1], diagnosis=diagnosis
    )
    run = train(small, tmp_path / "run")
    assert all(torch.isfinite(tensor).all() for tensor in run.network("last").state_dict().values())
    assert ("regret/bound" in run.metrics()[-1]) == (made.diagnosis is not None)


@pytest.mark.parametrize("data", ["digits", "cifar10_resnet18"])
def test_policies_are_what_the_names_say(data: str) -> None:
    three = method_of(f"generalist_three_{data}")
    (third,) = three.others
    assert isinstance(third.policy.objective, AT) and isinstance(third.policy.objective.inner.threat, L2)
    norms = method_of(f"generalist_norms_{data}")
    threats = [policy.objective.inner.threat for policy in norms.policies().values()]  # type: ignore[attr-defined]
    assert [type(threat).__name__ for threat in threats] == ["L2", "Linf", "L1"]
    shares = norms.mixing(Now(1, 0, 1, 1, 0))
    assert shares["l1"] == pytest.approx(1 / 3)
    assert max(attack.threat.epsilon for attack in experiment(f"generalist_norms_{data}").protocol.attacks) in (2, 12)
    customised = method_of(f"generalist_customised_{data}")
    assert isinstance(customised.natural.objective, NT) and customised.natural.objective.label_smoothing == 0.1
    assert isinstance(customised.natural.optimizer, Adam) and isinstance(customised.robust.objective, SqueezeTraining)


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("data", ["digits", "cifar10_resnet18"])
def test_the_third_task_is_measured_too(data: str, quick: bool) -> None:
    made, two = experiment(f"generalist_three_{data}", quick), experiment(f"generalist_{data}", quick)
    (third,) = made.method.others  # type: ignore[attr-defined]
    assert made.protocol.attacks[:-1] == two.protocol.attacks and made.monitors[:-1] == two.monitors
    monitor, attack = made.monitors[-1], made.protocol.attacks[-1]
    assert monitor.attack is not None and (monitor.name, monitor.first) == ("L2 PGD-20", two.monitors[1].first)
    assert attack.threat == monitor.attack.threat == third.policy.objective.inner.threat
    assert f"{attack.name} is within L2" in made.protocol.note and made.protocol.name == f"{two.protocol.name}+l2"


@pytest.mark.parametrize("data", AROUND_REDISTRIBUTIONS)
def test_kept_epochs_lie_around_redistributions(data: str) -> None:
    made = experiment(f"generalist_diagnosed_{data if data == 'digits' else 'cifar10_resnet18'}")
    method = made.method
    assert (
        isinstance(method, Generalist)
        and made.keep_epochs == AROUND_REDISTRIBUTIONS[data]
        and made.diagnosis is not None
    )
    redistributed = [epoch for epoch in made.keep_epochs if epoch % method.redistribute_every == 0]
    assert all(epoch >= method.redistribute_from * made.epochs for epoch in redistributed)
    assert len(redistributed) == 2 and all(epoch - 1 in made.keep_epochs for epoch in redistributed)


@pytest.mark.parametrize("target", TARGETS)
def test_choices_on_the_target_are_those_of_the_source(target: str) -> None:
    """Gamma and c are the source's for every choice, and all else is the target's own."""
    own = experiment(f"generalist_{target}")
    for source, recipe in candidates(target).values():
        chosen, applied = method_of(source), method_of(recipe)
        assert (applied.gamma, applied.redistribute_every) == (chosen.gamma, chosen.redistribute_every)
        assert isinstance(own.method, Generalist)
        method = dataclasses.replace(applied, gamma=own.method.gamma, redistribute_every=own.method.redistribute_every)
        made = dataclasses.replace(
            experiment(recipe), method=method, name=own.name, title=own.title, published=own.published
        )
        assert to_json(made) == to_json(own)


def test_the_papers_rows_on_other_data_sets_are_the_unchanged_choice() -> None:
    for target in ("svhn_resnet18", "cifar100_resnet18"):
        assert candidates(target)["headline"] == ("generalist_cifar10_resnet18", f"generalist_{target}")
        assert experiment(f"generalist_{target}").published is not None
