"""Random draws that depend on (seed, purpose, step, example) and on nothing else.

No generator is kept: every number is a hash of its key (SplitMix64 in counter mode, Steele et al. 2014), so the draw of
one example is the same whatever the batch size, the rank, the order of calls or the step at which a run was resumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from poise.core.lengths import wide

_DIGITS = {torch.float16: 11, torch.bfloat16: 8, torch.float32: 24, torch.float64: 53}
_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def key_of(*parts: int | str) -> int:
    """A 63-bit key of the parts; different parts give different keys."""
    digest = hashlib.blake2b("\x1f".join(f"{type(part).__name__}:{part}" for part in parts).encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "little") >> 1


def _mix(z: Tensor) -> Tensor:
    """The SplitMix64 finaliser on int64 tensors (wrapping arithmetic, logical shifts), in place."""
    for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
        z.bitwise_xor_((z >> shift).bitwise_and_((1 << (64 - shift)) - 1)).mul_(factor)
    return z.bitwise_xor_((z >> 31).bitwise_and_((1 << 33) - 1))


@dataclass(frozen=True)
class Draw:
    """A source of random numbers for a batch: `key` names the occasion, `index` [B] (int64) the examples.

    In training the index is the place in the global batch, in evaluation the example's number in the data set.
    Every method may be called again with the same result; draws that must differ need another `purpose`.
    """

    key: int
    index: Tensor

    def within(self, *purpose: int | str) -> Draw:
        """The draw for a more special purpose, independent of this one."""
        return Draw(key_of(self.key, *purpose), self.index)

    def __getitem__(self, rows: Tensor | slice) -> Draw:
        """The draw for a part of the batch: each example keeps its own numbers."""
        return Draw(self.key, self.index[rows])

    def bits(self, count: int) -> Tensor:
        """Uniform int64 [B, count]."""
        rows = _mix(self.index.to(torch.int64) * _GOLDEN + self.key)
        columns = torch.arange(1, count + 1, device=rows.device, dtype=torch.int64).mul_(_GOLDEN)
        return _mix(rows[:, None] + columns)

    def uniform(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Uniform on [0, 1) of shape [B, *shape], with as many random bits as the type holds: 24 in float32, 53 in
        float64.
        """
        dtype = dtype or torch.get_default_dtype()
        count = int(torch.Size(shape).numel())
        digits = _DIGITS[dtype]  # with more, the largest would round up to 1
        mantissas = (self.bits(count) >> (64 - digits)).bitwise_and_((1 << digits) - 1)
        values = mantissas.to(wide(dtype)).mul_(2.0**-digits)
        return values.to(dtype).reshape(len(self.index), *shape)

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Standard normal of shape [B, *shape] (Box and Muller, 1958)."""
        dtype = dtype or torch.get_default_dtype()
        # (0, 1]: its logarithm is finite
        radius = self.within("radius").uniform(*shape, dtype=wide(dtype)).neg_().add_(1)
        angle = self.within("angle").uniform(*shape, dtype=wide(dtype))
        return radius.log_().mul_(-2).sqrt_().mul_(angle.mul_(2 * torch.pi).cos_()).to(dtype)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform integers in [0, high), int64 [B, *shape]."""
        return (self.uniform(*shape, dtype=torch.float64) * high).to(torch.int64)


@contextmanager
def generators_kept(device: torch.device) -> Iterator[None]:
    """torch's generators on the host and on this device, from which a network may draw, come back as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else [], device_type="cuda"):
        yield


def everyone(*parts: int | str, count: int, device: torch.device | str = "cpu") -> Draw:
    """The draw keyed by `parts` for examples 0 .. count-1."""
    return Draw(key_of(*parts), torch.arange(count, device=device))


def permutation(count: int, *parts: int | str, device: torch.device | str = "cpu") -> Tensor:
    """A random order of 0 .. count-1 keyed by `parts`, int64 [count]."""
    return torch.argsort(everyone(*parts, "order", count=count, device=device).bits(1)[:, 0], stable=True)


@contextmanager
def seeded(*parts: int | str, device: torch.device) -> Iterator[None]:
    """torch's own generators at the key, as they were before afterwards: for library code that draws from them
    (dropout).
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(key_of(*parts))
        yield


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by the key, for library code that wants one (weight initialisation)."""
    return torch.Generator().manual_seed(key_of(*parts))
