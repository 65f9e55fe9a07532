"""What the adapters share: a network's answers by one check, and errors under the names of the caller's own class and
arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from poise.core.answers import answer, check_finite, lent
from poise.core.errors import InputError, SettingsError
from poise.core.modes import evaluating
from poise.core.settings import whole


@torch.no_grad()
def logits_of(network: nn.Module, x: Tensor, batch_size: int | None = None) -> Tensor:
    """Logits [N, C] of images x [N, C, H, W] in evaluation mode. Raises: InputError for a network that returns anything
    else.
    """
    with evaluating(network), lent(network, x):
        logits = torch.cat([answer(network, part) for part in x.split(batch_size or len(x))])
    check_finite(logits)
    return logits


def predicted(network: nn.Module, x: Tensor, batch_size: int | None = None) -> Tensor:
    """Predicted labels [N]; see `logits_of`."""
    return logits_of(network, x, batch_size).argmax(1)


def check_size(size: object, name: str) -> None:
    """Raises: InputError unless it is a whole number from 1."""
    if not whole(size) or size < 1:
        raise InputError(f"{name} = {size!r}, must be at least 1{'' if whole(size) else ' and a whole number'}")


def check_tensor(values: object, name: str, what: str) -> None:
    """Raises: InputError for an array, a list or nothing in place of a tensor."""
    if not isinstance(values, Tensor):
        raise InputError(f"{name} is {type(values).__name__}, must be {what}")


@contextmanager
def own_names(owner: object, names: Mapping[str, str]) -> Iterator[None]:
    """Errors about settings, or about arguments of Poise's attacks, name the caller's class and what it calls them.

    owner: the caller's object, whose attributes say the values; names: Poise's name -> the caller's.
    """
    kind = type(owner).__name__
    try:
        yield
    except SettingsError as error:
        match = re.match(r"(\w+)\.(\w+) = (.*?): (.*)", str(error), re.DOTALL)
        if match is None:
            raise
        name = names.get(match[2], match[2])
        value = repr(getattr(owner, name)) if hasattr(owner, name) else match[3]
        raise SettingsError(f"{kind}.{name} = {value}: {match[4]}") from None
    except InputError as error:
        first, space, rest = str(error).partition(" ")
        if first not in names or not space:
            raise
        raise type(error)(f"{kind}: {names[first]} {rest}") from error
