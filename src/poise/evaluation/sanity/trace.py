"""What a forward pass calls: the tensor operations below every module, with the types they compute in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_ROUNDING = {"round", "floor", "ceil", "trunc", "frac", "sign", "sgn", "heaviside", "bucketize", "searchsorted"}
_RANDOM = ("rand", "normal", "uniform", "bernoulli", "dropout", "multinomial", "exponential", "poisson")
_NARROW = {torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2}


class Trace(TorchDispatchMode):
    """Records while it is entered. rounding, random: names of the operations; narrow: types of fewer bits than
    float32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rounding: set[str] = set()
        self.random: set[str] = set()
        self.narrow: set[str] = set()

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = str(getattr(getattr(func, "overloadpacket", func), "__name__", func))
        plain = name.strip("_")
        if plain in _ROUNDING or "quantize" in plain:
            self.rounding.add(plain)
        if any(word in plain for word in _RANDOM):
            self.random.add(plain)
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor) and tensor.dtype in _NARROW:
                self.narrow.add(str(tensor.dtype).removeprefix("torch."))
        if plain == "to_copy" and isinstance(out, Tensor) and args[0].is_floating_point() != out.is_floating_point():
            self.rounding.add(f"{str(args[0].dtype).removeprefix('torch.')} to {str(out.dtype).removeprefix('torch.')}")
        return out
