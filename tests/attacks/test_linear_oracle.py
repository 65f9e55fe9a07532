"""On a linear model the strongest attack is known in closed form, and ours must reach it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from poise.attacks import CW, FGSM, MIM, PGD, Attack
from poise.losses import margin
from poise.threats import L2, Linf, Threat


class LinearModel(nn.Module):
    """Two classes: logits (-w.x - b, w.x + b), so the margin against label 0 is 2 (w.x + b)."""

    def __init__(self, w: Tensor, b: float) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(w), b

    def forward(self, x: Tensor) -> Tensor:
        value = x.flatten(1) @ self.w + self.b
        return torch.stack([-value, value], 1)


def problem() -> tuple[LinearModel, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(3 * 6 * 6, generator=generator, dtype=torch.float64)
    x = 0.3 + 0.4 * torch.rand(12, 3, 6, 6, generator=generator, dtype=torch.float64)  # the box stays out of reach
    return LinearModel(w, 0.1), x, torch.randint(2, (12,), generator=generator)


def best_margin(model: LinearModel, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """margin(x) + 2 epsilon ||w||_dual: what no attack within the threat can exceed."""
    dual = model.w.abs().sum() if isinstance(threat, Linf) else model.w.norm()
    return margin(model(x), y) + 2 * threat.epsilon * dual


THREATS = [Linf(epsilon=0.05), L2(epsilon=0.25)]


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_fgsm_reaches_the_optimum_exactly(threat):
    model, x, y = problem()
    with torch.no_grad():
        reached = margin(model(FGSM(threat=threat)(model, x, y)), y)
        torch.testing.assert_close(reached, best_margin(model, x, y, threat), rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("threat", THREATS, ids=repr)
@pytest.mark.parametrize("make", [PGD, MIM, CW], ids=lambda make: make.__name__)
def test_iterative_attacks_reach_one_percent_of_the_optimum(threat, make):
    model, x, y = problem()
    attack = make(threat=threat, step_size=threat.epsilon / 4, steps=30)
    with torch.no_grad():
        gain = margin(model(attack(model, x, y)), y) - margin(model(x), y)
        best = best_margin(model, x, y, threat) - margin(model(x), y)
    assert ((gain <= best * (1 + 1e-6)) & (gain >= 0.99 * best)).all()


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_targeted_pgd_is_the_untargeted_one_when_there_are_two_classes(loss):
    model, x, y = problem()
    attack: Attack = PGD(threat=THREATS[0], loss=loss)
    torch.testing.assert_close(attack(model, x, y, target=1 - y), attack(model, x, y))
