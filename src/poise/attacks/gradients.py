"""The gradient that an attack follows: that of a loss with respect to the images, and of nothing else.

A network of half precision is asked in its own type; the attack is made in float32 (see `asked`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from poise.core.answers import Network, answer
from poise.core.errors import InputError, NetworkError
from poise.core.lengths import scaled, wide
from poise.threats import spread


def image_gradient(values: Tensor, z: Tensor, *, retain: bool = False) -> Tensor:
    """d sum(values) / d z, like z; `retain` keeps the graph for another one.

    Raises: InputError where `values` [B] do not depend on z in torch's eyes; NetworkError where the backward pass
    fails.
    """
    try:
        gradient = (
            torch.autograd.grad(values.sum(), z, retain_graph=retain, allow_unused=True)[0]
            if values.requires_grad
            else None
        )
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise NetworkError(f"the network's backward pass fails: {str(error).partition(chr(10))[0]}") from error
    if gradient is None:
        raise InputError(
            "the network has no gradient with respect to its images: its forward pass detaches them, runs under no_grad"
            " or leaves torch, so attacks by gradients say nothing about it; ask `poise sanity`, and attack with `poise"
            " evaluate --protocol soe-blackbox`, which looks at logits only (and --first N where there are fewer than"
            " 1,000 images)"
        )
    return gradient


def asked(model: Network, x: Tensor) -> Network:
    """The network as an attack in float32 at least asks it about images of the type of x: it is shown those, rounded
    where that is half.

    On its way back through half precision a gradient is brought near 1, so that small ones are not rounded to 0 nor
    large ones to infinity; where it comes out it has its size again.
    """
    if wide(x.dtype) is x.dtype:
        return lambda z: answer(model, z)

    def rounded(z: Tensor) -> Tensor:
        leaf_view, factors = z.view_as(z), dict[str, Tensor]()
        logits = answer(model, leaf_view.to(x.dtype)).to(z.dtype)
        if logits.requires_grad and leaf_view.requires_grad:

            def near_one(gradient: Tensor) -> Tensor:
                near, factors["factor"] = scaled(gradient)
                return near

            logits.register_hook(near_one)
            leaf_view.register_hook(lambda gradient: gradient / spread(factors["factor"][:, 0], gradient))
        return logits

    return rounded


def heard(logits: Tensor) -> Tensor:
    """The logits in float32 at least, for scores whose gradient's direction alone is followed: it is brought near 1
    (see `asked`).
    """
    if wide(logits.dtype) is logits.dtype:
        return logits
    logits = logits.to(wide(logits.dtype))
    if logits.requires_grad:
        logits.register_hook(lambda gradient: scaled(gradient)[0])
    return logits
