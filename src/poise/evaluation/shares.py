"""How ranks share images that are asked about batch by batch: each takes whole batches, so that every batch, and with
it every bit of the answers, is that of one process. AutoAttack and its components have lanes and a sharing of their own
(`attacks.autoattack_ranks`).
"""

from __future__ import annotations

import json

import torch
from torch import Tensor

from poise.core.distributed import World


def share_of(world: World, count: int, batch_size: int) -> slice:
    """This rank's of `count` images; the first rank's are never fewer than another's."""
    batches = world.share(-(-count // batch_size))
    return slice(min(batches.start * batch_size, count), min(batches.stop * batch_size, count))


def whole(world: World, part: Tensor | None, rows: slice, count: int, axis: int = 0) -> Tensor:
    """What the ranks have of all `count` images along `axis`, on the CPU, on every rank; part: of this rank's `rows`,
    None of none.

    Raises: RankError.
    """
    if world.size == 1:
        assert part is not None
        return part.cpu()
    text = "" if part is None else json.dumps([str(part.dtype).removeprefix("torch."), list(part.shape)])
    dtype, shape = json.loads(world.exchange(text)[0])
    shape[axis] = count
    values = torch.zeros(shape, dtype=getattr(torch, dtype))  # zeros but for one rank's, so that the sum is that rank's
    if part is not None:
        values.narrow(axis, rows.start, rows.stop - rows.start).copy_(part)
    world.sum_([values])
    return values
