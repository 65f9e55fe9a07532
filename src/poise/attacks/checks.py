"""What attacks and verdicts ask of images, labels and a network's answers: refused in one sentence, before work is
lost.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from poise.core.answers import check_finite, check_logits, count_classes
from poise.core.errors import InputError, NotFiniteError
from poise.core.seeds import Draw

__all__ = [
    "check_draw",
    "check_finite",
    "check_found",
    "check_images",
    "check_labels",
    "check_logits",
    "check_network",
    "count_classes",
    "plain",
]

_SLACK = 1e-6  # float rounding of a user's own preprocessing, such as (x * 255 / 255)


def check_images(x: Tensor, name: str = "x") -> None:
    """Raises: InputError unless x is a non-empty floating tensor [B, ...] without NaN and inside [0, 1]."""
    if not isinstance(x, Tensor):
        raise InputError(f"{name} is {type(x).__name__}, must be a tensor [B, C, H, W] of floats in [0, 1]")
    if not x.is_floating_point():
        raise InputError(f"{name} has dtype {x.dtype}, must be floating and in [0, 1]; divide uint8 images by 255")
    if x.dim() < 2 or x.numel() == 0:
        raise InputError(f"{name} has shape {list(x.shape)}, must be [B, C, H, W] with B at least 1")
    if x.layout is not torch.strided or x.is_meta:
        reason = "no values" if x.is_meta else f"layout {x.layout}"
        raise InputError(f"{name} has {reason}, must be a dense tensor [B, C, H, W] of floats in [0, 1]")
    low, high = (float(value) for value in torch.aminmax(x.detach()))
    if low != low or high != high:
        raise InputError(f"{name} contains NaN; pixels must be in [0, 1]")
    if low < -_SLACK or high > 1 + _SLACK:
        hint = (
            "; divide by 255"
            if high > 2 and low >= 0
            else "; normalisation belongs into the model (Normalisation)"
            if low < 0
            else ""
        )
        raise InputError(f"{name} has pixels in [{low:.4g}, {high:.4g}], must be in [0, 1]{hint}")


def check_labels(y: Tensor, count: int, classes: int, name: str = "y", device: torch.device | None = None) -> None:
    """Raises: InputError unless y is int64 [count] with values in [0, classes), and where the images are."""
    if not isinstance(y, Tensor) or y.dtype != torch.int64:
        raise InputError(f"{name} has dtype {getattr(y, 'dtype', type(y).__name__)}, must be torch.int64")
    if y.shape != (count,):
        raise InputError(f"{name} has shape {list(y.shape)}, must be [{count}], one label per image")
    if y.is_meta or (device is not None and y.device != device):
        raise InputError(f"{name} is on {y.device}, must be on {device or 'a device'} as the images")
    low, high = (int(value) for value in torch.aminmax(y))
    if low < 0 or high >= classes:
        raise InputError(
            f"{name} has labels in [{low}, {high}], must be in [0, {classes - 1}] for a network with {classes} classes"
        )


def check_network(model: object) -> None:
    """Raises: InputError unless it is a module."""
    if not isinstance(model, nn.Module):
        kind = model.__name__ if isinstance(model, type) else type(model).__name__
        raise InputError(f"model is {kind}, must be a torch.nn.Module: put a function into a module's forward")


def check_draw(draw: object, count: int) -> None:
    """Raises: InputError unless it is None or a draw for so many examples."""
    if draw is None:
        return
    if not isinstance(draw, Draw):
        raise InputError(
            f"draw is {type(draw).__name__}, must be a Draw for {count} images, such as everyone(seed, count={count})"
        )
    if draw.index.shape != (count,):
        raise InputError(f"draw is for {draw.index.numel()} examples, must be for {count}, the number of images")


def plain(values: Tensor) -> Tensor:
    """The tensor detached, and a copy of one that was made under inference mode, which knows no gradients."""
    return values.clone() if values.is_inference() else values.detach()


def check_found(x_adv: Tensor) -> None:
    """Raises: NotFiniteError where an attack was led to NaN, which is no image: it neither fools the network nor
    stands.
    """
    non_finite = int((~x_adv.isfinite()).flatten(1).any(1).sum())
    if non_finite:
        raise NotFiniteError(
            f"the network's logits or gradients are NaN or infinite on the way of {non_finite} of {len(x_adv)} images,"
            " must be finite: nothing can be said of those; look for divisions by 0 and roots of 0 in the forward pass"
        )
