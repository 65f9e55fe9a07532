"""Objectives that came after the papers, against slow references written from their formulas in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from poise.attacks import Ascent
from poise.core.batches import Batch, Now
from poise.core.errors import SettingsError
from poise.core.overrides import override
from poise.objectives import NFGSM, RPAT, TRADES, Adversarial, Objective
from poise.recipes import experiment
from poise.threats import L2, Linf

NOW = Now(epoch=2, step=3, epochs=4, steps_per_epoch=2, seed=1)


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(27, 8), nn.Tanh(), nn.Linear(8, 4)).double()


def batch(grey: bool = False) -> Batch:
    source = torch.Generator().manual_seed(0)
    x = torch.rand(6, 3, 3, 3, generator=source, dtype=torch.float64)
    return Batch.of(0.4 + 0.2 * x if grey else x, torch.arange(6) % 4)


def test_rpat_is_the_formula() -> None:
    model, shown = network(), batch()
    x_adv = (shown.x + 0.1).clamp(0, 1)
    terms = RPAT(beta=3).loss(model, Adversarial(shown.y, shown.x, x_adv), NOW)
    for i in range(6):
        f = [model(image[i : i + 1])[0] for image in (shown.x, x_adv, shown.x / 2 + x_adv / 2)]
        bend = sum((f[2][c] - (f[0][c] / 2 + f[1][c] / 2)) ** 2 for c in range(4)) / 4
        torch.testing.assert_close(terms["perception"][i], 3 * bend)
        torch.testing.assert_close(terms["robust"][i], -f[1].log_softmax(0)[shown.y[i]])


@pytest.mark.parametrize("threat", [Linf(epsilon=0.03), L2(epsilon=0.2)], ids=["linf", "l2"])
def test_n_fgsm_is_noise_of_two_epsilons_and_one_unprojected_step(threat: Linf | L2) -> None:
    model, shown = network(), batch(grey=True)
    objective = NFGSM().searching(Ascent(threat=threat))
    assert objective.inner.step_size == pytest.approx(threat.epsilon)
    x_adv = objective.craft(model, shown, NOW).x_adv
    delta = x_adv - shown.x
    noise = NFGSM(inner=Ascent(threat=threat, step_size=1e-12, steps=1, start="zero")).craft(model, shown, NOW).x_adv
    assert bool((threat.norm(noise - shown.x) <= 2 * threat.epsilon * (1 + 1e-9)).all())
    assert bool((threat.norm(noise - shown.x) > threat.epsilon).any()), "the noise leaves the threat"
    assert bool((threat.norm(delta) > 2 * threat.epsilon).any()), "the step is not projected"
    for i in range(6):
        leaf = noise[i : i + 1].clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), shown.y[i : i + 1]), leaf)
        steepest = gradient.sign() if isinstance(threat, Linf) else gradient / gradient.norm()
        torch.testing.assert_close(x_adv[i], (leaf + threat.epsilon * steepest)[0].detach(), rtol=0, atol=1e-9)


def test_n_fgsm_stays_in_the_box_and_a_zero_gradient_takes_no_step() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(27, 4)).double()
    nn.init.zeros_(flat[1].weight)  # type: ignore[arg-type]
    shown = batch()
    x_adv = NFGSM().craft(flat, shown, NOW).x_adv
    assert bool(((x_adv >= 0) & (x_adv <= 1)).all())
    assert bool(((x_adv - shown.x).abs() <= 16 / 255 + 1e-12).all())


def test_n_fgsm_takes_one_step_only() -> None:
    with pytest.raises(SettingsError, match=r"NFGSM\.inner\.steps = 2: must be 1"):
        NFGSM(inner=Ascent(steps=2))


def test_one_step_and_many_take_each_others_place_within_the_runs_threat() -> None:
    at = experiment("at_digits")
    single = override(at, {"method.objective": "NFGSM"})
    objective: Objective = single.method.policies()["joint"].objective
    assert isinstance(objective, NFGSM)
    assert (objective.inner.threat, objective.inner.steps) == (Linf(epsilon=0.2), 1)
    assert objective.inner.step_size == pytest.approx(0.2)
    back = override(single, {"method.objective": "TRADES"}).method.policies()["joint"].objective
    assert isinstance(back, TRADES)
    assert (back.inner.threat, back.inner.steps) == (Linf(epsilon=0.2), 10)
    assert back.inner.step_size == pytest.approx(0.05)
