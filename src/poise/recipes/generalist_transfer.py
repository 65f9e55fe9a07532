"""Parameters chosen on one data set and applied unchanged to another (Generalist, Section 4.2.3 and rebuttal R6).

The paper chose gamma and c on CIFAR-10 and used them everywhere: its rows for the other data sets are
`generalist_mnist_resnet18`, `generalist_svhn_resnet18`, `generalist_cifar100_resnet18` and
`generalist_tinyimagenet_resnet18`, with their published numbers. What not tuning costs there is not published. The
recipes here are the other choices on the target, so that it can be
measured: the best of them less the one that the source chose (`poise.reports.across.untuned`).
"""

from __future__ import annotations

import dataclasses

import poise.recipes.mnist
import poise.recipes.zipper_baselines  # noqa: F401  these two register the targets
from poise.core.overrides import override
from poise.engine.experiment import Experiment
from poise.recipes.generalist_ablations import ABLATIONS
from poise.recipes.generalist_policies import generalist_of
from poise.recipes.registry import experiment
from poise.recipes.rows import redistributing, register, unprinted

GAMMAS = ("gamma_half", "gamma_0", "gamma_25", "gamma_75", "gamma_early")
SOURCES = {"digits": "generalist_digits", "cifar10": "generalist_cifar10_resnet18"}
"""The headline recipe where parameters are chosen; the other choices are its ablations."""
TITLES = {
    "mnist_resnet18": "MNIST, ResNet-18",
    "svhn_resnet18": "SVHN, ResNet-18",
    "cifar100_resnet18": "CIFAR-100, ResNet-18",
}
"""Targets that the paper has too."""
TARGETS = {
    "mnist_slim": "digits",
    "svhn_resnet18": "cifar10",
    "cifar100_resnet18": "cifar10",
    "mnist_resnet18": "cifar10",
}
"""Where they are applied, with the source."""
CHOICES = {
    # c in epochs; the source's own is the headline
    "mnist_slim": (*GAMMAS, "c_1"),
    "svhn_resnet18": (*GAMMAS, "c_1", "c_2", "c_10"),
    "cifar100_resnet18": (*GAMMAS, "c_1", "c_2", "c_10"),
    "mnist_resnet18": (*GAMMAS, "c_1", "c_2", "c_10"),
}


def candidates(target: str) -> dict[str, tuple[str, str]]:
    """For each choice of parameters, "headline" among them, its recipe on the source and on the target."""
    source = TARGETS[target]
    # which has the source's already
    same_as_before = f"tuned_headline_{target}" if source == "digits" else f"generalist_{target}"
    return {
        "headline": (SOURCES[source], same_as_before),
        **{choice: (f"ablation_{choice}_{source}", f"tuned_{choice}_{target}") for choice in CHOICES[target]},
    }


def _headline(target: str, choice: str, quick: bool = False) -> Experiment:
    """The target's headline with the source's gamma and c, and the row of the choice."""
    headline = experiment(f"generalist_{target}", quick)
    source, method = generalist_of(experiment(SOURCES[TARGETS[target]])), generalist_of(headline)
    method = dataclasses.replace(method, gamma=source.gamma, redistribute_every=source.redistribute_every)
    row = (
        unprinted(f"Generalist, Section 4.2.3 ({TITLES[target]})", choice.replace("_", " "))
        if target in TITLES
        else None
    )
    return dataclasses.replace(headline, method=method, published=row)


def _on_target(target: str, choice: str, quick: bool) -> Experiment:
    """The headline, or another choice of one of the parameters."""
    headline = _headline(target, choice, quick)
    if choice == "headline":
        return headline
    ablation = ABLATIONS[choice]
    result = override(headline, list(ablation.on_digits if TARGETS[target] == "digits" else ablation.cifar10))
    return dataclasses.replace(result, published=headline.published)


def _register(target: str, choice: str) -> None:
    name = candidates(target)[choice][1]
    description = "the parameters chosen there" if choice == "headline" else ABLATIONS[choice].line

    def build(quick: bool) -> Experiment:
        result = dataclasses.replace(_on_target(target, choice, quick), title=f"Generalist, {choice.replace('_', ' ')}")
        if not quick:
            return dataclasses.replace(result, name=name)
        return dataclasses.replace(result, name=f"{name}_quick", method=redistributing(result.method, result.epochs))

    register(name, f"Generalist on {target} with gamma and c as on {TARGETS[target]}: {description}", build)


for _target in TARGETS:
    for _choice, (_, _name) in candidates(_target).items():
        if _name.startswith("tuned_"):
            _register(_target, _choice)
