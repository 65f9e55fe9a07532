"""What an attack is: `attack(model, x, y) -> x_adv`. The model comes back as it was, also when the attack raises."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from poise.core.errors import InputError
from poise.core.modes import crafting
from poise.core.papers import Paper
from poise.core.seeds import Draw, everyone
from poise.core.settings import Settings, tag_of
from poise.threats import Threat

_SLACK = 1e-6  # float rounding of a user's own preprocessing, such as (x * 255 / 255)


class Attack(Settings, family="attack"):
    """Searches, within a threat, for images that the model misclassifies."""

    paper: ClassVar[Paper]
    threat: Threat

    @property
    def name(self) -> str:
        """Short name for tables, such as PGD-20."""
        return tag_of(self)

    def check(self, model: nn.Module) -> None:
        """Raises: InputError for a network that the attack is not for; asked before any work."""

    def facts(self, model: nn.Module) -> dict[str, Any]:
        """What a record's notes say of the attack on this network beyond its settings."""
        return {}

    @abstractmethod
    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None = None) -> Tensor:
        """The attack itself; the model is in evaluation mode with frozen parameters, the inputs have been checked."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, target: Tensor | None = None, draw: Draw | None = None) -> Tensor:
        """Adversarial images [B, C, H, W] for images x [B, C, H, W] in [0, 1] with labels y [B].

        target: classes to be reached [B], for attacks that can be targeted; draw: the source of random numbers, by default
        keyed by each example's place in the batch.
        Raises: InputError for images, labels or logits of a wrong shape, type or range, or a network that the attack is not for.
        """
        self.check(model)
        check_images(x)
        with crafting(model, "evaluating"):
            classes = count_classes(model, x[:1])
            check_labels(y, len(x), classes)
            if target is not None:
                check_labels(target, len(x), classes, "target")
            if draw is None:
                draw = everyone(0, "attack", count=len(x), device=x.device)
            return self.perturb(model, x, y, draw, target).detach()


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
    if not logits.is_floating_point() or not bool(logits.isfinite().all()):
        what = "logits that are NaN or infinite" if logits.is_floating_point() else f"logits of dtype {logits.dtype}"
        raise InputError(f"the network returned {what}, must return finite floating logits")
    return logits.shape[1]
