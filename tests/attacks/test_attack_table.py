"""One table drives what every gradient attack must keep to: threat, box, determinism, the model's state, refusals."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from poise.attacks import CW, FGSM, MIM, PGD
from poise.attacks.ascent import Ascent, ascent
from poise.attacks.pgd import score_of
from poise.core.batches import Now
from poise.core.errors import InputError
from poise.core.modes import crafting
from poise.core.seeds import everyone
from poise.losses import cross_entropy, kl, margin
from poise.threats import L2, Linf

ATTACKS = [
    FGSM(),
    PGD(),
    PGD(loss="kl", start="gaussian"),
    PGD(loss="margin", restarts=2),
    PGD(loss="probability_margin"),
    PGD(keep="largest_loss"),
    MIM(),
    CW(steps=10),
]
THREATS = [Linf(epsilon=8 / 255), L2(epsilon=0.5), L2(epsilon=0.5, box_first=True)]


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 6))


def examples(count: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(count, 3, 8, 8, generator=generator)
    x[0, :, :2], x[-1, :, -2:] = 0, 1  # pixels on the walls of the box
    return x, torch.randint(6, (count,), generator=generator)


@pytest.mark.parametrize("threat", THREATS, ids=repr)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_adversarial_images_stay_in_threat_and_box_and_hurt(attack, threat):
    model, (x, y) = network(), examples()
    x_adv = dataclasses.replace(attack, threat=threat)(model, x, y)
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype and not x_adv.requires_grad
    assert float(x_adv.min()) >= 0 and float(x_adv.max()) <= 1
    assert float(threat.norm(x_adv - x).max()) <= threat.epsilon * (1 + 1e-5)
    with torch.no_grad():
        model.eval()
        if getattr(attack, "loss", "") == "kl":  # moves away from the natural prediction, which may be wrong
            anywhere = threat.random_start(x, everyone(0, "anywhere", count=len(x)))
            assert float(kl(model(x), model(x_adv)).mean()) > float(kl(model(x), model(anywhere)).mean())
        else:
            assert float(cross_entropy(model(x_adv), y).mean()) > float(cross_entropy(model(x), y).mean())


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_the_model_comes_back_as_it_was_also_when_the_attack_raises(attack):
    model, (x, y) = network(), examples()
    model.train()
    model[1].eval()  # type: ignore[index]
    before = [tensor.clone() for tensor in model.state_dict().values()]
    attack(model, x, y)
    for fail in (7, -1):
        with pytest.raises(InputError, match="labels in"):
            attack(model, x, torch.full_like(y, fail))
    assert [module.training for module in model.children()] == [True, False, True, True, True]
    assert all(torch.equal(old, new) for old, new in zip(before, model.state_dict().values(), strict=True))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_example_is_attacked_the_same_in_any_company(attack):
    model, (x, y) = network().double(), examples()
    draw = everyone(0, "test", count=len(x))
    rows = torch.tensor([5, 1, 3])
    whole = attack(model, x.double(), y, draw=draw)
    torch.testing.assert_close(
        attack(model, x[rows].double(), y[rows], draw=draw[rows]), whole[rows], atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attacks_repeat_themselves(attack):
    model, (x, y) = network(), examples()
    assert torch.equal(attack(model, x, y), attack(model, x, y))


def test_more_restarts_are_never_weaker():
    model, (x, y) = network(), examples(64)
    weak = PGD(threat=Linf(epsilon=0.02), steps=2, step_size=0.005)
    model.eval()
    with torch.no_grad():
        fooled = [
            (margin(model(attack(model, x, y)), y) > 0) for attack in (weak, dataclasses.replace(weak, restarts=5))
        ]
    assert (fooled[1] >= fooled[0]).all()
    assert fooled[1].sum() >= fooled[0].sum()


def test_keep_largest_margin_finds_what_any_iterate_found():
    model, (x, y) = network(), examples(64)
    attack = PGD(threat=Linf(epsilon=0.05), step_size=0.05, steps=7, loss="margin")
    reached = []

    def watch(logits: torch.Tensor) -> None:
        reached.append(margin(logits, y))

    draw = everyone(0, "attack", count=len(x)).within("restart", 0).within("start")
    with crafting(model, "evaluating"):
        start = attack.threat.random_start(x, draw)
        last = ascent(
            score_of("margin", model, x, y), x, start, threat=attack.threat, step_size=0.05, steps=7, stop=watch
        )
        reached.append(margin(model(last), y))
        kept = margin(model(dataclasses.replace(attack, keep="largest_margin")(model, x, y)), y)
    torch.testing.assert_close(kept, torch.stack(reached).amax(0))


def test_a_stop_rule_freezes_examples_where_they_are():
    model, (x, y) = network(), examples()
    frozen = torch.arange(len(x)) % 2 == 0

    def stop(logits: torch.Tensor) -> torch.Tensor:
        return ~frozen

    with crafting(model, "evaluating"):
        z = ascent(score_of("cross_entropy", model, x, y), x, x, threat=Linf(), step_size=2 / 255, steps=3, stop=stop)
    assert torch.equal(z[frozen], x[frozen])
    assert (z[~frozen] != x[~frozen]).flatten(1).any(1).all()


def test_targeted_attacks_approach_their_target():
    model, (x, y) = network(), examples()
    target = (y + 1) % 6
    model.eval()
    with torch.no_grad():
        for attack in (PGD(), MIM(), CW(steps=10), FGSM()):
            towards = attack(model, x, y, target=target)
            assert float(cross_entropy(model(towards), target).mean()) < float(cross_entropy(model(x), target).mean())


def test_random_starts_fill_the_ball():
    x = torch.full((4000, 1, 2, 2), 0.5)
    draw = everyone(0, "ball", count=len(x))
    delta = Linf(epsilon=0.1).random_start(x, draw) - x
    assert float(delta.abs().max()) <= 0.1 + 1e-6
    assert abs(float(delta.mean())) < 0.002 and abs(float(delta.std()) - 0.2 / 12**0.5) < 0.002
    radius = L2(epsilon=0.1).norm(L2(epsilon=0.1).random_start(x, draw) - x) / 0.1
    assert float(radius.max()) <= 1 + 1e-5
    assert abs(float((radius**4).mean()) - 0.5) < 0.03  # uniform in four dimensions: radius^4 is uniform


def test_the_ramp_grows_epsilon_and_step_together():
    inner = Ascent(threat=Linf(epsilon=0.3), step_size=0.1, ramp=0.5)
    early, late = inner.at(Now(1, 4, 2, 10, 0)), inner.at(Now(2, 12, 2, 10, 0))
    assert early.threat.epsilon == pytest.approx(0.15) and early.step_size == pytest.approx(0.05)
    assert late == inner


def test_one_by_one_batches_work():
    model, (x, y) = network(), examples(1)
    assert PGD()(model, x, y).shape == x.shape
