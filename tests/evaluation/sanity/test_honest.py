"""The inspection is silent on honest networks: no flaw and no warning."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from poise.data import MNIST, Digits
from poise.evaluation.sanity import CHECKS, Effort, Verdict, inspect
from poise.models import DigitsCNN, Ensemble, EnsembleModule
from poise.threats import L2, Linf, Threat

THREAT = Linf(epsilon=0.2)
SMALL = Effort(
    steps=8, autoattack_steps=15, targets=2, queries=60, gradient_examples=40, gradient_samples=12, substitute_steps=40
)


def assert_silent(network: nn.Module, threat: Threat = THREAT, seed: int = 0) -> Verdict:
    test = Digits().load().test.first(96)
    verdict = inspect(network, test.pixels(), test.labels, threat, effort=SMALL, seed=seed)
    assert [f"{finding.check}: {finding.seen}" for finding in verdict.alarms] == []
    assert verdict.judgement == "pass"
    assert [finding.check for finding in verdict.findings] == list(CHECKS)
    return verdict


@pytest.mark.parametrize("recipe", ["nt_digits", "at_digits", "trades_digits"])
def test_it_is_silent_on_trained_networks(trained, recipe):
    verdict = assert_silent(trained(recipe))
    assert verdict.natural_accuracy > 0.7
    assert verdict["hard_choice"].judgement == verdict["training_divergence"].judgement == "not applicable"


def test_it_is_silent_in_the_euclidean_threat(trained):
    assert_silent(trained("at_digits"), L2(epsilon=0.6), seed=1)


def test_it_is_silent_on_a_linear_network():
    train, linear = Digits().load().train, nn.Linear(64, 10)
    network = nn.Sequential(nn.Flatten(), linear)
    nn.init.zeros_(linear.weight)
    optimizer = torch.optim.LBFGS(network.parameters(), max_iter=15)

    def closure() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(network(train.pixels()), train.labels) + 1e-3 * linear.weight.square().sum()
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    assert assert_silent(network.eval(), Linf(epsilon=0.05)).natural_accuracy > 0.9


def test_it_is_silent_on_a_small_ensemble(trained):
    ensemble = Ensemble(member=DigitsCNN(), members=2).build((1, 8, 8), 10, 0)
    assert isinstance(ensemble, EnsembleModule)
    for member, recipe in zip(ensemble.members, ("nt_digits", "at_digits"), strict=True):
        member.load_state_dict(trained(recipe).state_dict())
    assert_silent(ensemble.eval())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist_lenet5_clntrained.pt", "mnist_lenet5_advtrained.pt"])
def test_it_is_silent_on_published_networks(name):
    if "POISE_MODELS" not in os.environ or "POISE_DATA" not in os.environ:
        pytest.skip(f"POISE_MODELS must name the folder of {name}, POISE_DATA that of MNIST")
    saved = torch.load(Path(os.environ["POISE_MODELS"]) / name, map_location="cpu", weights_only=True)
    layers: list[nn.Module] = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(3136, 200), nn.ReLU(), nn.Linear(200, 10))
    network.load_state_dict(OrderedDict(zip(network.state_dict(), saved.values(), strict=True)))
    test = MNIST().load(os.environ["POISE_DATA"]).test.first(64)
    verdict = inspect(network.eval(), test.pixels(), test.labels, Linf(epsilon=0.3), effort=SMALL)
    assert [f"{finding.check}: {finding.seen}" for finding in verdict.alarms] == []
