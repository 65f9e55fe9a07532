"""The gradient that an attack follows: that of a loss with respect to the images, and of nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from poise.core.errors import InputError


def image_gradient(values: Tensor, z: Tensor, *, retain: bool = False) -> Tensor:
    """d sum(values) / d z, like z; `retain` keeps the graph for another one.

    Raises: InputError where `values` [B] do not depend on z in torch's eyes.
    """
    found = torch.autograd.grad(values.sum(), z, retain_graph=retain, allow_unused=True)[0] if values.requires_grad else None
    if found is None:
        raise InputError(
            "the network has no gradient with respect to its images: its forward pass detaches them, runs under no_grad or leaves torch, "
            "so attacks by gradients say nothing about it; ask `poise sanity`, and attack with `poise evaluate --protocol soe-blackbox`, "
            "which looks at logits only (and --first N where there are fewer than 1,000 images)"
        )
    return found
