"""Auto-PGD as an inner maximisation: no step size to choose, and the best point is kept (Croce & Hein 2020a, Algorithm
1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from poise.attacks.gradients import image_gradient
from poise.core.lengths import wide
from poise.threats import Threat, spread

RHO, MOMENTUM = 0.75, 0.75
"""Share of the steps between two checkpoints that must have increased the loss; share of the new step in a move."""


def reviews(steps: int) -> dict[int, int]:
    """After which steps the step size is reviewed, and over how many: 22 % of the steps first, each period 3 % shorter,
    down to 6 %.
    """
    period, shortest, shrink = max(int(0.22 * steps), 1), max(int(0.06 * steps), 1), max(int(0.03 * steps), 1)
    due, at = {}, period
    while at <= steps:
        due[at] = period
        period = max(period - shrink, shortest)
        at += period
    return due


def auto_ascent(
    score: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor, start: Tensor, *, threat: Threat, steps: int
) -> Tensor:
    """For each example the best of `steps` + 1 points around x, from `start` on; same shape as x.

    The step size begins at 2 epsilon. It is halved, and the search goes on from the best point, where too few steps of
    a period have increased the score, or none of two periods the largest one.
    """
    dtype_given, x = x.dtype, x.to(wide(x.dtype))
    z = before = best = start.detach().to(x.dtype).clamp(0, 1)
    step_size = x.new_ones(len(x)) * (2 * threat.epsilon)
    increases = torch.zeros_like(step_size)
    was_halved = torch.ones(len(x), dtype=torch.bool, device=x.device)
    due = reviews(steps)
    best_loss = last = checkpoint_loss = torch.full_like(step_size, -torch.inf)
    best_gradient = torch.zeros_like(x)
    for k in range(steps + 1):
        leaf = z.detach().to(dtype_given).requires_grad_(True)
        with torch.set_grad_enabled(k < steps):
            values, _ = score(leaf)
            gradient = image_gradient(values, leaf).to(x.dtype) if k < steps else best_gradient
        with torch.no_grad():
            loss = values.detach().to(x.dtype)
            nan = loss.isnan()
            better = (loss > best_loss) | nan
            # NaN is never passed over
            best = torch.where(spread(better, z), torch.where(spread(nan, z), torch.nan, z), best)
            best_loss, best_gradient = (
                torch.where(better, loss, best_loss),
                torch.where(spread(better, z), gradient, best_gradient),
            )
            increases, last = increases + (loss > last) * (k > 0), loss
            if k == 0:
                checkpoint_loss = best_loss
            if k in due:
                few = increases <= RHO * due[k]
                halve = few | (~was_halved & (checkpoint_loss >= best_loss))
                step_size = torch.where(halve, step_size / 2, step_size)
                z, gradient = (
                    torch.where(spread(halve, z), best, z),
                    torch.where(spread(halve, z), best_gradient, gradient),
                )
                increases, was_halved, checkpoint_loss = torch.zeros_like(increases), halve, best_loss
            if k < steps:
                stepped = threat.project(z + spread(step_size, z) * threat.step(torch.zeros_like(z), gradient, 1.0), x)
                if k > 0:
                    stepped = threat.project(z + MOMENTUM * (stepped - z) + (1 - MOMENTUM) * (z - before), x)
                z, before = stepped, z
    return best.to(dtype_given)
