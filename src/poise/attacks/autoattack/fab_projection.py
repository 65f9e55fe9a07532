"""The smallest move of a point inside [0, 1]^d onto a plane (Croce & Hein 2020b, Eq. 5), in Linf, L2 and L1.

Moving coordinate i towards the plane by m_i = min(r s_i, room_i) is optimal, where room_i is its distance to the box in
that direction and s_i = 1 (Linf) or |w_i| (L2); r solves sum_i |w_i| m_i = |w.z - b|. The left side is concave and
piecewise linear in r, so Newton's method from below climbs to the root in a few steps without sorting the coordinates.
In L1 the coordinates of largest |w_i| go as far as the box lets them, one after the other (Croce & Hein 2021).
"""

from __future__ import annotations

import torch
from torch import Tensor

from poise.core.lengths import scaled, signs
from poise.threats import Threat

# on an accelerator, where asking whether all have converged would stall the queue; seldom are more than ten needed
_STEPS = 40


def onto_plane(z: Tensor, w: Tensor, b: Tensor, threat: Threat) -> Tensor:
    """The move [..., B, d] of smallest norm with w.(z + move) = b and z + move in [0, 1]; z: [..., B, d], w: [B, d],
    b: [B].

    Where the plane misses the box: the move into the corner next to it. Where w is 0: no move.
    """
    w, factor = scaled(w)  # the same plane; weights may be so small that their squares are not numbers
    gap = (z * w).sum(-1) - b * factor[:, 0]
    size = w.abs()
    # the direction of each coordinate that closes the gap; by products, as choosing number by number is slow on CPUs
    towards = signs(w) * torch.where(gap < 0, 1.0, -1.0).to(w.dtype)[..., None]
    room = z * -towards
    room = room.add_(towards.clamp(min=0))
    if threat.order == 1:
        return towards * _greedy(size.expand_as(room), room, gap.abs())
    slope = size if threat.order == 2 else None
    length = _root(size, slope, room, gap.abs())[..., None]
    if slope is None:
        return torch.minimum(length, room).mul_(towards)
    return torch.where(length.isinf(), room, torch.minimum(length * slope, room)).mul_(towards)


def _greedy(size: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    """How far each coordinate goes [..., d]: the largest sizes first, all as far as they can but the last."""
    sizes, order = size.sort(dim=-1, descending=True, stable=True)
    closes = sizes * room.gather(-1, order)
    rest = (gap[..., None] - (closes.cumsum(-1) - closes)).clamp(min=0)
    move = torch.where(sizes > 0, torch.minimum(rest, closes) / sizes, torch.zeros_like(sizes))
    return torch.zeros_like(room).scatter(-1, order, move)


def _root(size: Tensor, slope: Tensor | None, room: Tensor, gap: Tensor) -> Tensor:
    """r [..., B] with sum_i size_i min(r slope_i, room_i) = gap, or infinity where there is none; no slope is 1.

    size, slope: [B, d]; room: [..., B, d], 0 where the size is. A row that has converged reproduces itself exactly, so
    it does not matter how long the others take.
    """
    rate, volume = size if slope is None else size * slope, size * room
    reach = room if slope is None else room / slope  # 0 / 0 is reached by any r, as it should
    # NaN equals nothing, itself neither: one row would keep the whole batch from converging
    r = _or_infinity(gap / rate.sum(-1))
    for _ in range(_STEPS if size.device.type != "cpu" else size.shape[1] + 1):
        shut = torch.logical_not(reach > r[..., None]).to(rate.dtype)
        total = (volume * shut).sum(-1)
        free = torch.addcmul(rate, rate, shut, value=-1).sum(-1)  # of each coordinate its rate or 0, exactly
        following = torch.where(free > 0, _or_infinity((gap - total) / free), torch.inf)
        following = torch.maximum(following, r)
        if size.device.type == "cpu" and torch.equal(following, r):
            break
        r = following
    return r


def _or_infinity(r: Tensor) -> Tensor:
    """r [B] with infinity for NaN, which 0 / 0 gives in a row of zero weights."""
    return torch.where(r.isnan(), torch.full_like(r, torch.inf), r)
