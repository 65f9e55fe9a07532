"""Times in a recording: what an objective reckons from the epoch or the step is an input, what it decides by them is
fixed.

While crafting is recorded, `now.epoch` and its like are `Time`s. They can be reckoned with as numbers can. Where one
meets a tensor it becomes a tensor without axes that every replay fills anew; where one is compared, the answer belongs
to the recording.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from poise.core.batches import Now

Read = Callable[[Now], Any]


class Uncapturable(Exception):
    """Why the crafting of an objective cannot be recorded."""


class Times(Protocol):
    """What keeps the times of a recording; each is known by the text of its expression."""

    def decided(self, text: str, read: Read) -> Any:
        """What `read` says of the recording's moment; the recording serves as long as it says the same."""
        ...

    def number(self, text: str, read: Read, dtype: torch.dtype) -> Tensor:
        """What `read` says of the moment of each replay [], an input."""
        ...


@dataclass(frozen=True, eq=False)
class Time:
    """A number of the moment, such as the epoch, or an expression of such; moves: whether it is another one at every
    step.
    """

    times: Times
    text: str
    read: Read
    moves: bool

    def fixed(self) -> Any:
        """The number itself, which the recording then depends on. Raises: Uncapturable where it is another one at every
        step.
        """
        if self.moves:
            raise Uncapturable("what it does depends on the step")
        return self.times.decided(self.text, self.read)

    @classmethod
    def __torch_function__(cls, function: Callable[..., Any], types: object, args: Any = (), kwargs: Any = None) -> Any:
        """Among tensors it has the dtype of the first."""
        dtype = next(leaf.dtype for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        args, kwargs = tree_map_only(
            cls, lambda time: time.times.number(time.text, time.read, dtype), (args, kwargs or {})
        )
        return function(*args, **kwargs)

    def __int__(self) -> int:
        return int(self.fixed())

    def __index__(self) -> int:
        return operator.index(self.fixed())

    def __float__(self) -> float:
        return float(self.fixed())

    def __hash__(self) -> int:
        return hash(self.fixed())

    def __bool__(self) -> bool:
        return self != 0

    def __neg__(self) -> Time:
        return _reckoned("neg", self)

    def __abs__(self) -> Time:
        return _reckoned("abs", self)


def _reckoned(name: str, *operands: Any) -> Time:
    """The operator of this name on times and plain numbers."""
    call, first = getattr(operator, name), next(operand for operand in operands if isinstance(operand, Time))

    def read(now: Now) -> Any:
        return call(*(operand.read(now) if isinstance(operand, Time) else operand for operand in operands))

    text = f"{name}({', '.join(operand.text if isinstance(operand, Time) else repr(operand) for operand in operands)})"
    return Time(first.times, text, read, any(isinstance(operand, Time) and operand.moves for operand in operands))


def _operators() -> None:
    """Give `Time` the operators of numbers. Beside a tensor the tensor's own count."""

    def operate(name: str, turned: bool = False, decides: bool = False) -> Callable[[Time, Any], Any]:
        def result(self: Time, other: Any) -> Any:
            if isinstance(other, Tensor):
                return NotImplemented
            times = _reckoned(name, *((other, self) if turned else (self, other)))
            return self.times.decided(times.text, times.read) if decides else times

        return result

    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
        setattr(Time, f"__{name}__", operate(name))
        setattr(Time, f"__r{name}__", operate(name, turned=True))
    for name in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(Time, f"__{name}__", operate(name, decides=True))


_operators()
