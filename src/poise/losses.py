"""Per-example losses on logits: every function returns one value per example, [B]; nothing here reduces over a batch.

Larger is better for the attacker unless the docstring says otherwise. Logits are [B, C], labels int64 [B].
Logits that autocast made in bfloat16 are taken in float32, so that differences, logarithms and sums keep their digits.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from poise.core.exact import widened
from poise.core.lengths import scaled

Divergence = Literal["kl", "symmetric_kl", "js", "reversed_js", "squared_l2"]


def cross_entropy(logits: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-log p_y [B]; with smoothing s, (1-s) of it plus s times the mean over the classes."""
    return F.cross_entropy(widened(logits), y, reduction="none", label_smoothing=label_smoothing)


def log_probabilities(logits: Tensor) -> Tensor:
    """log softmax [B, C]."""
    return F.log_softmax(widened(logits), 1)


def kl(target_logits: Tensor, logits: Tensor) -> Tensor:
    """KL(p || q) [B], p = softmax(target_logits), q = softmax(logits). TRADES: p natural, q adversarial."""
    return F.kl_div(log_probabilities(logits), log_probabilities(target_logits), reduction="none", log_target=True).sum(
        1
    )


def symmetric_kl(p_logits: Tensor, q_logits: Tensor, detach_target: bool = False) -> Tensor:
    """(KL(p||q) + KL(q||p)) / 2 [B]; with `detach_target` each half's first argument is a constant (Squeeze Training,
    released code).
    """
    p_target = p_logits.detach() if detach_target else p_logits
    q_target = q_logits.detach() if detach_target else q_logits
    return (kl(p_target, q_logits) + kl(q_target, p_logits)) / 2


def js(p_logits: Tensor, q_logits: Tensor, reverse: bool = False) -> Tensor:
    """Jensen-Shannon divergence [B], (KL(p||m) + KL(q||m)) / 2 with m the mean; at most log 2. `reverse` turns each KL
    around.
    """
    log_p, log_q = log_probabilities(p_logits), log_probabilities(q_logits)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    if reverse:
        halves = log_m.exp() * (2 * log_m - log_p - log_q)
    else:
        halves = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
    return halves.sum(1) / 2


def squared_l2(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """Sum over the classes of (p - q)^2 on softmax probabilities [B]."""
    return (log_probabilities(p_logits).exp() - log_probabilities(q_logits).exp()).square().sum(1)


def divergence(name: Divergence, p_logits: Tensor, q_logits: Tensor, detach_target: bool = False) -> Tensor:
    """The named divergence [B]; p is the target (natural) and q the prediction (adversarial) in the asymmetric `kl`."""
    if detach_target and name == "symmetric_kl":
        return symmetric_kl(p_logits, q_logits, detach_target=True)
    if detach_target:
        p_logits = p_logits.detach()
    divergences = {
        "kl": kl,
        "symmetric_kl": symmetric_kl,
        "js": js,
        "reversed_js": partial(js, reverse=True),
        "squared_l2": squared_l2,
    }
    return divergences[name](p_logits, q_logits)


def best_other(logits: Tensor, y: Tensor) -> Tensor:
    """max_{k != y} z_k [B]: the true class is masked with -inf, so it never counts, whatever the logits' sign."""
    return widened(logits).scatter(1, y[:, None], float("-inf")).amax(1)


def margin(logits: Tensor, y: Tensor, confidence: float | None = None) -> Tensor:
    """max_{k != y} z_k - z_y [B]; positive where misclassified. With `confidence` c it is at most c (Carlini & Wagner
    2017).
    """
    value = best_other(logits, y) - widened(logits).gather(1, y[:, None])[:, 0]
    return value if confidence is None else value.clamp(max=confidence)


def targeted_margin(logits: Tensor, target: Tensor) -> Tensor:
    """z_t - max_{k != t} z_k [B]; positive where the target class is predicted."""
    return -margin(logits, target)


def probability_margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{k != y} p_k - p_y [B] on softmax probabilities: the margin of PMA (Xie et al. 2024), in [-1, 1]."""
    return margin(log_probabilities(logits).exp(), y)


def targeted_probability_margin(logits: Tensor, target: Tensor) -> Tensor:
    """p_t - max_{k != t} p_k [B] on softmax probabilities; positive where the target class is predicted."""
    return -probability_margin(logits, target)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio [B], Croce & Hein 2020a, Eq. 7; needs at least 3 classes. It does not depend on the
    logits' scale.
    """
    logits = widened(logits)
    largest = logits.topk(3, dim=1).values
    return _ratio(logits, margin(logits, y), largest[:, 0] - largest[:, 2])


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Targeted DLR [B], Croce & Hein 2020a, Eq. 8; needs at least 4 classes."""
    logits = widened(logits)
    largest = logits.topk(4, dim=1).values
    gap = logits.gather(1, target[:, None])[:, 0] - logits.gather(1, y[:, None])[:, 0]
    return _ratio(logits, gap, largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2)


def _ratio(logits: Tensor, above: Tensor, below: Tensor) -> Tensor:
    """above / (below + 1e-12) [B], as in the released code; small logits are first scaled up, so that the guard stays
    one against ties.
    """
    largest = logits.detach().abs().amax(1, keepdim=True)
    factor = torch.where(largest < 1e-6, scaled(largest)[1], 1.0)[:, 0]
    return above * factor / (below * factor + 1e-12)


def boosted_ce(adversarial_logits: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """MART's boosted cross-entropy [B]: -log p_y - log(1 - max_{k != y} p_k), with the released constants (Wang et al.
    2020, Eq. 9).

    Smoothing acts on the first term only.
    """
    p = F.softmax(widened(adversarial_logits), 1)
    wrong = p.scatter(1, y[:, None], float("-inf")).amax(1)
    return cross_entropy(adversarial_logits, y, label_smoothing) - torch.log(1.0001 - wrong + 1e-12)
