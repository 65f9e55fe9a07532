"""`foolbox.models`: a network within its bounds."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from poise.core.errors import InputError, SettingsError
from poise.interop.asking import check_tensor, logits_of
from poise.models.layers import Standardise


class Bounds(NamedTuple):
    """The smallest and the largest pixel."""

    lower: float
    upper: float


class PyTorchModel:
    """A network of images within `bounds`, one number for the smallest and one for the largest pixel.

    preprocessing: {"mean": ..., "std": ..., "axis": -3}, one value per channel, in units of the bounds. The network is
    moved to `device` if one is given, and asked in evaluation mode. Raises: SettingsError for other preprocessing or
    empty bounds.
    """

    def __init__(
        self,
        model: nn.Module,
        bounds: tuple[float, float] = (0, 1),
        device: torch.device | str | None = None,
        preprocessing: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(f"model is {type(model).__name__}, must be a torch.nn.Module")
        low, high = self.bounds = _checked(bounds)
        self.model = model if device is None else model.to(device)
        self.device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        layers = OrderedDict[str, nn.Module]()
        if self.bounds != (0, 1):
            layers["unit"] = Standardise([-low / (high - low)], [1 / (high - low)])
        if preprocessing is not None:
            layers["normalise"] = _preprocessing(preprocessing)
        self.network = nn.Sequential(OrderedDict(**layers, network=model)).to(self.device)
        """The same as a function of pixels in [0, 1]."""

    def transform_bounds(self, bounds: tuple[float, float]) -> PyTorchModel:
        """The same network for images within other bounds: of the same image it says the same."""
        other = copy.copy(self)
        other.bounds = _checked(bounds)
        return other

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Tensor:
        """Logits [B, C] of images within the bounds [B, C, H, W]."""
        check_tensor(inputs, "inputs", "a tensor [B, C, H, W]")
        return logits_of(self.network, self.to_unit(inputs))

    def to_unit(self, inputs: Tensor) -> Tensor:
        """Pixels in [0, 1]."""
        low, high = self.bounds
        return inputs if self.bounds == (0, 1) else (inputs - low) / (high - low)

    def from_unit(self, x: Tensor) -> Tensor:
        """Pixels within the bounds."""
        low, high = self.bounds
        return x if self.bounds == (0, 1) else (x * (high - low) + low).clamp(low, high)


def _checked(bounds: object) -> Bounds:
    """Raises: SettingsError."""
    try:
        low, high = map(float, bounds)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        low, high = 1.0, 0.0
    if not -math.inf < low < high < math.inf:
        raise SettingsError(f"bounds = {bounds!r}, must be (smallest pixel, largest pixel)")
    return Bounds(low, high)


def _preprocessing(given: Mapping[str, Any]) -> Standardise:
    if unknown := sorted(set(given) - {"mean", "std", "axis"}):
        raise SettingsError(f"preprocessing has {unknown[0]!r}, must have nothing but mean, std and axis")
    if given.get("axis", -3) != -3:
        raise SettingsError(f"preprocessing has axis = {given['axis']}, must be -3, the channels of [B, C, H, W]")
    mean, std = (
        torch.as_tensor(given.get(name, default)).view(-1).tolist() for name, default in (("mean", 0.0), ("std", 1.0))
    )
    return Standardise(mean, std)


def accuracy(fmodel: PyTorchModel, inputs: Tensor, labels: Tensor) -> float:
    """Share of images classified correctly, in [0, 1]."""
    check_tensor(labels, "labels", "a tensor [B], one class per image")
    return float((fmodel(inputs).argmax(1) == labels.to(fmodel.device)).double().mean())


__all__ = ["Bounds", "PyTorchModel", "accuracy"]
