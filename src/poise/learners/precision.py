"""The arithmetic of training. Verdicts of evaluations are always decided in float32 or wider."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
from pydantic import BeforeValidator

from poise.core.errors import SettingsError
from poise.core.exact import arithmetic_named

PrecisionName = Annotated[Literal["auto", "float32", "bfloat16", "float64"], BeforeValidator(arithmetic_named)]
"""In settings "fp32", "bf16" and "fp64" stand for the same."""


@dataclass(frozen=True)
class Precision:
    """dtype of weights and images, and whether forwards run under bfloat16 autocast."""

    dtype: torch.dtype
    autocast: bool
    device: torch.device

    @property
    def layout(self) -> torch.memory_format:
        """Order of images and weights in memory: channels last on GPUs; on CPUs its weight gradients are not safe (see `Folded`)."""
        return torch.channels_last if self.device.type == "cuda" else torch.contiguous_format

    def context(self) -> AbstractContextManager[object]:
        """Around every forward of training and crafting."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext()


def precision(name: PrecisionName, device: torch.device) -> Precision:
    """ "auto" is bfloat16 autocast on a GPU that supports it and float32 elsewhere (on CPUs it is many times slower).

    Raises: SettingsError for an unknown name or when the device cannot do what is asked.
    """
    name = cast(PrecisionName, arithmetic_named(name))
    if name not in ("auto", "float32", "bfloat16", "float64"):
        raise SettingsError(f"precision = {name!r}, must be 'auto', 'float32', 'bfloat16' or 'float64'")
    able = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if name == "bfloat16" and device.type == "cuda" and not able:
        raise SettingsError("precision = 'bfloat16': this GPU does not support it, must be 'auto', 'float32' or 'float64'")
    dtype = torch.float64 if name == "float64" else torch.float32
    return Precision(dtype, autocast=name == "bfloat16" or (name == "auto" and able), device=device)
