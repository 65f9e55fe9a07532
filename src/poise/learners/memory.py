"""What a learner remembers of each image, or of each place in the batch, from one time that it is shown to the next.

Of images it is kept in half precision (float64 where the run is), in the image's own frame: a random crop or mirror
image is undone when something is kept and done again when it is recalled, so that a pixel finds its own past. Nothing
is drawn, and a row has one writer, so resuming, microbatches and ranks change no bit.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from poise.core.batches import Batch
from poise.core.distributed import World

Rows = Literal["images", "places"]


class Memory:
    """A table [rows, K, H, W]; `rows`: by the images' numbers, or by places in the global batch."""

    def __init__(self, rows: Rows, count: int, shape: tuple[int, ...], like: Tensor) -> None:
        self.rows = rows
        narrow = rows == "images" and like.dtype is not torch.float64
        dtype = torch.float16 if narrow else like.dtype
        self.table = torch.zeros(count, *shape, dtype=dtype, device=like.device)
        self._written = torch.zeros(count, dtype=torch.bool, device=like.device)
        """Rows that this rank has written since `agree`."""

    def _index(self, batch: Batch) -> Tensor:
        return batch.ids if self.rows == "images" else batch.places

    def recall(self, batch: Batch) -> Tensor:
        """What was kept for these examples [B, K, H, W], in the frame in which they are shown; 0 where nothing was."""
        rows = self.table[self._index(batch)].to(batch.x.dtype)
        if batch.origin is None or self.rows == "places":
            return rows
        # row 0 of a frame is what lies outside the image
        flat = F.pad(rows.flatten(2), (1, 0))
        origin = batch.origin.flatten(1)[:, None].expand(-1, flat.shape[1], -1)
        return flat.gather(2, origin).view_as(rows)

    @torch.no_grad()
    def keep(self, batch: Batch, values: Tensor) -> None:
        """Keep values [B, K, H, W], found in the frame in which the examples are shown; pixels not shown stay."""
        index, values = self._index(batch), values.to(self.table.dtype)
        if batch.origin is not None and self.rows == "images":
            flat = F.pad(self.table[index].flatten(2), (1, 0))
            origin = batch.origin.flatten(1)[:, None].expand(-1, flat.shape[1], -1)
            values = flat.scatter(2, origin, values.flatten(2))[:, :, 1:].reshape(values.shape)
        self.table[index] = values.contiguous()
        self._written[index] = True

    @torch.no_grad()
    def agree(self, world: World) -> None:
        """Give every rank what the others have written since the last time; all of them call this together."""
        if world.size > 1:
            is_mine = self._written.view(-1, *[1] * (self.table.dim() - 1))
            theirs, is_written = torch.where(is_mine, self.table, 0).float(), self._written.float()
            world.sum_([theirs, is_written])
            new = (is_written > 0).view_as(is_mine)
            self.table = torch.where(new, theirs.to(self.table.dtype), self.table)
        self._written.zero_()
