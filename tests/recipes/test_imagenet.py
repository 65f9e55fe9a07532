"""Robust ImageNet: what the two recipes are, and that their small variants train, are resumed and are evaluated."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import pytest
import torch

from poise.data import Generated
from poise.engine import train
from poise.evaluation import named
from poise.recipes import experiment, recipes

NAMES = ("convnext_t_cvst_imagenet", "resnet50_imagenet")


@pytest.mark.parametrize("name", NAMES)
def test_the_recipes_say_that_nobody_has_run_them_whole_and_what_was_published(name: str) -> None:
    text, made = recipes()[name].text, experiment(name)
    assert "Nobody has run this recipe whole" in text and "published" in recipes()[name].line
    (policy,) = made.method.policies().values()
    assert policy.mixing is not None and policy.augmentation is not None and policy.augmentation.crops
    assert made.protocol == named("robustbench-imagenet").at() and made.protocol.first == 5000
    assert made.protocol.attacks[0].threat.epsilon == 4 / 255  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_a_small_variant_trains_on_generated_images(name: str, tmp_path: Path) -> None:
    pytest.importorskip("kornia")
    made = dataclasses.replace(experiment(name, quick=True), epochs=1, monitors=(), monitor_every=1, criterion="last")
    with warnings.catch_warnings():
        run = train(made, tmp_path / "run")
    assert torch.isfinite(run.network("last")(torch.zeros(1, 3, 32, 32))).all()


def test_generated_images_are_the_same_wherever_they_are_made_and_their_classes_differ() -> None:
    first, again = (Generated(count=60, size=24, kinds=4).load() for _ in range(2))
    assert first.digest == again.digest and first.shape == (3, 24, 24) and len(first.test) == 12
    means = torch.stack([first.train.pixels()[first.train.labels == kind].mean(0) for kind in range(4)])
    nearest = (first.test.pixels()[:, None] - means[None]).flatten(2).square().sum(2).argmin(1)
    assert (nearest == first.test.labels).float().mean() > 0.9
    assert Generated(count=60, size=24, kinds=5).load().digest != first.digest
