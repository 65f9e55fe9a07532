"""What experts minimise together in place of the least of their losses, and what their evaluators minimise (Cui et al.
2022, Section 3).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from poise.losses import log_probabilities
from poise.models.dual_head import Confidence

Surrogate = Literal["smooth", "hard", "released"]


def smooth_minimum(losses: Tensor, sigma: float) -> Tensor:
    """-sigma log sum_j exp(-loss_j / sigma) over the first axis: [M, ...] to [...] (Eq. 6)."""
    return -sigma * torch.logsumexp(-losses / sigma, 0)


def combined(surrogate: Surrogate, losses: Tensor, sigma: float, confidences: Tensor) -> Tensor:
    """What the experts minimise together [B], from their losses and confidences [M, B]."""
    if surrogate == "smooth":
        return smooth_minimum(losses, sigma)
    if surrogate == "hard":
        return losses.amin(0)
    return (confidences.detach().softmax(0) * losses).sum(0)


def confidence_loss(form: Confidence, logits: Tensor, evaluator: Tensor, y: Tensor) -> Tensor:
    """BCE(confidence, p_y) [B] of one expert, from logits [B, C] and evaluator's output [B, 1]; p_y is a constant.

    In the rectified form max_k p_k is a constant too where the prediction is right (released code).
    """
    log_p = log_probabilities(logits)
    target = log_p.detach().gather(1, y[:, None])[:, 0].exp()
    raw = evaluator[:, 0].to(log_p.dtype)
    log_trust = F.logsigmoid(raw)
    if form == "evaluator":
        return -(target * log_trust + (1 - target) * F.logsigmoid(-raw))
    largest = log_p.amax(1)
    right = log_p.detach().argmax(1) == y
    log_trust = log_trust + torch.where(right, largest.detach(), largest)
    log_doubt = (-torch.expm1(log_trust)).clamp(min=torch.finfo(log_p.dtype).eps).log()
    return -(target * log_trust + (1 - target) * log_doubt)
