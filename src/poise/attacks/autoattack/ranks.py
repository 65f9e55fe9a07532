"""What the ranks of one AutoAttack tell each other. They meet where an attack begins and at the end, and nowhere else.

Each rank attacks a contiguous share of the examples. Images then depend on nothing but the number of lanes, and that
follows from the examples of all ranks; so any number of ranks finds the images that one finds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from poise.core.distributed import RankError, World
from poise.core.errors import InputError, RunError

_CHUNK = 1 << 26  # bytes of images that are exchanged at once


class Ranks:
    """The ranks of a run; alone, nothing is sent. `meetings`: how often at most they ask `total`."""

    def __init__(self, world: World, meetings: int) -> None:
        self.world = world
        self._totals = torch.full((meetings,), -1, dtype=torch.int64)

    @contextmanager
    def _meeting(self) -> Iterator[None]:
        try:
            yield
        except RankError as error:
            hint = "what was saved at state_path is whole, and the same number of ranks goes on from it"
            raise RankError(error.reason, hint) from None

    def told(self, text: str) -> list[str]:
        """Every rank's text, in the order of ranks. Raises: RankError."""
        with self._meeting():
            return self.world.exchange(text)

    def check_alike(self, fingerprint: str) -> None:
        """Raises: InputError on every rank unless all were given the same network, images and settings."""
        strangers = [rank for rank, text in enumerate(self.told(fingerprint)) if text != fingerprint]
        if strangers:
            raise InputError(
                f"rank {strangers[0]} was given another network, other images, labels or settings than rank"
                f" {self.world.rank}"
            )

    def agree(self, problem: RunError | None) -> None:
        """Raises: the problem on the rank that has it, RunError with its sentence on the others."""
        problems = [text for text in self.told("" if problem is None else str(problem)) if text]
        if problem is not None:
            raise problem
        if problems:
            raise RunError(problems[0])

    def least(self, own: int) -> int:
        """The smallest of the ranks' numbers."""
        return min(int(text) for text in self.told(str(own)))

    def total(self, meeting: int, own: int) -> int:
        """The sum of `own` over the ranks. One that was stopped and lags behind is told what the others know from their
        first meeting.
        """
        if self.world.size == 1:
            return own
        if self._totals[meeting] < 0:
            self._totals[meeting] = sum(int(text) for text in self.told(str(own)))
        return int(self._totals[meeting])

    def known(self, meeting: int, own: int) -> int:
        """The total of a meeting that is over; alone, `own`."""
        return own if self.world.size == 1 else int(self._totals[meeting])

    def snapshot(self) -> dict[str, Tensor]:
        return {} if self.world.size == 1 else {"totals": self._totals}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Know what was known at the snapshot; followed by `recall` on every rank, restored or not."""
        self._totals = saved.get("totals", self._totals).clone()

    def recall(self) -> None:
        """Every rank learns the totals that any rank knows."""
        totals = [json.loads(text) for text in self.told(json.dumps(self._totals.tolist()))]
        self._totals = torch.tensor(totals).amax(0)

    def whole(self, share: Tensor, count: int) -> Tensor:
        """The int64 values of all `count` examples, on the CPU, from those of each rank's share."""
        values = torch.zeros(count, dtype=torch.int64)
        values[self.world.share(count)] = share.cpu()
        with self._meeting():
            self.world.sum_([values])
        return values

    def joined(self, log: Tensor) -> Tensor:
        """The log of the whole run: survivors and steps added up, seconds and lanes of the rank that has most (see
        `Job.log`).
        """
        logs = torch.tensor([json.loads(text) for text in self.told(json.dumps(log.tolist()))], dtype=torch.float64)
        return torch.stack(
            [logs[..., i].sum(0) if i in (0, 3, 4) else logs[..., i].amax(0) for i in range(log.shape[1])], 1
        )

    def images(self, x: Tensor, share: Tensor, rows: Tensor) -> Tensor:
        """Images x [N, ...] on the CPU in which `rows` are replaced by those of the ranks' shares, bit for bit."""
        if self.world.size == 1:
            return share.cpu()
        part = self.world.share(len(x))
        x_adv, share = x.detach().cpu().clone(), share.cpu()
        size = x[0].numel() * x.element_size()
        for chunk in rows.split(max(1, _CHUNK // size)):
            # bytes, of which one rank at most has other than zeros
            data = torch.zeros(len(chunk), size, dtype=torch.uint8)
            in_part = (chunk >= part.start) & (chunk < part.stop)
            data[in_part] = share[chunk[in_part] - part.start].contiguous().view(-1).view(torch.uint8).view(-1, size)
            with self._meeting():
                self.world.sum_([data])
            x_adv[chunk] = data.view(-1).view(x.dtype).view(len(chunk), *x.shape[1:])
        return x_adv
