"""The processes ("ranks") that train together. Alone, every collective does nothing, so there is one code path.

Gradients and weights are summed by `World.sum_` and by nothing else. A rank that ends or no longer answers ends the
others with one
sentence (`RankError`): at once where its connection breaks, after `TIMEOUT` where it hangs.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from poise.core.errors import PoiseError, SettingsError

T = TypeVar("T")
TIMEOUT = timedelta(days=1)
"""How long a rank waits for the others; longer than an epoch, which may take hours on CPUs and after which alone
learners that are placed apart meet. A rank that dies breaks its connection, which ends the wait at once."""
ANSWERS = timedelta(seconds=10)
"""How long a rank that ends tries to learn whether another has said why."""


class RankError(PoiseError, RuntimeError):
    """Another rank ended, no longer answers, or refused its part. hint: how to go on, for those who know."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(f"{reason}; {hint}" if hint else reason)
        self.reason = reason


class RefusedError(RankError):
    """The first rank refused its part, and says so itself."""


@dataclass(frozen=True)
class World:
    """`size` ranks, of which this process is number `rank`; `group` is a torch.distributed process group, None for all
    ranks.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    @property
    def leads(self) -> bool:
        """Whether this rank writes files and speaks."""
        return self.rank == 0

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over the ranks, in place: one collective for all tensors of a dtype. Raises: RankError."""
        if self.size == 1 or not tensors:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            alike = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in alike])
            with self._together():
                dist.all_reduce(flat, group=self.group)
            for tensor, part in zip(alike, flat.split([tensor.numel() for tensor in alike]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def exchange(self, text: str) -> list[str]:
        """Every rank's short text, in the order of ranks, on every rank. Raises: RankError."""
        if self.size == 1:
            return [text]
        data = _bytes(text.encode())
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with self._together():
            dist.all_gather(lengths, torch.tensor([len(data)]), group=self.group)
            longest = max(int(length) for length in lengths)
            parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
            dist.all_gather(parts, torch.cat([data, data.new_zeros(longest - len(data))]), group=self.group)
        return [bytes(part[: int(length)].numpy()).decode() for part, length in zip(parts, lengths, strict=True)]

    def gather(self, data: bytes) -> list[bytes]:
        """Every rank's bytes, in the order of ranks, on the first rank; an empty list on the others. Raises:
        RankError.
        """
        if self.size == 1:
            return [data]
        lengths = [int(length) for length in self.exchange(str(len(data)))]
        with self._together():
            if not self.leads:
                if data:
                    dist.send(_bytes(data), group=self.group, group_dst=0)
                return []
            parts = [data]
            for rank, length in enumerate(lengths[1:], start=1):
                part = torch.empty(length, dtype=torch.uint8)
                if length:
                    dist.recv(part, group=self.group, group_src=rank)
                parts.append(bytes(part.numpy()))
        return parts

    def decided(self, answer: bool) -> bool:
        """The first rank's answer, on every rank: of a file that it may be writing, the others are not to judge.
        Raises: RankError.
        """
        return self.exchange("yes" if answer else "no")[0] == "yes"

    def led(self, work: Callable[[], T]) -> T | None:
        """The first rank does the work while the others wait; its result, None on the others.

        Raises: what the work raises on the first rank, RefusedError with that sentence on the others.
        """
        if self.size == 1:
            return work()
        result, problem = None, None
        if self.leads:
            try:
                result = work()
            except PoiseError as error:
                problem = error
        sentence = self.exchange(str(problem) if problem is not None else "")[0]
        if problem is not None:
            raise problem
        if sentence:
            raise RefusedError(f"the first rank refused: {sentence}")
        return result

    def in_turn(self, work: Callable[[], T]) -> T:
        """Every rank does the work, the first one before all others: what it downloads or unpacks is there for them."""
        result = self.led(work)
        return work() if not self.leads or result is None else result

    def part(self, ranks: Sequence[int]) -> World | None:
        """The world of these ranks of this one, None on a rank that is not among them. All ranks call this together."""
        if list(ranks) == list(range(self.size)):
            return self
        group = dist.new_group(list(ranks), timeout=TIMEOUT) if len(ranks) > 1 else None
        return World(list(ranks).index(self.rank), len(ranks), group) if self.rank in ranks else None

    def share(self, count: int) -> slice:
        """The contiguous part of `count` examples that this rank holds; parts differ by at most one."""
        small, larger = divmod(count, self.size)
        start = self.rank * small + min(self.rank, larger)
        return slice(start, start + small + (self.rank < larger))

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            speaker = (
                f"rank {dist.get_rank()} of {dist.get_world_size()}"  # of the job, of which this world may be a part
            )
            raise RankError(
                f"{speaker} waited in vain: another rank ended or does not answer{clause(str(error))}"
            ) from None


ALONE = World()
_MEETING = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


@contextlib.contextmanager
def going_on(hint: str) -> Iterator[None]:
    """Say how to go on where another rank ends; whoever knows the whole command has the last word."""
    try:
        yield
    except RefusedError:
        raise
    except RankError as error:
        raise RankError(error.reason, hint) from None


def speaks(error: Exception) -> bool:
    """Whether this process is to say why it ends. Of the ranks of a job one does: the first that comes to it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not _MEETING.issubset(os.environ):
        return True
    return not isinstance(error, RefusedError) and first_to_say("why it ended")


def first_to_say(what: str) -> bool:
    """Whether no other rank of this job has asked so before this one.

    Nobody knows which ranks are left, so they leave word at the address where they met, which torchrun keeps while
    ranks die. Where nothing answers there, each speaks for itself.
    """
    if not _MEETING.issubset(os.environ) or not dist.is_available():
        return True
    try:
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(*address, is_master=False, timeout=ANSWERS)  # pyright: ignore[reportPrivateImportUsage]
        return store.add(f"poise/said/{what}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1) == 1
    except (RuntimeError, ValueError):
        return True


def clause(text: str) -> str:
    """What a library says of a broken connection, in brackets: the first clause, without addresses and places in its
    source.
    """
    bare = re.sub(r"\[?\S+\.(cc|cpp|h|hpp):\d+\]?|\s\[[\w.:]*\]:\d+", "", text.strip().partition("\n")[0])
    first = re.split(r"[.;,]\s|\s\(|[.;,:]$", bare.strip(), maxsplit=1)[0].strip()
    return f" ({first})" if first else ""


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def join(timeout: timedelta = TIMEOUT) -> World:
    """All ranks that this process trains with: those of torch.distributed if it is set up, else torchrun's, else itself
    alone.

    Raises: SettingsError where it was set up for GPU tensors only.
    """
    if not dist.is_available():
        return ALONE
    if not dist.is_initialized():
        if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= set(os.environ) or os.environ["WORLD_SIZE"] == "1":
            return ALONE
        local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
        own_gpu = torch.cuda.is_available() and torch.cuda.device_count() >= local and dist.is_nccl_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if own_gpu else "gloo", timeout=timeout)
        atexit.register(leave)
    if dist.get_backend() == "nccl":
        raise SettingsError(
            "torch.distributed has the backend 'nccl' alone: must be 'cpu:gloo,cuda:nccl', as ranks exchange texts too"
        )
    return World(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """Part from the other ranks; to be called by each once training is over, as a process that just ends looks like a
    failure.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def local_rank() -> int:
    """Number of this process among those of its machine, as torchrun says; 0 without it."""
    return int(os.environ.get("LOCAL_RANK", "0"))
