"""BatchNorm's running statistics of a network whose weights were averaged, estimated anew (Izmailov et al. 2018,
Section 3.2).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from poise.core.modes import training
from poise.data import Split
from poise.evaluation.predictions import device_of


@torch.no_grad()
def reestimate(network: nn.Module, split: Split, images: int, batch_size: int = 256) -> None:
    """Replace running means and variances by their mean over batches of the first `images` natural images, not
    augmented.

    Does nothing to a network without running statistics. `batch_size` is what the variances are taken over; a smaller
    last batch counts only where it is the only one.
    """
    norms = [module for module in network.modules() if isinstance(module, _NormBase) and module.track_running_stats]
    if not norms:
        return
    device, dtype = device_of(network)
    count = min(images, len(split))
    size = min(batch_size, count)
    momenta = [module.momentum for module in norms]
    try:
        for module in norms:
            module.reset_running_stats()
            module.momentum = None  # torch: a cumulative mean
        with training(network):
            for start in range(0, count - size + 1, size):
                rows = torch.arange(start, start + size, device=split.labels.device)
                network(split.pixels(rows, dtype).to(device))
    finally:
        for module, momentum in zip(norms, momenta, strict=True):
            module.momentum = momentum
