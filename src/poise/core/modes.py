"""The modes a network can be in while examples are crafted, as context managers that restore what they found, also on
error.

mode                 batch normalisation uses     running statistics
evaluating           running statistics           untouched
frozen_statistics    the batch's statistics       untouched
training             the batch's statistics       updated by every forward
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from poise.core.errors import NetworkError

CraftMode = Literal["evaluating", "frozen_statistics", "training"]


@contextmanager
def _in_mode(model: nn.Module, training: bool) -> Iterator[nn.Module]:
    modes = [(module, module.training) for module in model.modules()]
    mode_differs = any(mode != training for _, mode in modes)
    if mode_differs and not training and not model.training:
        _say_kept_in_training(model)
    try:
        if mode_differs:
            _switched(model, training)
        yield model
    finally:
        if mode_differs:  # by train(), of which a network may do more than set flags
            _switched(model, modes[0][1])
        for module, mode in modes:
            module.training = mode


def _switched(model: nn.Module, training: bool) -> None:
    try:
        model.train(training)
    except Exception as error:
        raise NetworkError(f"the network's own train({training}) raised {type(error).__name__}: {error}") from error


def _minds(module: nn.Module) -> bool:
    """Whether it may do something else in training mode: dropout, normalisation, and what is not torch's."""
    return isinstance(module, _NormBase | _DropoutNd | nn.RReLU) or not type(module).__module__.startswith("torch.")


def _say_kept_in_training(model: nn.Module) -> None:
    """A network in evaluation mode of which parts were left in training mode on purpose, such as dropout as a
    defence.
    """
    names = [
        f"{name} ({type(module).__name__})"
        for name, module in model.named_modules()
        if module.training and _minds(module)
    ]
    if not names:
        return
    names_text = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    warnings.warn(
        f"parts of the network are in training mode, {names_text}, and it is asked in evaluation mode, in which dropout"
        " is off and running statistics are used: to have it asked as it is, give those layers that behaviour in"
        " evaluation mode",
        stacklevel=2,
    )


def evaluating(model: nn.Module) -> AbstractContextManager[nn.Module]:
    """Evaluation mode; every submodule gets back the mode it had."""
    return _in_mode(model, False)


def training(model: nn.Module) -> AbstractContextManager[nn.Module]:
    """Training mode; every submodule gets back the mode it had."""
    return _in_mode(model, True)


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[nn.Module]:
    """Training mode in which forwards normalise by the batch and leave running statistics and counters alone."""
    norms = [module for module in model.modules() if isinstance(module, _NormBase)]
    flags = [module.track_running_stats for module in norms]
    with _in_mode(model, True):
        try:
            for module in norms:
                module.track_running_stats = False
            yield model
        finally:
            for module, tracks in zip(norms, flags, strict=True):
                module.track_running_stats = tracks


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[nn.Module]:
    """No parameter asks for a gradient, so that backward passes reach the inputs only."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield model
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


MODES: dict[CraftMode, Callable[[nn.Module], AbstractContextManager[nn.Module]]] = {
    "evaluating": evaluating,
    "frozen_statistics": frozen_statistics,
    "training": training,
}


@contextmanager
def crafting(model: nn.Module, mode: CraftMode) -> Iterator[nn.Module]:
    """The given mode with frozen parameters: what an attack needs."""
    with MODES[mode](model), frozen_parameters(model):
        yield model


def over_ranks(model: nn.Module) -> bool:
    """Whether a forward in training mode is one of several ranks', which must then all do the same forwards and
    backward passes.
    """
    return any(getattr(module, "over_ranks", False) for module in model.modules())
