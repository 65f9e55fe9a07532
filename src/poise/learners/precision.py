"""The arithmetic of training. Verdicts of evaluations are always decided in float32 or wider."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
from pydantic import BeforeValidator
from torch import nn

from poise.core.errors import SettingsError
from poise.core.exact import arithmetic_named
from poise.models.folding import any_layout, gradients_in_any_layout

PrecisionName = Annotated[Literal["auto", "float32", "bfloat16", "float64"], BeforeValidator(arithmetic_named)]
"""In settings "fp32", "bf16" and "fp64" stand for the same."""


@dataclass(frozen=True)
class Precision:
    """dtype of weights and images, and whether forwards run under bfloat16 autocast."""

    dtype: torch.dtype
    autocast: bool
    device: torch.device

    def layout(self, network: nn.Module) -> torch.memory_format:
        """Order in memory of a trained network's images, weights and activations: channels last where it admits that, which is faster.

        On CPUs only in plain float32, and where the weight gradients are known to be right.
        """
        plain = self.dtype is torch.float32 and not self.autocast
        last = any_layout(network) and (self.device.type == "cuda" or (plain and gradients_in_any_layout(network)))
        return torch.channels_last if last else torch.contiguous_format

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
