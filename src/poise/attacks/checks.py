"""What attacks and verdicts ask of images, labels and a network's answers: refused in one sentence, before work is lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from poise.core.errors import InputError, NetworkError, NotFiniteError, PoiseError

Network = Callable[[Tensor], Tensor]
"""Images [B, ...] -> logits [B, C]."""

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


def answer(model: Network, x: Tensor) -> Tensor:
    """The network's logits [B, C] on images x [B, ...]; what every forward goes through, at no cost.

    Raises: NetworkError in place of whatever the network's own code raises, InputError for anything else than one floating tensor [B, C].
    """
    try:
        logits = model(x)
    except (PoiseError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise NetworkError(_refused(model, x, error)) from error
    check_shape(logits, len(x))
    return logits


def _refused(model: Network, x: Tensor, error: Exception) -> str:
    """Why the network did not take images, in a sentence."""
    weights = list(model.parameters()) if isinstance(model, nn.Module) else []
    dtypes = {weight.dtype for weight in weights if weight.is_floating_point()}
    devices = {weight.device for weight in weights}
    if devices and x.device not in devices:
        return f"x is on {x.device}, must be on {' or '.join(sorted(map(str, devices)))}, where the network's weights are"
    if dtypes and x.dtype not in dtypes:
        wanted = " or ".join(sorted(map(str, dtypes)))
        return f"x has dtype {x.dtype}, must be {wanted} as the network's weights: x.to({wanted.partition(' ')[0]})"
    reason = str(error).strip().partition("\n")[0] or "without a word"
    if "in-place operation" in str(error):
        return f"the network changes its images in place, which cannot be differentiated: {reason}"
    return f"the network does not take images of shape {list(x.shape)}, it raised {type(error).__name__}: {reason}"


@torch.no_grad()
def count_classes(model: nn.Module, x: Tensor) -> int:
    """By the logits of images x on the model's device. Raises: InputError as `answer`, or where they are not finite."""
    logits = answer(model, x)
    check_finite(logits)
    return logits.shape[1]


def check_shape(logits: object, count: int) -> None:
    """Raises: InputError unless a network returned one floating tensor [count, classes] of at least 2 classes."""
    if not isinstance(logits, Tensor):
        inside = _inside(logits)
        hint = f"; wrap it in a module that returns {inside}" if inside else ""
        raise InputError(f"the network returned {type(logits).__name__}, must return one tensor of logits [B, classes]{hint}")
    if logits.dim() != 2 or logits.shape[0] != count or logits.shape[1] < 2:
        raise InputError(
            f"the network returned shape {list(logits.shape)} for {count} images, must be [{count}, classes] with at least 2 classes"
        )
    if not logits.is_floating_point():
        raise InputError(f"the network returned logits of dtype {logits.dtype}, must return finite floating logits")


def _inside(output: object) -> str:
    """Where in an output the logits probably are."""
    if isinstance(output, Mapping):
        return 'its "logits"' if "logits" in output else "one of its entries"
    if hasattr(output, "logits"):
        return "its logits"
    return "its first entry" if isinstance(output, list | tuple) and output and isinstance(output[0], Tensor) else ""


def check_logits(logits: object, count: int) -> int:
    """The number of classes. Raises: InputError unless the network returned one finite floating tensor [count, classes]."""
    check_shape(logits, count)
    assert isinstance(logits, Tensor)
    check_finite(logits)
    return logits.shape[1]


def check_finite(logits: Tensor) -> None:
    """Raises: NotFiniteError for NaN or infinite logits: they are no answer, neither a wrong one nor a right one."""
    if not bool(logits.isfinite().all()):
        raise NotFiniteError("the network returned logits that are NaN or infinite, must return finite floating logits")


def check_found(x_adv: Tensor) -> None:
    """Raises: NotFiniteError where an attack was led to NaN, which is no image: it neither fools the network nor stands."""
    lost = int((~x_adv.isfinite()).flatten(1).any(1).sum())
    if lost:
        raise NotFiniteError(
            f"the network's logits or gradients are NaN or infinite on the way of {lost} of {len(x_adv)} images, must be finite: nothing "
            "can be said of those; look for divisions by 0 and roots of 0 in the forward pass"
        )
