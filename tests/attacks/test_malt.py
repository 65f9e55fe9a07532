"""MALT's targets and the probability margin against slow references; neither is ever part of a published AutoAttack."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from poise.attacks import APGD, PGD, AutoAttack
from poise.attacks.autoattack.malt import nearest_classes
from poise.attacks.autoattack.search import Examples
from poise.core.errors import Interrupted, SettingsError
from poise.core.seeds import everyone
from poise.data import Data, Digits
from poise.evaluation import Protocol, evaluate
from poise.losses import probability_margin, targeted_probability_margin
from poise.models import DigitsCNN
from poise.threats import L1, L2, Linf, Threat

ORDERS = {Linf(): 1, L2(): 2, L1(): np.inf}
"""The norm of a gradient that is dual to each threat's, in numpy's words."""


def curved(classes: int = 6) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers = nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, classes)
    model = nn.Sequential(*layers).double().eval().requires_grad_(False)
    layers[-1].bias.sub_(model(torch.full((1, 1, 8, 8), 0.5).double())[0])  # type: ignore[operator]
    return model


def images(count: int = 7) -> tuple[Tensor, Tensor]:
    x = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    return x, curved()(x).argmax(1)


def ranked(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, targets: int, among: int, width: int = 3) -> Tensor:
    examples = Examples(x, y, model(x).detach(), everyone(0, "malt", count=len(x)))
    return nearest_classes(model, examples, threat, targets, among, width)


@pytest.mark.parametrize("threat", ORDERS, ids=repr)
@pytest.mark.parametrize("among", [3, 100])
def test_targets_are_the_papers_order(threat: Threat, among: int) -> None:
    model, (x, y) = curved(), images()
    order = ranked(model, x, y, threat, 2, among).tolist()
    for image, label, mine in zip(x, y.tolist(), order, strict=True):
        logits = model(image[None])[0].numpy()
        candidates = sorted((c for c in range(6) if c != label), key=lambda c: -logits[c])[:among]
        distance = {}
        for c in candidates:
            leaf = image[None].clone().requires_grad_(True)
            answer = model(leaf)[0]
            (answer[c] - answer[label]).backward()
            slope = np.linalg.norm(leaf.grad.numpy().ravel(), ORDERS[threat])  # type: ignore[union-attr]
            distance[c] = (logits[label] - logits[c]) / slope
        assert mine == sorted(candidates, key=lambda c: distance[c])[:2]


def test_a_class_without_gradient_is_last_and_of_two_alike_the_likelier_is_first() -> None:
    layer = nn.Linear(64, 4).double().requires_grad_(False)
    weight = torch.randn(64, generator=torch.Generator().manual_seed(0)).double()
    layer.weight.copy_(torch.stack([weight, weight, -weight, -weight]))  # class 1 moves as class 0 does
    layer.bias.copy_(torch.tensor([0.0, -0.1, -50.0, -50.0]))
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    model, y = nn.Sequential(nn.Flatten(), layer), torch.zeros(3, dtype=torch.int64)
    layer.bias[2:] = float(model(x)[:, 0].min()) - 100
    assert ranked(model, x, y, Linf(), 3, 100).tolist() == [[2, 3, 1]] * 3


def test_the_targets_are_attacked_and_do_not_depend_on_company() -> None:
    model, (x, y) = curved(), images()
    attack = APGD(threat=Linf(epsilon=0.1), steps=8, loss="targeted_dlr", targets_by="malt", targets=2)
    draw = everyone(0, "company", count=len(x))
    whole = attack(model, x, y, draw=draw)
    assert (model(whole).argmax(1) != y).any()
    for row in range(len(x)):
        one = torch.tensor([row])
        torch.testing.assert_close(attack(model, x[one], y[one], draw=draw[one]), whole[one], rtol=0, atol=1e-12)


def test_few_classes_are_refused_before_any_work(tmp_path: Path) -> None:
    two, (x, y) = curved(2), images()
    y = y % 2
    words = "APGD-MALT: MALT chooses among classes, so it needs at least 3; the network has 2"
    attack = APGD(loss="targeted_dlr", targets_by="malt")
    with pytest.raises(SettingsError, match=words):
        attack(two, x, y)
    with pytest.raises(SettingsError, match=words):
        AutoAttack(version="malt").run(two, x, y)
    with pytest.raises(SettingsError, match=r"APGD.targets_by = 'malt': needs loss = 'targeted_dlr', not 'dlr'"):
        APGD(loss="dlr", targets_by="malt")
    test = Digits().load().test
    part = test.subset((test.labels < 2).nonzero()[:20, 0])
    data = Data("parity", part, part, ("even", "odd"))
    network, begun = DigitsCNN(width=4).build((1, 8, 8), 2, 0), list[str]()

    class Told(PGD):
        def perturb(self, *given: Any, **named: Any) -> Tensor:
            begun.append(self.name)
            return super().perturb(*given, **named)

    with pytest.raises(SettingsError, match=words):
        evaluate(network, data, Protocol(attacks=(Told(steps=1), AutoAttack(version="malt"))))
    assert not begun
    three = AutoAttack(version="malt", threat=Linf(epsilon=0.2))
    small = tuple(dataclasses.replace(part, steps=3) for part in three.components())  # type: ignore[type-var]
    made = AutoAttack(version="custom", attacks=small, threat=three.threat).run(curved(3), x, y % 2)
    assert "2 target classes instead of 9" in " ".join(made.notes)


def test_they_have_names_of_their_own_and_no_published_version_has_them() -> None:
    assert [attack.name for attack in AutoAttack(version="malt").components()] == ["APGD-CE", "APGD-MALT"]
    assert AutoAttack(version="malt").name == "AutoAttack-malt"
    own = AutoAttack(version="custom", attacks_to_run=("apgd-malt", "apgd-pma"))
    assert [attack.name for attack in own.components()] == ["APGD-MALT", "APGD-PMA"]
    assert (own.name, PGD(loss="probability_margin").name) == ("AutoAttack-custom", "PGD-PMA-20")
    for version in ("standard", "plus", "rand"):
        for threat in (Linf(), L1()):
            for attack in AutoAttack(version=version, threat=threat).components():  # type: ignore[arg-type]
                assert getattr(attack, "targets_by", "logits") == "logits"
                assert getattr(attack, "loss", "") != "probability_margin"
    with pytest.raises(SettingsError, match="did you mean 'apgd-malt'"):
        AutoAttack(version="custom", attacks_to_run=("apgd-mallt",))


def test_a_stopped_search_goes_on_with_the_same_targets(tmp_path: Path) -> None:
    model, (x, y) = curved(), images()
    parts = (APGD(steps=9, loss="targeted_dlr", targets_by="malt", targets=3),)
    attack = AutoAttack(version="custom", attacks=parts, threat=Linf(epsilon=0.001))
    how: dict[str, Any] = {"batch_size": 4, "save_seconds": 0, "state_path": tmp_path / "state"}
    rounds = 0

    def stop(progress: object) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 12:
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        attack.run(model, x, y, progress=stop, **how)
    again, whole = attack.run(model, x, y, **how), attack.run(model, x, y, batch_size=4)
    assert torch.equal(again.x_adv, whole.x_adv)
    assert torch.equal(again.broken_by, whole.broken_by)


def test_the_probability_margin_is_the_papers_also_at_0_and_1() -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)).double() * 5
    logits[0], logits[1] = torch.tensor([1000.0, *[0.0] * 6]), torch.tensor([0.0, 1000.0, *[0.0] * 5])
    logits[2] = 0  # all alike
    y = torch.cat([torch.zeros(3, dtype=torch.int64), torch.arange(47) % 7])
    p = np.exp(logits.numpy() - logits.numpy().max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    wanted = [np.delete(row, label).max() - row[label] for row, label in zip(p, y.numpy(), strict=True)]
    leaf = logits.clone().requires_grad_(True)
    values = probability_margin(leaf, y)
    torch.testing.assert_close(values.detach(), torch.tensor(wanted), rtol=0, atol=1e-14)
    assert values[:3].tolist() == [-1, 1, 0]
    (gradient,) = torch.autograd.grad(values.sum(), leaf)
    assert gradient.isfinite().all() and gradient[0].abs().max() == 0
    torch.testing.assert_close(targeted_probability_margin(logits, y), -torch.tensor(wanted), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "attack", [PGD(loss="probability_margin", step_size=0.1), APGD(loss="probability_margin", steps=8)]
)
def test_the_probability_margin_is_an_attack_with_and_without_a_target(attack: Any) -> None:
    model, (x, y) = curved(), images()
    attack = dataclasses.replace(attack, threat=Linf(epsilon=0.15))
    found = attack(model, x, y)
    assert (probability_margin(model(found), y) > probability_margin(model(x), y)).any()
    assert (model(found).argmax(1) != y).sum() >= 3
    target = (y + 1) % 6
    near = attack(model, x, y, target=target)
    assert (model(near).argmax(1) == target).any()
