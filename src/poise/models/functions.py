"""Networks that functions or classes of other people's code build."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from poise.core.errors import SettingsError

CLASSES = ("num_classes", "classes", "n_classes", "nb_classes")
"""Parameters by which functions that build a network take the number of classes."""


def built_by(function: Callable[..., Any], classes: int, what: str) -> nn.Module:
    """The module that a function builds, given the number of classes if it takes it. Raises: SettingsError for anything
    else.
    """
    module = function(**_arguments(function, classes))
    if not isinstance(module, nn.Module):
        raise SettingsError(f"{what} returned {type(module).__name__}, must return a torch.nn.Module")
    return module


def _arguments(function: Callable[..., Any], classes: int) -> dict[str, int]:
    """The number of classes under the name by which the function takes it: one of `CLASSES`, else its first that must
    be given.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # built in
        return {}
    parameters_needed = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    names = [name for name in CLASSES if name in parameters] or parameters_needed[:1]
    return dict.fromkeys(names[:1], classes)
