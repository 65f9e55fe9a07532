"""Batch normalisation over the parts of a batch that several ranks hold, on CPUs (gloo) as on GPUs.

torch.nn.SyncBatchNorm is for GPUs only, and its gradient cannot be differentiated again, which gradient regularisers
need. Here both moments are differentiable sums over ranks, so parts of different sizes weigh as their examples do.
"""

from __future__ import annotations

import copy
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from poise.core.distributed import ALONE, World
from poise.core.errors import SettingsError

Statistics = Literal["local", "averaged", "synchronised"]
"""Over which examples a batch normalisation that several ranks share takes its statistics, and which running ones are
kept.
"""


class _Sum(torch.autograd.Function):
    """The sum over ranks. What is minimised is the sum of all ranks' losses, so the gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, world: World) -> Tensor:
        ctx.world = world
        total = part.detach().clone()
        world.sum_([total])
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return summed(gradients[0], ctx.world), None


def summed(part: Tensor, world: World) -> Tensor:
    """The sum of `part` over the ranks, on each of them; differentiable as often as one likes. All ranks call this
    together.
    """
    return cast(Tensor, _Sum.apply(part, world))


class _Synchronised(_BatchNorm):
    """Batch normalisation by the moments of all ranks' examples. A copy of it belongs to no ranks: it is plain batch
    normalisation.
    """

    world: World = ALONE
    over_ranks = True

    def forward(self, input: Tensor) -> Tensor:
        if not self.training and self.running_mean is not None:
            return super().forward(input)
        self._check_input_dim(input)
        z = input if input.dtype == torch.float64 else input.float()
        axes, shape = [axis for axis in range(z.dim()) if axis != 1], [1, -1, *[1] * (z.dim() - 2)]
        first = summed(torch.cat([z.sum(axes), z.new_full((1,), z.numel() / z.shape[1])]), self.world)
        count, mean = first[-1].detach(), first[:-1] / first[-1].detach()
        centred_z = z - mean.view(shape)
        variance = summed(centred_z.square().sum(axes), self.world) / count
        if self.training and self.track_running_stats:
            self._track(mean.detach(), variance.detach() * count / (count - 1))
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        normalised_z = centred_z * scale.view(shape)
        return (normalised_z + self.bias.view(shape) if self.affine else normalised_z).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased: Tensor) -> None:
        """Move the running statistics as torch does; momentum None is a cumulative mean."""
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.to(mean.dtype)
        for running, batch_value in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.mul_(1 - share).add_(share * batch_value.to(running.dtype))

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        plain = _emptied(PLAIN[type(self)], self)
        memo[id(self)] = plain
        _take_over(plain, {name: copy.deepcopy(part, memo) for name, part in _parts(self).items()})
        plain.training = self.training
        return plain


class SynchronisedBatchNorm1d(_Synchronised, nn.BatchNorm1d):
    """nn.BatchNorm1d over ranks: [B, C] or [B, C, L]."""


class SynchronisedBatchNorm2d(_Synchronised, nn.BatchNorm2d):
    """nn.BatchNorm2d over ranks: [B, C, H, W]."""


PLAIN: dict[type[nn.Module], type[_BatchNorm]] = {
    SynchronisedBatchNorm1d: nn.BatchNorm1d,
    SynchronisedBatchNorm2d: nn.BatchNorm2d,
}
ACROSS = {plain: across for across, plain in PLAIN.items()}


def synchronise(network: nn.Module, world: World) -> None:
    """Make every batch normalisation of `network` one over the ranks of `world`, in place; its tensors stay the same
    objects.

    Each rank must then do the same forwards in training and frozen-statistics mode. Alone nothing changes.
    Raises: SettingsError for a kind of normalisation by the batch that is not known here.
    """
    if world.size == 1:
        return
    copies: dict[int, _Synchronised] = {}
    for name, norm in list(network.named_modules(remove_duplicate=False)):
        if not isinstance(norm, _NormBase) or isinstance(norm, nn.modules.instancenorm._InstanceNorm):
            continue
        if type(norm) not in ACROSS:
            kind = type(norm).__name__
            raise SettingsError(
                f"statistics = 'synchronised': {name!r} is a {kind}; must be BatchNorm1d or BatchNorm2d"
            )
        if id(norm) not in copies:
            across = cast(_Synchronised, _emptied(ACROSS[cast(Any, type(norm))], norm))
            across.world = world
            _take_over(across, _parts(norm))
            across.training = norm.training
            copies[id(norm)] = across
        network.set_submodule(name, copies[id(norm)])


def _parts(norm: nn.Module) -> dict[str, Tensor | None]:
    return {**norm._parameters, **norm._buffers}


def _emptied(kind: type[Any], like: Any) -> Any:
    return kind(like.num_features, like.eps, like.momentum, like.affine, like.track_running_stats)


def _take_over(norm: nn.Module, parts: dict[str, Tensor | None]) -> None:
    for name, part in parts.items():
        setattr(norm, name, part)
