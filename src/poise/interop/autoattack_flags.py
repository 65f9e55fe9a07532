"""Signs, seen before an attack begins, that the `autoattack` package's verdict would not be worth much; as sentences.

`poise.evaluation` has the whole list of such checks; these are the ones that the package prints.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.attacks.attack import check_labels, check_logits
from poise.core.answers import answer, lent
from poise.core.lengths import unit
from poise.core.modes import crafting


def flags(model: nn.Module, x: Tensor, y: Tensor, version: str) -> list[str]:
    """Of a first batch x [B, C, H, W], y [B] on the model's device: random output, probabilities instead of logits,
    zero gradients.

    Raises: InputError for labels or logits of a wrong shape, type or range.
    """
    lines = []
    with crafting(model, "evaluating"), lent(model, x):
        leaf = x.detach().requires_grad_(True)
        with torch.enable_grad():
            logits = answer(model, leaf)
            check_labels(y, len(x), check_logits(logits, len(x)))
            loss, gradient = F.cross_entropy(logits, y, reduction="sum"), None
            if loss.requires_grad:
                (gradient,) = torch.autograd.grad(loss, leaf, allow_unused=True)
        with torch.no_grad():
            answers = [answer(model, x) for _ in range(4)]
    logits = logits.detach()
    if version != "rand" and any(_differ(logits, repeat) for repeat in answers):
        lines.append("it seems to be a randomized defense! Use version='rand'")
    if bool((logits > -1e-5).all() & (logits < 1 + 1e-5).all() & ((logits.sum(1) - 1).abs() < 1e-5).all()):
        lines.append("the output seems to be a probability distribution; the model must return logits")
    zero = len(x) if gradient is None else int((gradient.flatten(1).abs().sum(1) == 0).sum())
    if zero:
        lines.append(f"there are {zero} points with zero gradient! Gradient-based attacks cannot be relied on there")
    return lines


def _differ(a: Tensor, b: Tensor) -> bool:
    """By more than rounding, relative to the logits' size, or in a prediction."""
    differs = a.argmax(1) != b.argmax(1)
    return bool(((unit(a) - unit(b)).norm(dim=1) > 1e-4).any() or differs.any())
