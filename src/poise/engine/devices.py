"""Where a run computes."""

from __future__ import annotations

import torch

from poise.core.distributed import local_rank
from poise.core.errors import SettingsError


def choose_device(name: str) -> torch.device:
    """ "auto" is the first GPU, else the CPU; under torchrun "auto" and "cuda" give each rank the GPU of its number on
    its machine.

    A GPU with a number becomes torch's current one, to which streams and graphs belong unless told otherwise.
    Raises: SettingsError for a device that is not there.
    """
    device = _device(name)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return device


def _device(name: str) -> torch.device:
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if here and name in ("auto", "cuda"):
        return torch.device("cuda", local_rank() % here) if local_rank() else torch.device("cuda")
    if name == "auto":
        return torch.device("cpu")
    if name.partition(":")[0] == "mps":
        raise SettingsError(
            f"device = {name!r}: random numbers are drawn in float64, which Apple's GPUs lack; must be 'cpu' or 'cuda'"
        )
    try:
        device = torch.device(name)
        # "meta" holds no numbers, some accelerators no float64
        torch.zeros(1, dtype=torch.float64, device=device).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise SettingsError(
            f"device = {name!r} is not available here ({first}); must be 'auto', 'cpu' or one that is there"
        ) from None
    return device
