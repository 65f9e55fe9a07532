"""The arithmetic of training. Verdicts of evaluations are always decided in float32 or wider."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
from pydantic import BeforeValidator
from torch import nn

from poise.core.errors import RunError, SettingsError
from poise.core.exact import arithmetic_named
from poise.core.processors import bfloat16_gain, check_bfloat16, kept_off, native_bfloat16, processor
from poise.models.folding import any_layout, gradients_in_any_layout

PrecisionName = Annotated[Literal["auto", "float32", "bfloat16", "float64"], BeforeValidator(arithmetic_named)]
"""In settings "fp32", "bf16" and "fp64" stand for the same."""


@dataclass(frozen=True)
class Precision:
    """dtype of weights and images, and whether forwards run under bfloat16 autocast."""

    dtype: torch.dtype
    autocast: bool
    device: torch.device

    @property
    def name(self) -> Literal["float32", "bfloat16", "float64"]:
        """What run.json says: "bfloat16" for autocast, whose weights are float32."""
        return "bfloat16" if self.autocast else "float64" if self.dtype is torch.float64 else "float32"

    def layout(self, network: nn.Module) -> torch.memory_format:
        """Order in memory of a trained network's images, weights and activations: channels last where it admits that,
        which is faster.

        On CPUs only where the weight gradients are known to be right, and not in float64.
        """
        layout_known = self.dtype is torch.float32 and gradients_in_any_layout(network)
        last = any_layout(network) and (self.device.type == "cuda" or layout_known)
        return torch.channels_last if last else torch.contiguous_format

    def context(self) -> AbstractContextManager[object]:
        """Around every forward of training and crafting."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext()


def precision(name: PrecisionName, device: torch.device) -> Precision:
    """ "auto" is bfloat16 autocast on a GPU or processor that computes it natively, and float32 elsewhere.

    Raises: SettingsError for an unknown name, or "bfloat16" on a GPU that emulates it. A processor that does so is
    refused where work begins (see `allowed`).
    """
    name = cast(PrecisionName, arithmetic_named(name))
    if name not in ("auto", "float32", "bfloat16", "float64"):
        raise SettingsError(f"precision = {name!r}, must be 'auto', 'float32', 'bfloat16' or 'float64'")
    if name == "bfloat16" and device.type == "cuda":
        check_bfloat16(device)
    autocast = name == "bfloat16" or (name == "auto" and native_bfloat16(device))
    return Precision(torch.float64 if name == "float64" else torch.float32, autocast, device)


def allowed(name: PrecisionName, device: torch.device) -> Precision:
    """The arithmetic of work that is to begin. Raises: SettingsError also for "bfloat16" on a processor that emulates
    it, unless forced.
    """
    if name == "bfloat16":
        check_bfloat16(device)
    return precision(name, device)


def begun_in(name: PrecisionName, device: torch.device, run: object) -> Precision:
    """The arithmetic `name` in which a run was begun, in which alone it goes on.

    Raises: RunError where that is bfloat16 and is emulated here, unless forced.
    """
    if name == "bfloat16":
        try:
            check_bfloat16(
                device, f"{run} computes in bfloat16, in which it was begun", "go on with it where bfloat16 is native"
            )
        except SettingsError as error:
            raise RunError(str(error)) from None
    dtype = torch.float64 if name == "float64" else torch.float32
    return Precision(dtype, name == "bfloat16", device)


def choice(name: PrecisionName, arithmetic: Precision) -> str | None:
    """A sentence on what "auto" has come to on a processor that promises bfloat16; None where nothing was chosen."""
    if name != "auto" or arithmetic.device.type != "cpu" or not processor().bfloat16 or kept_off():
        return None
    measurement = f"which this processor ({processor()}) computes {bfloat16_gain():.1f} times as fast as float32"
    result = "bfloat16" if arithmetic.autocast else "float32, not bfloat16"
    return f"precision = auto: {result}, {measurement}"
