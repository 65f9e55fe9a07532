"""The test images that papers chose by number."""

from __future__ import annotations

import random

import torch

from poise.core.errors import InputError
from poise.data.dataset import Split

WHOLE = 10_000
"""How many test images the published subset is drawn from."""


def published_ids(count: int = 1000) -> list[int]:
    """Numbers of the CIFAR-10 test images that DVERGE and Synergy-of-Experts evaluate on, by Python's generator of seed
    0.
    """
    return random.Random(0).sample(range(WHOLE), count)


def published_subset(split: Split, count: int = 1000) -> Split:
    """The images of `published_ids`, in their order, whether or not a network is right on them.

    Raises: InputError for a split of another length than 10,000.
    """
    if len(split) != WHOLE:
        raise InputError(f"the published subset is one of {WHOLE:,} test images; the split has {len(split)}")
    return split.subset(torch.tensor(published_ids(count)))
