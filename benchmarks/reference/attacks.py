"""Inner maximisations in three released styles. `noise(x)` is the start's displacement, so that two implementations can
share it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Noise = Callable[[Tensor], Tensor]
"""Images -> displacement of the start, same shape."""


def uniform(epsilon: float = 8 / 255) -> Noise:
    return lambda x: torch.empty_like(x).uniform_(-epsilon, epsilon)


def gaussian(x: Tensor) -> Tensor:
    return 0.001 * torch.randn_like(x)


def pgd(model: nn.Module, x: Tensor, y: Tensor, noise: Noise, epsilon: float, step_size: float, steps: int) -> Tensor:
    """PGD with `loss.backward()`, which computes the gradients of all parameters too and throws them away (Madry et al.
    2018).
    """
    model.eval()
    x_adv = torch.clamp(x.detach() + noise(x), 0.0, 1.0)
    for _ in range(steps):
        x_adv.requires_grad_()
        model.zero_grad()
        with torch.enable_grad():
            loss = F.cross_entropy(model(x_adv), y)
        loss.backward()
        assert x_adv.grad is not None
        x_adv = x_adv.detach() + step_size * x_adv.grad.sign()
        x_adv = torch.min(torch.max(x_adv, x - epsilon), x + epsilon)
        x_adv = torch.clamp(x_adv, 0.0, 1.0)
    model.train()
    return x_adv.detach()


def pgd_by_grad(
    model: nn.Module, x: Tensor, y: Tensor, noise: Noise, epsilon: float, step_size: float, steps: int
) -> Tensor:
    """PGD with `torch.autograd.grad`, as in the code of MART (Wang et al. 2020); parameters stay in the graph."""
    model.eval()
    x_adv = x.detach() + noise(x).detach()
    for _ in range(steps):
        x_adv.requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(model(x_adv), y)
        gradient = torch.autograd.grad(loss, [x_adv])[0]
        x_adv = x_adv.detach() + step_size * torch.sign(gradient.detach())
        x_adv = torch.min(torch.max(x_adv, x - epsilon), x + epsilon)
        x_adv = torch.clamp(x_adv, 0.0, 1.0)
    model.train()
    return x_adv.detach()


def trades_attack(model: nn.Module, x: Tensor, noise: Noise, epsilon: float, step_size: float, steps: int) -> Tensor:
    """Ascent of KL(p(x) || p(z)); p(x) is computed anew at every step, as in the code of TRADES (Zhang et al. 2019)."""
    criterion = nn.KLDivLoss(reduction="sum")
    model.eval()
    x_adv = x.detach() + noise(x).detach()
    for _ in range(steps):
        x_adv.requires_grad_()
        with torch.enable_grad():
            loss = criterion(F.log_softmax(model(x_adv), dim=1), F.softmax(model(x), dim=1))
        gradient = torch.autograd.grad(loss, [x_adv])[0]
        x_adv = x_adv.detach() + step_size * torch.sign(gradient.detach())
        x_adv = torch.min(torch.max(x_adv, x - epsilon), x + epsilon)
        x_adv = torch.clamp(x_adv, 0.0, 1.0)
    model.train()
    return torch.clamp(x_adv, 0.0, 1.0).detach()
