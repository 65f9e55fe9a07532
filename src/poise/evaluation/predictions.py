"""Labels that a network predicts on a split, natural or under an attack."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from poise.attacks.attack import Attack
from poise.attacks.autoattack import AutoAttack
from poise.attacks.autoattack.compact import CompactAttack
from poise.attacks.checks import check_labels, check_logits
from poise.core.answers import answer, count_classes, lent
from poise.core.distributed import ALONE, World
from poise.core.errors import InputError
from poise.core.exact import exact
from poise.core.modes import crafting, evaluating
from poise.core.seeds import Draw, key_of
from poise.data.dataset import Data, Split
from poise.evaluation.shares import share_of, whole

Advance = Callable[[int], None]
"""Called with the number of examples just finished."""


def device_of(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where the network is and what it computes in; CPU and float32 for one without weights."""
    first = next((tensor for tensor in model.state_dict().values() if tensor.is_floating_point()), torch.empty(0))
    return first.device, first.dtype


def _batches(model: nn.Module, split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    device, dtype = device_of(model)
    for start in range(0, len(split), batch_size):
        rows = torch.arange(start, min(start + batch_size, len(split)), device=split.labels.device)
        yield split.pixels(rows, dtype).to(device), split.labels[rows].to(device), split.ids[rows].to(device)


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor, batch_size: int = 256) -> Tensor:
    """Logits [N, C] of images [N, ...] in [0, 1], in evaluating mode and exact arithmetic, on the model's device."""
    device, dtype = device_of(model)
    with crafting(model, "evaluating"), exact(device), lent(model, images[:1].to(device, dtype)):
        return torch.cat([answer(model, part.to(device, dtype)) for part in images.split(batch_size)])


def check_answers(model: nn.Module, data: Data) -> int:
    """Ask the network about one black image of these data; the number of its logits.

    Raises: InputError where it does not take it, or does not answer with one logit for each class. Where classes have
    names, as many logits
    as classes are needed: nothing says which of more belong to them; labels of classes called 0, 1, 2, ... are the
    logits' own numbers.
    """
    device, dtype = device_of(model)
    with crafting(model, "evaluating"), exact(device):
        outputs = count_classes(model, torch.zeros(1, *data.shape, dtype=dtype, device=device))
    classes = len(data.classes)
    unnamed = list(data.classes) == [str(number) for number in range(classes)]
    if outputs < classes:
        raise InputError(
            f"{data.name} has labels in [0, {classes - 1}], must be in [0, {outputs - 1}] for a network of {outputs}"
            " logits"
        )
    if outputs > classes and not unnamed:
        names_text = ", ".join(data.classes[:3]) + (", ..." if classes > 3 else "")
        raise InputError(
            f"the network returned {outputs} logits for the {classes} classes of {data.name} ({names_text}), must"
            " return one for each, in order"
        )
    return outputs


@torch.no_grad()
def predict(model: nn.Module, split: Split, batch_size: int = 256, world: World = ALONE) -> Tensor:
    """Predicted labels on the natural images [N], int64, on the CPU; the ranks of `world`, which all call this, share
    the work.

    Raises: InputError for a network of the wrong shape, RankError.
    """
    predictions, rows = [], share_of(world, len(split), batch_size)
    with evaluating(model), exact(device_of(model)[0]):
        for x, y, _ in _batches(model, split.subset(rows), batch_size):
            logits = answer(model, x)
            classes = check_logits(logits, len(y))
            if not predictions:
                check_labels(split.labels, len(split), classes, "the data set")
            predictions.append(logits.argmax(1))
    return whole(world, torch.cat(predictions) if predictions else None, rows, len(split))


def attacked(
    model: nn.Module,
    split: Split,
    attack: Attack,
    *,
    seed: int = 0,
    batch_size: int = 256,
    advance: Advance | None = None,
    narrow: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batch by batch, the images that `attack` makes [B, C, H, W] and the labels predicted on them [B], int64.

    Draws are keyed by (seed, attack, number of the example in its data set), so neither batch size nor order matters.
    narrow: an attack that keeps no state in lanes searches in bfloat16 (autocast); predictions are the network's own
    either way.
    Raises: InputError for a network that returns no finite logits.
    """
    narrow = narrow and not isinstance(attack, CompactAttack | AutoAttack)
    for x, y, ids in _batches(model, split, batch_size):
        with crafting(model, "evaluating"), lent(model, x):
            with torch.autocast(x.device.type, torch.bfloat16) if narrow else nullcontext():
                x_adv = attack.crafted(model, x, y, Draw(key_of(seed, "evaluate", attack.name), ids))
            with torch.no_grad(), exact(x_adv.device):
                logits = answer(model, x_adv)
        check_logits(logits, len(y))
        yield x_adv, logits.argmax(1)
        if advance is not None:
            advance(len(y))


def predict_under(model: nn.Module, split: Split, attack: Attack, **how: Any) -> Tensor:
    """Predicted labels on the images that `attack` makes [N], int64, on the CPU; how: see `attacked`."""
    batches = attacked(model, split, attack, **how)
    return torch.cat([predictions for _, predictions in batches]).cpu()


def accuracy(predicted: Tensor, split: Split) -> float:
    """Share of right labels, in [0, 1]."""
    return float((predicted == split.labels.cpu()).double().mean())
