"""MALT: the target classes that an almost linear network says are nearest (Melamed et al. 2024).

Around an image a network is nearly linear at the scale of epsilon, so that class c is about
(f_y - f_c) / || grad(f_c - f_y) ||_q away, q the norm dual to the threat's. One gradient for each candidate ranks them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from poise.attacks.autoattack.search import Examples, Network
from poise.attacks.gradients import image_gradient
from poise.threats import Threat


def nearest_classes(model: Network, examples: Examples, threat: Threat, targets: int, among: int, width: int) -> Tensor:
    """The `targets` classes other than y [N, targets] nearest to each image of N, first the nearest, of the `among`
    likeliest.

    A class whose gradient is 0 is infinitely far; of two alike the likelier comes first. Asked in batches of `width`,
    the last one padded.
    """
    parts = []
    for start in range(0, len(examples), width):
        rows = torch.arange(start, start + width, device=examples.y.device).clamp(max=len(examples) - 1)
        part = examples[rows]
        candidates = part.ranked_by_logits()[:, :among]
        order = _distances(model, part, threat, candidates).sort(dim=1, stable=True).indices[:, :targets]
        parts.append(candidates.gather(1, order)[: len(examples) - start])
    return torch.cat(parts)


def _distances(model: Network, examples: Examples, threat: Threat, candidates: Tensor) -> Tensor:
    """How far each candidate class [B, K] is from each image, in the linear network [B, K]."""
    leaf = examples.x.detach().requires_grad_(True)
    last = candidates.shape[1] - 1
    distances = []
    with torch.enable_grad():
        logits = model(leaf)
        lead = logits.gather(1, examples.y[:, None]) - logits.gather(1, candidates)
        for place in range(last + 1):
            slope = threat.dual_norm(image_gradient(lead[:, place], leaf, retain=place < last))
            distances.append(torch.where(slope > 0, lead[:, place] / slope, torch.inf).detach())
    return torch.stack(distances, 1)
