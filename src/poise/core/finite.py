"""Which of many tensors hold a number that is none."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


@torch.no_grad()
def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors with a NaN or an infinity in them; one host synchronisation for each device on which they
    lie.
    """
    places: dict[torch.device, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() or tensor.is_complex():
            places.setdefault(tensor.device, {})[name] = torch.isfinite(tensor).all()
    verdicts: dict[str, bool] = {}
    for flags in places.values():
        verdicts |= dict(zip(flags, torch.stack(list(flags.values())).tolist(), strict=True))
    return [name for name in tensors if not verdicts.get(name, True)]
