"""Other gradients than the network's own: straight through its steps (BPDA), and estimated from its logits alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from poise.core.seeds import Draw

STEPS = ("round", "floor", "ceil", "trunc", "fix", "sign", "sgn")
_CASTS = ("to", "type", "type_as", "float", "double", "half", "bfloat16", "int", "long", "short", "byte", "bool")
_ABOVE = ("gt", "ge", "__gt__", "__ge__", "greater", "greater_equal")
_BELOW = ("lt", "le", "__lt__", "__le__", "less", "less_equal")
_PRODUCTS = ("mul", "__mul__", "__rmul__", "multiply")
_WIDTH = 0.1  # of the sigmoid that stands for a threshold, in pixel units


class StraightThrough(TorchFunctionMode):
    """Backward pass differentiable approximation (Athalye et al. 2018, Section 4.1): the forward pass is unchanged, but
    rounding and sign have the gradient of the identity, a threshold that of a narrow sigmoid, and a cast to integers
    that of no cast.

    replaced: names of the functions that were given a gradient.
    """

    def __init__(self) -> None:
        super().__init__()
        self.replaced: set[str] = set()
        # by id of a hard tensor without gradient: it, and its differentiable double
        self._soft: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, name = func(*args, **(kwargs or {})), getattr(func, "__name__", "")
        if not isinstance(out, Tensor) or not torch.is_grad_enabled() or not args or not isinstance(args[0], Tensor):
            return out
        first = args[0]
        if name in STEPS and first.requires_grad:
            return self._through(name, out, first)
        if name in _ABOVE + _BELOW and self._follows(*args[:2]):
            lead = first - args[1] if name in _ABOVE else args[1] - first
            return self._remember(name, out, torch.sigmoid(lead / _WIDTH))
        if name in _CASTS and not out.is_floating_point() and first.requires_grad:
            return self._remember(name, out, first)
        if name in _CASTS and id(first) in self._soft:
            return self._through(name, out, self._soft[id(first)][1])
        if name in _PRODUCTS and (pair := self._mask(*args[:2])) is not None:
            return self._through(name, out, pair[0] * pair[1])
        if name == "where" and id(first) in self._soft and len(args) == 3:
            return self._through(name, out, self._soft[id(first)][1] * (args[1] - args[2]))
        return out

    def _through(self, name: str, out: Tensor, soft: Tensor) -> Tensor:
        self.replaced.add(name.strip("_"))
        soft = soft.to(out.dtype)
        return out + (soft - soft.detach())

    def _remember(self, name: str, out: Tensor, soft: Tensor) -> Tensor:
        self.replaced.add(name.strip("_"))
        self._soft[id(out)] = (out, soft)
        return out

    def _follows(self, *sides: Any) -> bool:
        return any(isinstance(side, Tensor) and side.requires_grad for side in sides)

    def _mask(self, a: Any, b: Any) -> tuple[Tensor, Any] | None:
        """(differentiable double of the hard factor, the other factor, a constant)."""
        for hard, soft in ((a, b), (b, a)):
            if id(hard) in self._soft:
                return self._soft[id(hard)][1], soft.detach() if isinstance(soft, Tensor) else soft
        return None


class Bridged(nn.Module):
    """The network with gradients that go straight through its steps; `replaced` says through which."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.replaced = network, set[str]()

    def forward(self, x: Tensor) -> Tensor:
        with StraightThrough() as mode:
            logits = self.network(x)
        self.replaced |= mode.replaced
        return logits


class Estimated(nn.Module):
    """The network with a gradient estimated from its logits: antithetic differences along random signs (Spall 1992;
    Ilyas et al. 2018).

    radius: length of each sign vector's entries, in pixel units; samples: pairs of queries behind each gradient.
    """

    def __init__(self, network: nn.Module, radius: float, samples: int, draw: Draw) -> None:
        super().__init__()
        self.network, self.radius, self.samples, self.draw, self.calls = network, radius, samples, draw, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        with torch.no_grad():
            logits = self.network(x)
        return _Differences.apply(x, logits, self) if x.requires_grad else logits  # type: ignore[return-value]

    def pull_back(self, x: Tensor, towards: Tensor) -> Tensor:
        """An estimate of J^T towards [B, ...], for images [B, ...] and a covector on the logits [B, C]."""
        total = torch.zeros_like(x)
        for sample in range(self.samples):
            signs = self.draw.within(self.calls, sample).uniform(*x.shape[1:], dtype=x.dtype).sub_(0.5).sign_()
            ahead, behind = self.network(x + self.radius * signs), self.network(x - self.radius * signs)
            slope = ((ahead - behind) * towards).sum(1) / (2 * self.radius * self.samples)
            total += slope.view(-1, *[1] * (x.dim() - 1)) * signs
        return total


class _Differences(torch.autograd.Function):
    """Passes the logits on; their gradient is the estimate."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, logits: Tensor, network: Estimated) -> Tensor:
        ctx.save_for_backward(x)
        ctx.network = network
        return logits.clone()

    @staticmethod
    def backward(ctx: Any, *towards: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        with torch.no_grad():
            return ctx.network.pull_back(x, towards[0]), None, None
