"""One step of Squeeze Training (Li et al. 2023, Algorithm 1) as usually released.

Gradients are those of `torch.autograd.grad` with respect to the images, parameters staying in the graph; the natural
images go through the network anew at every inner step, as their gradient is needed wherever one of them is chosen.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.reference.attacks import Noise
from benchmarks.reference.steps import EPSILON, STEP_SIZE, STEPS


def track(model: nn.Module, tracked: bool) -> None:
    """Whether BatchNorm's running statistics follow the batches."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = tracked


def choose(logits: list[Tensor], y: Tensor) -> tuple[Tensor, Tensor]:
    """Of natural, collaborative and adversarial logits, which has the smallest and which the largest probability of
    y.
    """
    with torch.no_grad():
        true = torch.stack([F.softmax(each, dim=1)[torch.arange(len(y)), y] for each in logits])
        return true.argmin(dim=0), true.argmax(dim=0)


def pick(candidates: list[Tensor], choice: Tensor) -> Tensor:
    picked = torch.zeros_like(candidates[0])
    for number, candidate in enumerate(candidates):
        picked[choice == number] = candidate[choice == number]
    return picked


def symmetric(upper: Tensor, lower: Tensor) -> Tensor:
    """Symmetric KL, the target of each half detached."""
    criterion = nn.KLDivLoss(reduction="batchmean")
    forth = criterion(F.log_softmax(upper, dim=1), F.softmax(lower.detach(), dim=1))
    back = criterion(F.log_softmax(lower, dim=1), F.softmax(upper.detach(), dim=1))
    return 0.5 * (forth + back)


def pair(model: nn.Module, x: Tensor, y: Tensor, noises: tuple[Noise, Noise], steps: int) -> tuple[Tensor, Tensor]:
    """The adversarial and the collaborative images."""
    x_adv, x_col = (x.detach() + noise(x) for noise in noises)
    for _ in range(steps):
        leaves = [each.detach().requires_grad_() for each in (x, x_col, x_adv)]
        logits = [model(leaf) for leaf in leaves]
        upper, lower = choose(logits, y)
        loss = symmetric(pick(logits, upper), pick(logits, lower))
        gradients = list(torch.autograd.grad(loss, leaves))
        points = [leaf.detach() for leaf in leaves]
        moved = []
        for choice in (upper, lower):
            z = pick(points, choice) + STEP_SIZE * torch.sign(pick(gradients, choice))
            z = torch.min(torch.max(z, x - EPSILON), x + EPSILON)
            moved.append(torch.clamp(z, 0.0, 1.0))
        x_adv, x_col = moved
    return x_adv.detach(), x_col.detach()


def squeeze_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    noise: tuple[Noise, Noise],
    beta: float = 6.0,
    steps: int = STEPS,
) -> float:
    """Squeeze Training with symmetric KL; `noise` displaces the adversarial and the collaborative start."""
    model.train()
    track(model, False)
    x_adv, x_col = pair(model, x, y, noise, steps)
    optimizer.zero_grad()
    collaborative = model(x_col)
    track(model, True)
    natural, adversarial = model(x), model(x_adv)
    logits = [natural, collaborative, adversarial]
    upper, lower = choose(logits, y)
    loss = F.cross_entropy(natural, y) + beta * symmetric(pick(logits, upper), pick(logits, lower))
    loss.backward()
    optimizer.step()
    return loss.item()
