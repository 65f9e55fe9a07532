"""Compact search: examples sit in the lanes of one batch of fixed shape; whoever is fooled or done leaves, and the next moves in.

A `Search` is an attack written for lanes: each lane carries one example, its own iteration number and its own run (restart or
target class), and its random numbers are keyed by the example. So what becomes of an example depends neither on its lane nor on
its batch mates nor on when the batch is refilled, as long as the network treats the rows of a batch alike (evaluation mode).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from poise.attacks.attack import Attack
from poise.core.errors import InputError
from poise.core.seeds import Draw

State = dict[str, Tensor]
Leave = Literal["at once", "after the run", "never"]
Network = Callable[[Tensor], Tensor]
_CPU_LANES = 16  # activations of more images leave the processor's cache
_ACCELERATOR_LANES = 1024
_ACCELERATOR_ROUND = 8  # steps queued between two looks at the flags


@dataclass(frozen=True)
class Examples:
    """Images x [B, ...], labels y [B], their natural logits [B, C], their draw; target: the class to reach [B], or None."""

    x: Tensor
    y: Tensor
    natural: Tensor
    draw: Draw
    target: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: Tensor) -> Examples:
        target = None if self.target is None else self.target[rows]
        return Examples(self.x[rows], self.y[rows], self.natural[rows], self.draw[rows], target)

    def fooled(self, logits: Tensor) -> Tensor:
        """Where `logits` [B, C] mean success: another class than y, or with targets the target [B]."""
        return succeeds(logits, self.y, self.target)

    def class_of_rank(self, rank: Tensor) -> Tensor:
        """The class of this rank [B] by natural logits among the classes other than y, 0 the most likely; or the target to reach."""
        if self.target is not None:
            return self.target
        others = self.natural.scatter(1, self.y[:, None], float("-inf"))
        return others.sort(dim=1, descending=True, stable=True).indices.gather(1, rank[:, None])[:, 0]


class Search(ABC):
    """An attack for lanes. `runs` runs of `steps` steps for each example; a run ends early once the example is fooled.

    The state has for each lane at least `fooled` [W], latched, and `found` [W, ...], the image to return.
    """

    runs: int
    steps: int
    kept: ClassVar[tuple[str, ...]] = ("fooled", "found")
    """What an example takes along from one of its runs to the next."""

    @abstractmethod
    def begin(self, examples: Examples, run: Tensor) -> State:
        """The state of these examples at the beginning of their runs of number `run` [B]."""

    @abstractmethod
    def step(self, state: State) -> State:
        """The state after one step of every lane; lanes already fooled keep `fooled` and `found`."""


class Lanes:
    """Drives a search over a pool of examples at one shape, `width` lanes; `advance` until it returns False.

    fooled [N], found [N, ...], finished [N]: what has come out so far, for each example of the pool. `leave`: when
    fooled examples leave; at once unless an attack refines what it found.
    """

    def __init__(self, search: Search, pool: Examples, width: int, leave: Leave = "at once") -> None:
        self.search, self.pool, self.width, self.leave = search, pool, width, leave
        device = pool.x.device
        self.fooled = torch.zeros(len(pool), dtype=torch.bool, device=device)
        self.found = pool.x.clone()
        self.finished = np.zeros(len(pool), dtype=bool)
        self.lane_steps = 0
        """Steps done times lanes; `useful_steps` counts those of occupied lanes."""
        self.useful_steps = 0
        self._next = min(width, len(pool))
        self._example = np.where(np.arange(width) < len(pool), np.arange(width), -1)
        self._run = np.zeros(width, dtype=np.int64)
        self._age = np.zeros(width, dtype=np.int64)
        filling = torch.arange(width, device=device).clamp(max=len(pool) - 1)  # unused lanes repeat the last example
        self._state = search.begin(pool[filling], torch.zeros(width, dtype=torch.int64, device=device))
        self._seen: tuple[Tensor, torch.cuda.Event, np.ndarray] | None = None

    def advance(self) -> bool:
        """A few steps of all lanes, then refill; whether examples are left."""
        occupied = self._example >= 0
        if not occupied.any():
            return False
        steps = 1 if self.pool.x.device.type == "cpu" else _ACCELERATOR_ROUND
        steps = int(min(steps, (self.search.steps - self._age[occupied]).min()))
        for _ in range(steps):
            self._state = self.search.step(self._state)
        self._age += steps
        self.lane_steps += steps * self.width
        self.useful_steps += steps * int(occupied.sum())
        ended = occupied & (self._age >= self.search.steps)
        leaving = ended & (self._run + 1 >= self.search.runs)
        if self.leave == "at once":
            leaving |= occupied & self._known_fooled()
        elif self.leave == "after the run" and ended.any():
            leaving |= ended & self._state["fooled"].cpu().numpy()
        going_on = ended & ~leaving
        if going_on.any():
            self._run[going_on] += 1
            self._enter(np.flatnonzero(going_on), self.search.kept)
        if leaving.any():
            self._exchange(np.flatnonzero(leaving))
        return True

    def _known_fooled(self) -> np.ndarray:
        """Flags per lane [W]; on an accelerator those of the previous round, so that the host never waits for the queue."""
        flags = self._state["fooled"]
        if flags.device.type == "cpu":
            return flags.numpy()
        known = np.zeros(self.width, dtype=bool)
        if self._seen is not None:
            copy, event, example = self._seen
            event.synchronize()
            known = copy.numpy() & (example == self._example)  # a lane refilled since belongs to another example
        buffer = torch.empty(self.width, dtype=torch.bool, pin_memory=True)
        buffer.copy_(flags, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._seen = (buffer, event, self._example.copy())
        return known

    def _exchange(self, rows: np.ndarray) -> None:
        """The examples of these lanes are done; the next of the pool take their places."""
        lanes, examples = self._tensor(rows), self._tensor(self._example[rows])
        self.fooled[examples] = self._state["fooled"][lanes]
        self.found[examples] = self._state["found"][lanes]
        self.finished[self._example[rows]] = True
        count = min(len(rows), len(self.pool) - self._next)
        self._example[rows[count:]] = -1
        self._age[rows], self._run[rows] = 0, 0
        if count:
            self._example[rows[:count]] = np.arange(self._next, self._next + count)
            self._next += count
            self._enter(rows[:count], ())

    def _enter(self, rows: np.ndarray, kept: tuple[str, ...]) -> None:
        lanes = self._tensor(rows)
        fresh = self.search.begin(self.pool[self._tensor(self._example[rows])], self._tensor(self._run[rows]))
        for name, values in fresh.items():
            if name not in kept:
                self._state[name] = self._state[name].index_copy(0, lanes, values)
        self._age[rows] = 0

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.int64)).to(self.pool.x.device)

    def share_done(self) -> float:
        """Share of the work done, taking for granted that examples in lanes use their whole budget."""
        budget = self.search.runs * self.search.steps
        inside = (self._run * self.search.steps + self._age)[self._example >= 0].sum() / budget
        return float(self.finished.sum() + inside) / len(self.pool)

    def snapshot(self) -> dict[str, Tensor]:
        """Everything needed to go on later, as tensors."""
        host = {"finished": self.finished, "example": self._example, "run": self._run, "age": self._age}
        counters = torch.tensor([self._next, self.lane_steps, self.useful_steps])
        saved = {f"host.{name}": torch.from_numpy(values.copy()) for name, values in host.items()} | {"host.counters": counters}
        done = self._tensor(np.flatnonzero(self.finished & self.fooled.cpu().numpy()))
        saved |= {"done.rows": done, "done.found": self.found[done]}
        return saved | {f"state.{name}": values for name, values in self._state.items()}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Go on where `snapshot` was taken, in lanes of the same search, pool and width."""
        device = self.pool.x.device
        self.finished, self._example, self._run, self._age = (
            saved[f"host.{name}"].numpy().copy() for name in ("finished", "example", "run", "age")
        )
        self._next, self.lane_steps, self.useful_steps = saved["host.counters"].tolist()
        self.fooled[saved["done.rows"].to(device)] = True
        self.found[saved["done.rows"].to(device)] = saved["done.found"].to(device)
        self._state = {name: saved[f"state.{name}"].to(device).clone() for name in self._state}


