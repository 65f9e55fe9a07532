"""Compact search: examples sit in the lanes of one batch of fixed shape; whoever is fooled or done leaves, and the next
moves in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from poise.attacks.autoattack.search import Examples, Search, queued
from poise.core.answers import answer
from poise.core.errors import InputError
from poise.core.modes import evaluating
from poise.core.scratch import gathered
from poise.core.seeds import generators_kept
from poise.core.transfers import sent

Leave = Literal["at once", "after the run", "never"]
CPU_LANES = 128  # more only leave lanes empty at the end
SMALL = 2.4e6  # multiply-adds of a forward, below which the overhead of a step weighs
ACCELERATOR_LANES = 1024
_ACCELERATOR_ROUND = 8  # steps queued between two looks at the flags


class Lanes:
    """Drives a search over a pool of examples at one shape, `width` lanes; `advance` until it returns False.

    fooled [N], found [N, ...], finished [N]: what has come out so far, for each example of the pool. `leave`: when
    fooled examples leave; at once unless an attack refines what it found.
    """

    def __init__(self, search: Search, pool: Examples, width: int, leave: Leave = "at once") -> None:
        self.search, self.pool, self.width, self.leave = search, search.prepared(pool, width), width, leave
        search.refines = leave != "at once"
        device = pool.x.device
        self.fooled = torch.zeros(len(pool), dtype=torch.bool, device=device)
        self.found = gathered(pool.x)
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
        self._seen: tuple[Tensor, torch.cuda.Event | None, np.ndarray] | None = None

    def advance(self) -> bool:
        """A few steps of all lanes, then refill; whether examples are left."""
        busy = self._example >= 0
        if not busy.any():
            return False
        steps = _ACCELERATOR_ROUND if queued(self.pool.x.device) else 1
        steps = int(min(steps, (self.search.steps - self._age[busy]).min()))
        for _ in range(steps):
            self._state = self.search.step(self._state)
        self._age += steps
        self.lane_steps += steps * self.width
        self.useful_steps += steps * int(busy.sum())
        expired = busy & (self._age >= self.search.steps)
        leaving = expired & (self._run + 1 >= self.search.runs)
        if self.leave == "at once":
            leaving |= busy & self._known_fooled()
        elif self.leave == "after the run" and expired.any():
            leaving |= expired & self._state["fooled"].cpu().numpy()
        going_on = expired & ~leaving
        if going_on.any():
            self._run[going_on] += 1
            self._enter(np.flatnonzero(going_on), self.search.kept)
        if leaving.any():
            self._exchange(np.flatnonzero(leaving))
        return True

    def _known_fooled(self) -> np.ndarray:
        """Flags per lane [W]; where steps are queued those of the previous round, so that the host never waits for the
        queue.
        """
        flags = self._state["fooled"]
        if not queued(flags.device):
            return flags.numpy()
        is_fooled = np.zeros(self.width, dtype=bool)
        if self._seen is not None:
            copy, event, example = self._seen
            if event is not None:
                event.synchronize()
            is_fooled = copy.numpy() & (example == self._example)  # a lane refilled since belongs to another example
        self._seen = (*_copied(flags), self._example.copy())
        return is_fooled

    def _exchange(self, rows: np.ndarray) -> None:
        """The examples of these lanes are done; the next of the pool take their places."""
        lanes, examples = self._tensors(rows, self._example[rows])
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
        lanes, examples, run = self._tensors(rows, self._example[rows], self._run[rows])
        fresh = self.search.begin(self.pool[examples], run)
        for name, values in fresh.items():
            if name not in kept:
                self._state[name] = self._state[name].index_copy(0, lanes, values)
        self._age[rows] = 0

    def _tensors(self, *values: np.ndarray) -> tuple[Tensor, ...]:
        """Arrays of one length as tensors on the device, which one copy takes there."""
        return sent(torch.from_numpy(np.stack(values).astype(np.int64)), self.pool.x.device).unbind()

    def share_done(self) -> float:
        """Share of the work done, taking for granted that examples in lanes use their whole budget."""
        budget = self.search.runs * self.search.steps
        inside = (self._run * self.search.steps + self._age)[self._example >= 0].sum() / budget
        return float(self.finished.sum() + inside) / len(self.pool)

    def snapshot(self) -> dict[str, Tensor]:
        """Everything needed to go on later, as tensors."""
        host = {"finished": self.finished, "example": self._example, "run": self._run, "age": self._age}
        counters = torch.tensor([self._next, self.lane_steps, self.useful_steps])
        state = {f"host.{name}": torch.from_numpy(values.copy()) for name, values in host.items()} | {
            "host.counters": counters
        }
        (finished,) = self._tensors(np.flatnonzero(self.finished & self.fooled.cpu().numpy()))
        state |= {"done.rows": finished, "done.found": self.found[finished]}
        kept_state = {name: values for name, values in self._state.items() if name not in self.search.derived}
        return state | {f"state.{name}": values for name, values in kept_state.items()}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Go on where `snapshot` was taken, in lanes of the same search, pool and width."""
        device = self.pool.x.device
        self.finished, self._example, self._run, self._age = (
            saved[f"host.{name}"].numpy().copy() for name in ("finished", "example", "run", "age")
        )
        self._next, self.lane_steps, self.useful_steps = saved["host.counters"].tolist()
        self.fooled[saved["done.rows"].to(device)] = True
        self.found[saved["done.rows"].to(device)] = saved["done.found"].to(device)
        state_names = (name for name in self._state if name not in self.search.derived)
        self._state = {name: saved[f"state.{name}"].to(device).clone() for name in state_names}
        self._state |= self.search.derive(self._state)


