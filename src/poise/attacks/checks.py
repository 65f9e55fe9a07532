"""What attacks and verdicts ask of images, labels and a network's answers: refused in one sentence, before work is lost."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from poise.core.errors import InputError

_SLACK = 1e-6  # float rounding of a user's own preprocessing, such as (x * 255 / 255)


def check_images(x: Tensor, name: str = "x") -> None:
    """Raises: InputError unless x is a non-empty floating tensor [B, ...] without NaN and inside [0, 1]."""
    if not isinstance(x, Tensor):
        raise InputError(f"{name} is {type(x).__name__}, must be a tensor [B, C, H, W] of floats in [0, 1]")
    if not x.is_floating_point():
        raise InputError(f"{name} has dtype {x.dtype}, must be floating and in [0, 1]; divide uint8 images by 255")
    if x.dim() < 2 or len(x) == 0:
        raise InputError(f"{name} has shape {list(x.shape)}, must be [B, C, H, W] with B at least 1")
    low, high = (float(value) for value in torch.aminmax(x.detach()))
    if low != low or high != high:
        raise InputError(f"{name} contains NaN; pixels must be in [0, 1]")
    if low < -_SLACK or high > 1 + _SLACK:
        hint = "; divide by 255" if high > 2 and low >= 0 else "; normalisation belongs into the model (Normalisation)" if low < 0 else ""
        raise InputError(f"{name} has pixels in [{low:.4g}, {high:.4g}], must be in [0, 1]{hint}")


def check_labels(y: Tensor, count: int, classes: int, name: str = "y") -> None:
    """Raises: InputError unless y is int64 [count] with values in [0, classes)."""
    if not isinstance(y, Tensor) or y.dtype != torch.int64:
        raise InputError(f"{name} has dtype {getattr(y, 'dtype', type(y).__name__)}, must be torch.int64")
    if y.shape != (count,):
        raise InputError(f"{name} has shape {list(y.shape)}, must be [{count}], one label per image")
    low, high = (int(value) for value in torch.aminmax(y))
    if low < 0 or high >= classes:
        raise InputError(f"{name} has labels in [{low}, {high}], must be in [0, {classes - 1}] for a network with {classes} classes")


@torch.no_grad()
def count_classes(model: nn.Module, x: Tensor) -> int:
    """By the logits of images x on the model's device. Raises: InputError for bad logits, or a dtype of x that the model cannot take."""
    try:
        logits = model(x)
    except RuntimeError:
        dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
        if not dtypes or x.dtype in dtypes:
            raise
        wanted = " or ".join(sorted(map(str, dtypes)))
        raise InputError(f"x has dtype {x.dtype}, must be {wanted} as the network's weights: x.to({wanted.partition(' ')[0]})") from None
    return check_logits(logits, len(x))


def check_logits(logits: object, count: int) -> int:
    """The number of classes. Raises: InputError unless the network returned one floating tensor [count, classes] without NaN."""
    if not isinstance(logits, Tensor):
        raise InputError(f"the network returned {type(logits).__name__}, must return one tensor of logits [B, classes]")
    if logits.dim() != 2 or logits.shape[0] != count or logits.shape[1] < 2:
        raise InputError(
            f"the network returned shape {list(logits.shape)} for {count} images, must be [{count}, classes] with at least 2 classes"
        )
    if not logits.is_floating_point():
        raise InputError(f"the network returned logits of dtype {logits.dtype}, must return finite floating logits")
    check_finite(logits)
    return logits.shape[1]


def check_finite(logits: Tensor) -> None:
    """Raises: InputError for NaN or infinite logits: they are no answer, neither a wrong one nor a right one."""
    if not bool(logits.isfinite().all()):
        raise InputError("the network returned logits that are NaN or infinite, must return finite floating logits")


def check_found(x_adv: Tensor) -> None:
    """Raises: InputError where an attack was led to NaN, which is no image: it neither fools the network nor stands."""
    lost = int((~x_adv.isfinite()).flatten(1).any(1).sum())
    if lost:
        raise InputError(
            f"the network's logits or gradients are NaN or infinite on the way of {lost} of {len(x_adv)} images, must be finite: nothing "
            "can be said of those; look for divisions by 0 and roots of 0 in the forward pass"
        )
