"""Lengths and directions of vectors of any size, also of such whose squares leave the range of the numbers.

They are first scaled by a power of two, which is exact: the digits are those of the plain formula wherever that one has
any.
"""

from __future__ import annotations

import torch
from torch import Tensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """float32 at least: in it images of half precision are drawn, moved and measured, so that small steps are not
    rounded away.
    """
    return torch.promote_types(dtype, torch.float32)


def scaled(v: Tensor, dim: int | tuple[int, ...] = -1) -> tuple[Tensor, Tensor]:
    """v times a power of two that brings the largest entry along `dim` to [1/2, 1), and that factor with `dim` kept as
    1; 0 stays 0.
    """
    v = v.to(wide(v.dtype))
    largest = v.detach().abs().amax(dim, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny)
    factor = torch.frexp(largest).mantissa / largest
    return v * factor, factor


def unit(v: Tensor) -> Tensor:
    """v [..., D] over its Euclidean length along the last axis; 0 where v is 0."""
    near, _ = scaled(v)
    somewhere = (near != 0).any(-1, keepdim=True)  # a norm has no derivative at 0
    return near / torch.where(somewhere, near, torch.ones_like(near)).norm(dim=-1, keepdim=True)


def signs(v: Tensor) -> Tensor:
    """-1, 0 or 1 of each entry, and NaN of NaN, which torch's sign takes for 0 as if there were nothing to follow."""
    here = v.device.type == "cpu" and not torch.compiler.is_compiling()
    if here and not bool(v.detach().sum().isnan()):  # one pass that nobody waits for, where choosing takes many
        return v.sign()
    return torch.where(v.isnan(), v, v.sign())


def above_zero(length: Tensor) -> Tensor:
    """The length, or 1 where it is 0: what may be divided by it is 0 there too."""
    return torch.where(length == 0, torch.ones_like(length), length)
