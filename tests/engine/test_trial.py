"""What an objective of one's own lacks or returns wrongly is one sentence before a run folder exists."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import poise
from poise.attacks.pgd import score_of
from poise.core.errors import SettingsError
from poise.engine import Experiment, train
from poise.losses import cross_entropy
from poise.methods import Joint
from poise.models import Network
from poise.objectives import Adversarial, AdversarialObjective, Objective


class Wrong(AdversarialObjective):
    """Has score and loss; each test takes another piece away."""

    def score(self, model, batch):
        return score_of("cross_entropy", model, batch.x, batch.y)

    def loss(self, model, examples, now) -> Any:
        return {"robust": cross_entropy(model(examples.x_adv), examples.y)}


def variant(**changes: Any) -> Any:
    """The objective with other methods, as a class of its own."""
    return poise.configurable(type("Variant", (Wrong,), {"__module__": __name__, "__doc__": "A variant.", **changes}))


def experiment(objective: Any, **changes: Any) -> Experiment:
    base = poise.recipe("at_digits", True)
    data = dataclasses.replace(base.data, train_images=40, test_images=10)  # pyright: ignore[reportCallIssue]
    short = dataclasses.replace(
        base, data=data, method=Joint(policy=objective), epochs=1, monitors=base.monitors[:1], **changes
    )
    return poise.override(short, ["method.batch_size=20", "method.inner.steps=1"])


def refused(objective: Any, folder: Path, **changes: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        train(experiment(objective, **changes), folder / "run")
    assert not (folder / "run").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_score_and_loss_are_enough(tmp_path: Path) -> None:
    run = train(experiment(variant()()), tmp_path / "run")
    assert run.experiment.method.policies()["joint"].objective.craft_mode == "evaluating"
    assert (tmp_path / "run" / "checkpoints" / "last.safetensors").exists()


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (
            lambda self, model, examples, now: cross_entropy(model(examples.x_adv), examples.y),
            "Variant.loss returned a tensor [4], must",
        ),
        (lambda self, model, examples, now: None, "Variant.loss returned nothing, must return terms by name"),
        (
            lambda self, model, examples, now: {"robust": cross_entropy(model(examples.x_adv), examples.y).mean()},
            "Variant.loss: 'robust' is a tensor [], must have one value for each of 4 images, [4]",
        ),
        (
            lambda self, model, examples, now: {"robust": model(examples.x_adv)},
            "'robust' is a tensor [4, 10], must have one value",
        ),
        (
            lambda self, model, examples, now: {"robust": (model(examples.x_adv) * torch.nan).sum(1)},
            "'robust' is not finite",
        ),
        (lambda self, model, examples, now: {"robust": torch.ones(4)}, "no term depends on the network's weights"),
        (
            lambda self, model, examples, now: {"robust": model(examples.x_adv, 3)},
            "Variant.loss fails on a first batch of 4 images: TypeE",
        ),
    ],
)
def test_a_loss_that_returns_something_else_is_refused(returned: Any, sentence: str, tmp_path: Path) -> None:
    assert sentence in refused(variant(loss=returned)(), tmp_path)


def test_a_craft_that_returns_no_examples_is_refused(tmp_path: Path) -> None:
    assert "Variant.craft returned a tensor [4, 1, 8, 8], must return Examples" in refused(
        variant(craft=lambda self, model, batch, now: batch.x)(), tmp_path
    )
    one = variant(craft=lambda self, model, batch, now: Adversarial(batch.y, batch.x, batch.x[:1]))
    assert "Variant.craft: x_adv has shape [1, 1, 8, 8], must have one row for each of 4 images" in refused(
        one(), tmp_path
    )
    nan = variant(craft=lambda self, model, batch, now: Adversarial(batch.y, batch.x, batch.x * torch.nan))
    assert "Variant.craft: x_adv is not finite" in refused(nan(), tmp_path)
    assert "Variant.craft fails on a first batch" in refused(variant(score=lambda self, model, batch: None)(), tmp_path)


def test_a_class_that_nobody_registered_is_refused(tmp_path: Path) -> None:
    made = dataclasses.replace(experiment(variant()()), method=Joint(policy=Wrong()))  # type: ignore[arg-type]
    with pytest.raises(
        SettingsError, match=r"names no registered objective 'Wrong'.*registered by @poise\.configurable"
    ):
        train(made, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_objective_without_craft_mode_attacks_in_evaluating_mode() -> None:
    assert Objective.craft_mode == "evaluating"


def test_a_network_that_gives_no_logits_is_refused(tmp_path: Path) -> None:
    @poise.configurable
    class NineClasses(Network):
        """One class too few."""

        def module(self, shape, classes):
            return nn.Sequential(nn.Flatten(), nn.Linear(64, classes - 1))

    assert "NineClasses returns 9 logits for 10 classes" in refused(variant()(), tmp_path, model=NineClasses())