class CompactAttack(Attack):
    """An attack that can be searched in lanes; abstract in `search`."""

    @abstractmethod
    def search(self, model: Network, classes: int, targeted: bool = False) -> Search:
        """The search of this attack on a network with so many classes; `targeted`: the examples come with a target to reach."""

    def notes(self, classes: int) -> list[str]:
        """In words, where the number of classes makes the attack depart from its paper."""
        return []

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None = None) -> Tensor:
        """Successful examples as they were first found; images already misclassified are returned unchanged."""
        found, fooled = self._drive(model, x, y, draw, target, "at once")
        return torch.where(spread(fooled | self._returns_failures(), x), found, x)

    def _returns_failures(self) -> bool:
        return False

    def _drive(self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None, leave: Leave) -> tuple[Tensor, Tensor]:
        """What the search found [B, ...] and where it succeeded [B]; natural images where there was nothing to do."""
        width = lanes_for(x)
        everyone = Examples(x, y, logits_of(model, x, width), draw, target)
        fooled = everyone.fooled(everyone.natural)
        rows = (~fooled).nonzero()[:, 0]
        if len(rows) == 0:
            return x, fooled
        lanes = Lanes(self.search(model, everyone.natural.shape[1], target is not None), everyone[rows], width, leave)
        while lanes.advance():
            pass
        return x.index_copy(0, rows, lanes.found), fooled.index_copy(0, rows, lanes.fooled)