def _copied(flags: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """The flags on the host, and on a GPU the event after which they are there."""
    if flags.device.type != "cuda":
        return flags.cpu().clone(), None
    buffer = torch.empty(flags.shape, dtype=torch.bool, pin_memory=True)
    buffer.copy_(flags, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(flags.device))
    return buffer, event


_WORK: WeakKeyDictionary[nn.Module, dict[torch.Size, int]] = WeakKeyDictionary()


def multiply_adds(model: nn.Module, x: Tensor) -> int:
    """Of a forward of one example, in its layers of convolution and linear ones; counted once for a network and a
    shape, by a query.
    """
    cache = _WORK.setdefault(model, {})
    if x.shape[1:] not in cache:
        work: list[int] = []

        def count(layer: nn.Module, given: object, out: Tensor) -> None:
            assert isinstance(layer, nn.Conv2d | nn.Linear)
            work.append(layer.weight[0].numel() * out.numel())

        hooks = [
            layer.register_forward_hook(count) for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)
        ]
        try:
            with evaluating(model), generators_kept(x.device), torch.no_grad():
                answer(model, x[:1].clone())
        finally:
            for hook in hooks:
                hook.remove()
        cache[x.shape[1:]] = sum(work)
    return cache[x.shape[1:]]


def on_cpu(lanes: int, model: nn.Module, x: Tensor) -> int:
    """So many lanes for networks of millions of multiply-adds; up to four times as many for smaller ones, where
    overhead weighs more.
    """
    work = multiply_adds(model, x)
    return lanes * min(4, max(1, round(SMALL / work))) if work else lanes


def fitting(count: int, most: int) -> int:
    """Lanes for so many examples, at most `most`: the rounds that they need are equally full; 4 or a multiple of 8."""
    rounds = -(-count // most)
    size = -(-count // rounds)
    return min(most, 4 if size <= 4 else -(-size // 8) * 8)


def find_batch_size(model: nn.Module, x: Tensor, memory_limit: int | None = None) -> int:
    """A power of two of lanes: on a CPU at most 128 (of small networks more), on an accelerator 1024, within
    `memory_limit` bytes.

    By default the limit is 70 % of the accelerator's memory that is free or kept by torch for reuse. What one example
    takes is measured on one gradient, in evaluating mode.
    Raises: InputError if not even one example fits.
    """
    if memory_limit is None and x.device.type == "cuda":
        reusable = torch.cuda.memory_reserved(x.device) - torch.cuda.memory_allocated(x.device)
        memory_limit = int(0.7 * (torch.cuda.mem_get_info(x.device)[0] + reusable))
    most = on_cpu(CPU_LANES, model, x) if x.device.type == "cpu" else ACCELERATOR_LANES
    if memory_limit is None:
        return most
    cache: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        cache[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    measuring = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with evaluating(model), generators_kept(x.device), measuring, torch.enable_grad():
        answer(model, x[:1].detach().requires_grad_(True).clone()).sum()
    storages = {p.untyped_storage().data_ptr() for p in model.parameters()} | {
        b.untyped_storage().data_ptr() for b in model.buffers()
    }
    activations = sum(size for pointer, size in cache.items() if pointer not in storages)
    bytes_per_image = (
        3 * activations + 40 * x[0].numel() * x.element_size()
    )  # gradients beside activations; an attack's state
    if bytes_per_image > memory_limit:
        raise InputError(
            f"memory_limit = {memory_limit} bytes, must be at least {bytes_per_image}, what one image of this network"
            " takes"
        )
    return min(most, 1 << (memory_limit // bytes_per_image).bit_length() - 1)
