"""Crafting recorded once and repeated: on GPUs all steps of an ascent are one CUDA graph.

A CUDA graph repeats the same kernels on the same memory without the host. So what changes from step to step is copied
in before: the batch, and the bits of every random draw, which `_Tape` has learned while the examples were crafted for
the first time. What an objective reads of the moment besides draws belongs to the graph; when it changes, a new one is
recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from operator import attrgetter
from typing import Any, cast

import torch
from torch import Tensor, nn

from poise.core.batches import Batch, Now
from poise.core.seeds import Draw, key_of
from poise.learners.times import Read, Time, Uncapturable
from poise.objectives import Examples, Objective

_WARMUPS = 3  # runs before a graph is recorded: kernels are compiled and chosen, the autograd engine has its buffers


class _Tape:
    """The batch, the random bits and the times of a step, in memory that stays where it is."""

    def __init__(self, part: Batch, now: Now) -> None:
        self.now = now
        self.batch = replace(part, **{name: column.clone() for name, column in part.columns().items()})
        self.once = torch.zeros(1, dtype=torch.int64, device=part.y.device)
        self.decisions: dict[str, tuple[Read, object]] = {}
        """What the objective has asked of the moment, by the question's text, and the answers that belong to the
        recording.
        """
        self.numbers: dict[tuple[str, torch.dtype], tuple[Read, Tensor]] = {}
        self.bits: dict[tuple[object, ...], tuple[_Taped, Tensor]] = {}
        self.closed = False
        """No further draws, questions or numbers can be learned."""

    def bits_of(self, draw: _Taped, count: int) -> Tensor:
        key = (draw.path, draw.rows, count)
        if key not in self.bits:
            if self.closed:
                raise Uncapturable("its draws differ from run to run")
            self.bits[key] = draw, Draw(_key(draw.path, self.now), draw.index).bits(count)
        return self.bits[key][1]

    def decided(self, text: str, read: Read) -> Any:
        if text not in self.decisions:
            self._learn()
            self.decisions[text] = read, read(self.now)
        return self.decisions[text][1]

    def number(self, text: str, read: Read, dtype: torch.dtype) -> Tensor:
        if (text, dtype) not in self.numbers:
            self._learn()
            self.numbers[text, dtype] = read, torch.full((), read(self.now), dtype=dtype, device=self.batch.x.device)
        return self.numbers[text, dtype][1]

    def _learn(self) -> None:
        if self.closed:
            raise Uncapturable("what it asks of the time differs from run to run")

    def load(self, part: Batch, now: Now) -> None:
        """The next step's batch, bits and times take the places of the last one's."""
        self.now = now
        for name, column in part.columns().items():
            getattr(self.batch, name).copy_(column)
        for (_, _, count), (draw, bits_kept) in self.bits.items():
            bits_kept.copy_(Draw(_key(draw.path, now), draw.index).bits(cast(int, count)))
        for reader, number in self.numbers.values():
            number.fill_(reader(now))


def _key(path: tuple[Any, ...], now: Now) -> int:
    """The key of the draw with this path at this moment; `Now.draw` and `Draw.within` make the same."""
    scope, purpose, *special = path
    key = key_of(now.seed, scope, purpose, now.step)
    for parts in special:
        key = key_of(key, *parts)
    return key


@dataclass(frozen=True)
class _Taped(Draw):
    """A draw whose bits lie on a tape. path: scope, purpose, and the more special purposes; rows: the part of the
    batch.
    """

    tape: _Tape = field(kw_only=True)
    path: tuple[Any, ...] = field(kw_only=True)
    rows: tuple[object, ...] = field(default=(), kw_only=True)

    def within(self, *purpose: int | str) -> Draw:
        return replace(self, path=(*self.path, purpose))

    def __getitem__(self, rows: Tensor | slice) -> Draw:
        if isinstance(rows, Tensor):
            raise Uncapturable("it draws for examples that it chooses")
        return replace(self, index=self.index[rows], rows=(*self.rows, rows.start, rows.stop, rows.step))

    def bits(self, count: int) -> Tensor:
        return self.tape.bits_of(self, count)


@dataclass(frozen=True)
class _Moment:
    """What an objective sees of `Now` while it is recorded."""

    tape: _Tape
    scope: str

    def within(self, scope: str) -> _Moment:
        return replace(self, scope=scope)

    def since(self, epoch: int) -> Time:
        return Time(self.tape, f"since({epoch})", lambda now: now.since(epoch), moves=False)

    def draw(self, purpose: str, batch: Batch) -> Draw:
        return _Taped(0, batch.places, tape=self.tape, path=(self.scope, purpose))

    def draw_once(self, purpose: str, device: torch.device | str = "cpu") -> Draw:
        return _Taped(0, self.tape.once.to(device), tape=self.tape, path=(self.scope, purpose))

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "turn":
            raise Uncapturable("what it does depends on the turn")
        time = Time(self.tape, name, attrgetter(name), moves=name in ("step", "step_of_epoch"))
        return time if isinstance(getattr(self.tape.now, name), int) and name != "seed" else time.fixed()


@dataclass
class Recording:
    """The crafting of one objective at one shape; on GPUs a CUDA graph, on CPUs the call itself."""

    objective: Objective
    model: nn.Module
    """A graph reads this network's weights where they lie, so it serves no other one."""
    tape: _Tape
    run: Callable[[], Examples]
    graph: torch.cuda.CUDAGraph | None = None
    found: Examples | None = None

    @classmethod
    def of(cls, objective: Objective, model: nn.Module, part: Batch, now: Now, around: Callable[[], Any]) -> Recording:
        """Craft `part` a few times, then record; running statistics stay as they were. Raises whatever keeps this from
        working.
        """
        tape = _Tape(part, now)
        moment = cast(Now, _Moment(tape, now.scope))

        def run() -> Examples:
            with around():
                return objective.craft(model, tape.batch, moment)

        recording = cls(objective, model, tape, run)
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        try:
            if part.x.device.type == "cuda":
                recording._capture(part.x.device)
            else:
                run()
                tape.closed = True
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
        return recording

    def _capture(self, device: torch.device) -> None:
        usual, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        # a capture that fails leaves its own stream as the current one
        with (
            torch.cuda.device(device),
            torch.cuda.stream(usual),
        ):
            aside.wait_stream(usual)
            with torch.cuda.stream(aside):
                for _ in range(_WARMUPS):
                    self.run()
            usual.wait_stream(aside)
            torch.cuda.synchronize()
            self.tape.closed = True
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=aside):
                self.found = self.run()
        self.graph = graph

    def serves(self, objective: Objective, model: nn.Module, part: Batch, now: Now) -> bool:
        x = self.tape.batch.x
        fits = (
            part.x.shape == x.shape
            and part.x.dtype == x.dtype
            and part.x.stride() == x.stride()
            and part.total == self.tape.batch.total
        )
        same_decisions = all(reader(now) == answer for reader, answer in self.tape.decisions.values())
        same = model is self.model and objective == self.objective and now.scope == self.tape.now.scope
        return fits and same_decisions and same

    def replay(self, part: Batch, now: Now) -> Examples:
        self.tape.load(part, now)
        if self.graph is None:
            return copied(self.run())
        self.graph.replay()
        return copied(self.found)  # the next replay writes where these lie


def copied(value: Any) -> Any:
    """The same examples in memory of their own. Raises: Uncapturable for what a graph cannot bring up to date."""
    if isinstance(value, Tensor):
        return value.clone()
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{part.name: copied(getattr(value, part.name)) for part in fields(value) if part.init})
    if isinstance(value, dict):
        return {name: copied(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(copied(part) for part in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise Uncapturable(f"its examples hold a {type(value).__name__}")


def in_order(examples: Any, layout: torch.memory_format) -> Any:
    """The same examples with images in this order in memory, whatever order the crafting network's gradients had (see
    `Folded`).
    """
    changes: dict[str, Any] = {}
    for part in fields(examples):
        value = getattr(examples, part.name)
        if isinstance(value, Tensor):
            changes[part.name] = value.contiguous(memory_format=layout) if value.dim() == 4 else value.contiguous()
        elif is_dataclass(value):  # examples made of examples
            changes[part.name] = in_order(value, layout)
    return replace(examples, **changes)
