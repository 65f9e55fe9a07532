"""Asking a network of anybody's: one check of every answer, and no image or answer that it could change afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from poise.core.errors import InputError, NetworkError, NotFiniteError, PoiseError
from poise.core.seeds import generators_kept

Network = Callable[[Tensor], Tensor]
"""Images [B, ...] -> logits [B, C]."""


def answer(model: Network, x: Tensor) -> Tensor:
    """The network's logits [B, C] on images x [B, ...]: what every forward goes through; it costs nothing and waits for
    nothing.

    Raises: NetworkError in place of whatever the network's own code raises, InputError for anything else than one
    floating tensor [B, C].
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
        return (
            f"x is on {x.device}, must be on {' or '.join(sorted(map(str, devices)))}, where the network's weights are"
        )
    if dtypes and x.dtype not in dtypes:
        allowed = " or ".join(sorted(map(str, dtypes)))
        return f"x has dtype {x.dtype}, must be {allowed} as the network's weights: x.to({allowed.partition(' ')[0]})"
    reason = str(error).strip().partition("\n")[0] or "without a word"
    if "in-place operation" in str(error):
        return f"the network changes its images in place, which cannot be differentiated: {reason}"
    return f"the network does not take images of shape {list(x.shape)}, it raised {type(error).__name__}: {reason}"


class Habits(NamedTuple):
    """What a network's forward does beside answering."""

    changes_images: bool
    reuses_answers: bool
    """Whether it keeps the memory of its answer, and may write the next one there."""


_HABITS: WeakKeyDictionary[nn.Module, Habits] = WeakKeyDictionary()


@torch.no_grad()
def count_classes(model: nn.Module, x: Tensor) -> int:
    """By the logits of images x on the model's device, which stay as they are; what the network did besides is
    remembered for `lent`.

    Raises: InputError as `answer`, or where the logits are not finite.
    """
    probe = x.clone()
    logits = answer(model, probe)
    check_finite(logits)
    _HABITS[model] = Habits(probe._version > 0 or not torch.equal(probe, x), _keeps(model, logits))
    return logits.shape[1]


def _keeps(model: nn.Module, logits: Tensor) -> bool:
    """Whether one of the network's attributes lies where its answer does."""
    place = logits.untyped_storage().data_ptr()
    for module in model.modules():
        values = [*vars(module).values(), *module._buffers.values()]
        values += [part for value in values if isinstance(value, dict | list | tuple) for part in _parts(value)]
        if any(isinstance(value, Tensor) and value.untyped_storage().data_ptr() == place for value in values):
            return True
    return False


def _parts(value: Any) -> list[object]:
    return list(value.values() if isinstance(value, dict) else value)


@contextmanager
def lent(model: nn.Module, x: Tensor) -> Iterator[None]:
    """While images [B, ...] are lent to a network that changes what it is given, it gets copies; one that keeps its
    answers gives copies.

    Of a network that does neither nothing is copied. One that was not asked yet is asked about the first image.
    """
    if model not in _HABITS:
        with generators_kept(x.device):
            count_classes(model, x[:1])
    handles = keep_apart(model)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def keep_apart(model: nn.Module) -> list[RemovableHandle]:
    """From now on copies for a network that was asked by `count_classes` and needs them (see `lent`); what ends it."""
    handles = []
    if _HABITS[model].changes_images:
        members = [
            member
            for part in model.modules()
            for member in getattr(part, "members", ())
            if isinstance(member, nn.Module)
        ]
        handles += [part.register_forward_pre_hook(_copy_images) for part in (model, *members)]
    if _HABITS[model].reuses_answers:
        handles.append(model.register_forward_hook(_copy_answer))
    return handles


def _copy_images(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in given)


def _copy_answer(module: nn.Module, given: object, logits: Tensor) -> Tensor:
    return logits.clone()


def check_shape(logits: object, count: int) -> None:
    """Raises: InputError unless a network returned one floating tensor [count, classes] of at least 2 classes."""
    if not isinstance(logits, Tensor):
        inside = _inside(logits)
        hint = f"; wrap it in a module that returns {inside}" if inside else ""
        raise InputError(
            f"the network returned {type(logits).__name__}, must return one tensor of logits [B, classes]{hint}"
        )
    if logits.dim() != 2 or logits.shape[0] != count or logits.shape[1] < 2:
        raise InputError(
            f"the network returned shape {list(logits.shape)} for {count} images, must be [{count}, classes] with at"
            " least 2 classes"
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
    """The number of classes. Raises: InputError unless the network returned one finite floating tensor [count,
    classes].
    """
    check_shape(logits, count)
    assert isinstance(logits, Tensor)
    check_finite(logits)
    return logits.shape[1]


def check_finite(logits: Tensor) -> None:
    """Raises: NotFiniteError for NaN or infinite logits: they are no answer, neither a wrong one nor a right one."""
    if not bool(logits.isfinite().all()):
        raise NotFiniteError("the network returned logits that are NaN or infinite, must return finite floating logits")
