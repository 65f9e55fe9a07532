"""From values per example to the scalar that is minimised: k microbatches, or uneven shards, equal one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from poise.core.batches import Batch
from poise.core.distributed import World
from poise.objectives import Examples, Terms

Denominators = dict[str, Tensor | int]
"""What each weighted term is divided by; "" stands for the plain mean over the global batch."""


def denominators_of(shown: Sequence[Examples], batch: Batch, world: World) -> Denominators:
    """The sums of weights over all microbatches, and over the ranks of `world`."""
    names = sorted({name for examples in shown for name in examples.weights})
    sums = [torch.stack([examples.weights[name].sum() for examples in shown]).sum() for name in names]
    world.sum_(sums)
    positive = [total.clamp(min=torch.finfo(total.dtype).tiny) for total in sums]  # a mean of nothing is 0
    return {"": batch.total, **dict(zip(names, positive, strict=True))}


def counted(terms: Terms, examples: Examples) -> Terms:
    """The terms with zeros where an example has no weight: what is no part of its loss may be made up (RST without a
    label).
    """
    weights = examples.weights
    return {
        name: torch.where(weights[name] > 0, values, 0.0) if name in weights else values
        for name, values in terms.items()
    }


def reduced(terms: Terms, examples: Examples, denominators: Denominators) -> dict[str, Tensor]:
    """Each term's share of the loss: sum of weight * value over its denominator."""
    shares = {}
    for name, values in terms.items():
        if name in examples.weights:
            shares[name] = (examples.weights[name] * values).sum() / denominators[name]
        else:
            shares[name] = values.sum() / denominators[""]
    return shares
