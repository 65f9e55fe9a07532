"""The arithmetic in which verdicts are taken: the numbers' own precision, whatever is allowed elsewhere for speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp64": "float64"}


def arithmetic_named(value: object) -> object:
    """The full name of an arithmetic where `value` is a short one, else `value`."""
    return SHORT.get(value, value) if isinstance(value, str) else value


def widened(values: Tensor) -> Tensor:
    """The values in float32 at least: what autocast made in bfloat16 is added up, and its logarithms are taken, in 24
    bits.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """No autocast, and on GPUs no TF32: float32 products keep 24 bits, in convolutions too (torch allows them 11 by
    default).
    """
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda":
            yield
            return
        switches = [(place, name, getattr(place, name)) for place, name in _switches()]
        try:
            for place, name, _ in switches:
                setattr(place, name, "ieee" if name == "fp32_precision" else False)
            yield
        finally:
            for place, name, value in switches:
                setattr(place, name, value)


def _switches() -> list[tuple[Any, str]]:
    """Where this version of torch keeps them: since 2.9 by operation, and mixing both ways is an error there."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    parts = [matmul, getattr(cudnn, "conv", None), getattr(cudnn, "rnn", None)]
    if all(hasattr(part, "fp32_precision") for part in parts):
        return [(part, "fp32_precision") for part in parts]
    return [(matmul, "allow_tf32"), (cudnn, "allow_tf32")]
