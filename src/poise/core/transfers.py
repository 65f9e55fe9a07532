"""Tensors between the host and a GPU, so that the host waits seldom: to the GPU never, from it once for any number of
tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_ALIGNED = 16  # bytes


def sent(values: Tensor, device: torch.device) -> Tensor:
    """The values on `device`. To a GPU the host's values go from pinned memory, behind all that the GPU was given
    before.
    """
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def fetched(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors on the host, contiguous and in memory of their own; those of a GPU are waited for once, all
    together.
    """
    away = [tensor.detach() for tensor in tensors if tensor.device.type == "cuda"]
    if not away:
        return [tensor.detach().cpu().contiguous().clone() for tensor in tensors]
    sizes = [-(-tensor.nbytes // _ALIGNED) * _ALIGNED for tensor in away]
    buffer = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=True)
    places = [
        part[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for part, tensor in zip(buffer.split(sizes), away, strict=True)
    ]
    for place, tensor in zip(places, away, strict=True):
        place.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(away[0].device).synchronize()
    arrivals = iter(places)
    return [
        (next(arrivals) if tensor.device.type == "cuda" else tensor.detach().cpu().contiguous()).clone()
        for tensor in tensors
    ]
