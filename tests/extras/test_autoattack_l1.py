"""AutoAttack in L1 beside `pyautoattack`, image by image, with the same shortened budgets on both sides."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.attacks import AutoAttack
from poise.data import Digits
from poise.models import DigitsCNN
from poise.threats import L1

pyautoattack = pytest.importorskip("pyautoattack")

EPSILON, STEPS, TARGETS, QUERIES = 1.2, 40, 3, 400


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Trained on images with noise, so that about half of them stand."""
    data = Digits().load().train
    x, y = data.pixels(), data.labels
    made = DigitsCNN(width=8).build((1, 8, 8), 10, 0)
    optimizer = torch.optim.Adam(made.parameters(), lr=5e-3)
    source = torch.Generator().manual_seed(0)
    for _ in range(3):
        for rows in torch.randperm(len(x), generator=source).split(64):
            optimizer.zero_grad()
            noisy = (x[rows] + 0.15 * torch.randn(len(rows), 1, 8, 8, generator=source)).clamp(0, 1)
            F.cross_entropy(made(noisy), y[rows]).backward()
            optimizer.step()
    return made.eval().requires_grad_(False)


def theirs(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    attack = pyautoattack.AutoAttack(network, eps=EPSILON, norm="L1", seed=0, version="standard")
    attack.apgd.n_iter = attack.apgd_targeted.n_iter = attack.fab.n_iter = STEPS
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = TARGETS
    attack.square.n_queries = QUERIES
    assert (attack.apgd.n_restarts, attack.apgd.use_largereps, attack.apgd_targeted.use_largereps) == (5, True, True)
    x_adv, _ = attack.run_standard_evaluation(x, y, batch_size=len(x))
    assert float((x_adv - x).flatten(1).abs().sum(1).max()) <= EPSILON * (1 + 1e-4)
    return network(x_adv).argmax(1) == y


def ours(network: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
    apgd, targeted, fab, square = cast(Any, AutoAttack(threat=L1(epsilon=EPSILON)).components())
    assert (apgd.restarts, apgd.radii, targeted.radii) == (5, (3, 2, 1), (3, 2, 1))
    parts = (
        dataclasses.replace(apgd, steps=STEPS),
        dataclasses.replace(targeted, steps=STEPS, targets=TARGETS),
        dataclasses.replace(fab, steps=STEPS, targets=TARGETS),
        dataclasses.replace(square, queries=QUERIES),
    )
    result = AutoAttack(version="custom", threat=L1(epsilon=EPSILON), attacks=parts).run(network, x, y, seed=seed)
    assert float((result.x_adv - x).flatten(1).abs().sum(1).max()) <= EPSILON * (1 + 1e-5)
    return result.robust


def test_verdicts_are_the_references_image_by_image(network: nn.Module) -> None:
    test = Digits().load().test.first(96)
    x, y = test.pixels(), test.labels
    found, known = ours(network, x, y, 0), theirs(network, x, y)
    print(f"stands here {int(found.sum())}, there {int(known.sum())} of {len(x)}; differ {int((found != known).sum())}")
    assert 0.2 < float(known.double().mean()) < 0.8, "half of the images are to be in doubt"
    differ = (found != known).nonzero()[:, 0]
    assert len(differ) <= 3
    if len(differ):  # on the edge: another draw of ours decides otherwise, or the reference alone was lucky
        again = torch.stack([ours(network, x[differ], y[differ], seed) for seed in range(1, 4)])
        undecided = (again != found[differ]).any(0)
        assert int((~undecided).sum()) <= 1, f"images {differ[~undecided].tolist()} are judged otherwise throughout"
