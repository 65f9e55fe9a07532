"""What is computed on: the processor or device, and whatever of it and of the arithmetic changes the last bits of a
result.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # records are read without torch
    import torch

_INSTRUCTIONS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")


@dataclass(frozen=True)
class Hardware:
    """A processor or device as it was used."""

    name: str
    """The model's, such as "NVIDIA H200"; of CPUs as the system says it."""
    arithmetic: list[str]
    """On CPUs the instruction sets that decide how sums are formed, and torch's own choice among them; on GPUs the
    capability.
    """
    threads: int
    """Of a CPU; 0 on other devices."""
    precision: str
    """Of the numbers: "float32", "bfloat16", ..."""

    def __str__(self) -> str:
        threads = f", {self.threads} thread{'s' * (self.threads > 1)}" if self.threads else ""
        return f"{self.name} ({' '.join(self.arithmetic)}){threads}, {self.precision}"


def hardware_of(device: torch.device, precision: str) -> Hardware:
    """The processor behind a torch device, as this process uses it."""
    import torch

    from poise.core.processors import processor

    if device.type == "cpu":
        capability = f"torch {torch.backends.cpu.get_cpu_capability()}"
        return Hardware(processor().name, [*_instructions(), capability], torch.get_num_threads(), precision)
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        tf32 = ["tf32"] if torch.backends.cuda.matmul.allow_tf32 else []
        return Hardware(torch.cuda.get_device_name(device), [f"capability {major}.{minor}", *tf32], 0, precision)
    return Hardware(device.type, [platform.machine()], 0, precision)


@cache
def _instructions() -> tuple[str, ...]:
    """Those of this processor's, as far as Linux names them."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace").partition("\n\n")[0]
    except OSError:  # another system
        return ()
    flags = next((line for line in text.splitlines() if line.lower().startswith(("flags", "features"))), "").split()
    return tuple(name for name in _INSTRUCTIONS if name in flags)


def joined(*lists: Iterable[Any]) -> list[Any]:
    """What occurs in the lists, each once, in the order of its first occurrence."""
    whole = [item for items in lists for item in items]
    return [item for place, item in enumerate(whole) if item not in whole[:place]]
