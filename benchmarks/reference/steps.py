"""One step of NT, AT, TRADES and MART as usually released. The model is in training mode between steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.reference.attacks import Noise, pgd, pgd_by_grad, trades_attack

EPSILON, STEP_SIZE, STEPS = 8 / 255, 2 / 255, 10


def nt_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> float:
    """Natural training: one forward, one backward."""
    model.train()
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def at_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    noise: Noise,
    epsilon: float = EPSILON,
    steps: int = STEPS,
) -> float:
    """PGD adversarial training (Madry et al. 2018)."""
    x_adv = pgd(model, x, y, noise, epsilon, STEP_SIZE, steps)
    model.train()
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x_adv), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def trades_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    noise: Noise,
    beta: float = 6.0,
    steps: int = STEPS,
) -> float:
    """TRADES (Zhang et al. 2019): three forwards in training mode, natural, adversarial, natural."""
    x_adv = trades_attack(model, x, noise, EPSILON, STEP_SIZE, steps)
    model.train()
    optimizer.zero_grad()
    loss_natural = F.cross_entropy(model(x), y)
    criterion = nn.KLDivLoss(reduction="sum")
    loss_robust = (1.0 / len(x)) * criterion(F.log_softmax(model(x_adv), dim=1), F.softmax(model(x), dim=1))
    loss = loss_natural + beta * loss_robust
    loss.backward()
    optimizer.step()
    return loss.item()


def mart_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    noise: Noise,
    beta: float = 5.0,
    steps: int = STEPS,
) -> float:
    """MART (Wang et al. 2020, Eq. 9-12)."""
    x_adv = pgd_by_grad(model, x, y, noise, EPSILON, STEP_SIZE, steps)
    model.train()
    optimizer.zero_grad()
    logits, logits_adv = model(x), model(x_adv)
    adversarial = F.softmax(logits_adv, dim=1)
    ranked = torch.argsort(adversarial, dim=1)[:, -2:]
    other = torch.where(ranked[:, -1] == y, ranked[:, -2], ranked[:, -1])
    loss_adv = F.cross_entropy(logits_adv, y) + F.nll_loss(torch.log(1.0001 - adversarial + 1e-12), other)
    natural = F.softmax(logits, dim=1)
    true = torch.gather(natural, 1, y.unsqueeze(1)).squeeze(1)
    divergence = torch.sum(nn.KLDivLoss(reduction="none")(torch.log(adversarial + 1e-12), natural), dim=1)
    loss_robust = (1.0 / len(x)) * torch.sum(divergence * (1.0000001 - true))
    loss = loss_adv + beta * loss_robust
    loss.backward()
    optimizer.step()
    return loss.item()
