"""Tensors too large to keep in memory for long: on a CPU they lie in a temporary file, whose pages memory gives back
when it needs to.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence

import torch
from torch import Tensor

LARGE = 1 << 28
"""Bytes from which a tensor lies in a file (in TMPDIR; deleted with the tensor). Where that has no room it lies in
memory.
"""
_PIECE = 256


def scratch(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of which nothing is known yet."""
    size = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < LARGE:
        return torch.empty(*shape, dtype=dtype, device=device)
    try:
        with tempfile.NamedTemporaryFile(prefix="poise-") as file:
            # a page that finds no room when it is written would end the process
            os.posix_fallocate(file.fileno(), 0, size)
            return torch.from_file(file.name, shared=True, size=math.prod(shape), dtype=dtype).view(*shape)
    except OSError:
        return torch.empty(*shape, dtype=dtype)


def gathered(values: Tensor, rows: Tensor | None = None) -> Tensor:
    """A copy of values [N, ...], or of their `rows`, in `scratch` where it is large."""
    count = len(values) if rows is None else len(rows)
    if values.device.type != "cpu" or count * values[:1].nbytes < LARGE:
        return values.clone() if rows is None else values[rows]
    copy = scratch((count, *values.shape[1:]), values.dtype, values.device)
    for start in range(0, count, _PIECE):
        piece = slice(start, min(start + _PIECE, count))
        copy[piece] = values[piece] if rows is None else values[rows[piece]]
    return copy