def lanes_for(x: Tensor) -> int:
    """How many lanes serve a batch x: all at once on an accelerator, what fits the cache on a CPU."""
    return min(len(x), _CPU_LANES) if x.device.type == "cpu" else len(x)


def find_batch_size(model: nn.Module, x: Tensor, memory_limit: int | None = None) -> int:
    """A power of two of lanes: on a CPU at most 16 (what its cache holds), on an accelerator at most 1024, and within `memory_limit` bytes.

    By default the limit is 70 % of the accelerator's free memory. What one example takes is measured on one gradient.
    Raises: InputError if not even one example fits.
    """
    on_cpu = x.device.type == "cpu"
    if memory_limit is None and x.device.type == "cuda":
        memory_limit = int(0.7 * torch.cuda.mem_get_info(x.device)[0])
    most = _CPU_LANES if on_cpu else _ACCELERATOR_LANES
    if memory_limit is None:
        return most
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.enable_grad():
        model(x[:1].detach().requires_grad_(True)).sum()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()} | {b.untyped_storage().data_ptr() for b in model.buffers()}
    activations = sum(size for pointer, size in kept.items() if pointer not in own)
    each = 3 * activations + 40 * x[0].numel() * x.element_size()  # gradients beside activations; an attack's state
    if each > memory_limit:
        raise InputError(f"memory_limit = {memory_limit} bytes, must be at least {each}, what one image of this network takes")
    return min(most, 1 << (memory_limit // each).bit_length() - 1)


def at(draw: Draw, *counters: Tensor) -> Draw:
    """The draw of each example at its own counters, each [B] and below 2^12 (run), 2^20 (step): independent numbers for each."""
    index = draw.index
    for counter, bits in zip(counters, (12, 20), strict=False):
        index = (index << bits) + counter
    return Draw(draw.key, index)


@torch.no_grad()
def logits_of(model: Network, x: Tensor, width: int) -> Tensor:
    """Logits [N, C] of images x [N, ...], always computed in batches of exactly `width` (the last padded with repetitions).

    Raises: InputError where the network returns NaN.
    """
    parts = []
    for start in range(0, len(x), width):
        rows = torch.arange(start, start + width, device=x.device).clamp(max=len(x) - 1)
        parts.append(model(x[rows])[: len(x) - start])
    logits = torch.cat(parts)
    if bool(logits.isnan().any()):
        raise InputError("the network returned NaN, must return finite floating logits")
    return logits


def succeeds(logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """Where logits [B, C] predict another class than y, or with targets the target [B]."""
    guess = logits.argmax(1)
    return guess != y if target is None else guess == target


def gradient_of(model: Network, loss: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(loss(model(z)) [B], its gradient with respect to z, logits [B, C]), all detached."""
    leaf = z.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = model(leaf)
        values = loss(logits)
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
    return values.detach(), gradient, logits.detach()


def spread(values: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, ..., 1] with as many axes as `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))


def choose(where: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Per example, a where `where` [B] else b; a and b are [B, ...]."""
    return torch.where(spread(where, a), a, b)
