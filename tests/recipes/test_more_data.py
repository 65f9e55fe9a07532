"""Wang et al.'s recipe runs small on any images of its kind; IDBH's says what it needs where kornia is not."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from poise.core.errors import MissingExtraError
from poise.core.seeds import Draw
from poise.data import IDBH, Generated
from poise.engine import train
from poise.learners import EMA
from poise.methods import Joint
from poise.models import WideResNet
from poise.objectives import TRADES
from poise.recipes import experiment, recipes


def test_the_recipe_is_the_papers() -> None:
    made = experiment("wang2023_cifar10_wrn28-10")
    assert isinstance(made.method, Joint) and isinstance(made.model, WideResNet)
    policy = made.method.policy
    assert isinstance(policy.objective, TRADES) and isinstance(policy.average, EMA) and policy.extra is not None
    assert (policy.objective.beta, policy.objective.label_smoothing, policy.average.decay) == (5, 0.1, 0.995)
    assert (made.epochs, made.method.batch_size, policy.extra.share, made.model.activation) == (400, 512, 0.7, "silu")
    assert made.published is not None and made.published.values == (91.12, 63.35)
    assert "Nobody has run this recipe whole" in recipes()[made.name].text


def test_its_small_variant_trains_on_tiny_data_without_a_file(tmp_path: Path) -> None:
    made = experiment("wang2023_cifar10_wrn28-10", quick=True)
    small = dataclasses.replace(
        made, data=Generated(count=150, size=32, kinds=10), monitors=made.monitors[:1], criterion="last"
    )
    run = train(small, tmp_path / "run")
    assert torch.isfinite(run.network("last")(torch.zeros(1, 3, 32, 32))).all()
    assert [line["epoch"] for line in run.metrics()] == [1, 2]


def test_what_idbh_needs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "kornia" or name.startswith("kornia.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'poise\[augment\]'"):
        IDBH()(torch.rand(2, 3, 16, 16), Draw(0, torch.arange(2)))
