"""What a caller may have switched on around Poise: autocast, inference mode, another default device or type of
numbers. Verbs compute as if nothing were; the caller's switches are as they were afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def plainly(*, autocast: bool = False) -> Iterator[None]:
    """Gradients can be taken, numbers are float32 on the CPU unless something says otherwise, and nothing is autocast
    but by `autocast`, which leaves the caller's. What is not switched costs nothing.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if (dtype := torch.get_default_dtype()) != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        on = [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
        if on and not autocast:
            # weights that were cast are kept until the outermost autocast ends, also where they have changed since
            stack.callback(torch.set_autocast_cache_enabled, torch.is_autocast_cache_enabled())
            torch.set_autocast_cache_enabled(False)
            for device in on:
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def computed_plainly(verb: Callable[P, R]) -> Callable[P, R]:
    """The function, which computes by `plainly`."""

    @wraps(verb)
    def wrapped(*arguments: P.args, **more: P.kwargs) -> R:
        with plainly():
            return verb(*arguments, **more)

    return wrapped
