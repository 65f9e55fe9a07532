"""Mixup and CutMix: every image of a batch is mixed with another one of it, and so is its label."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from poise.core import papers, seeds
from poise.core.errors import SettingsError
from poise.core.seeds import Draw
from poise.core.settings import NonNegative, Settings, UnitInterval, settings


@settings
class Mixing(Settings):
    """Mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019) of each image with another of its batch, drawn per example.

    An image's label is the share of each class in it, so the objective must take soft labels.
    """

    paper = papers.MIXUP
    mixup: NonNegative = 0.8
    """alpha: the share of the image itself is drawn from Beta(alpha, alpha); 0 leaves mixup out."""
    cutmix: NonNegative = 1.0
    """The same for the area that is not cut out; 0 leaves CutMix out."""
    switch: UnitInterval = 0.5
    """Share of the images that CutMix is used on, where both are."""

    def __post_init__(self) -> None:
        if not self.mixup and not self.cutmix:
            raise SettingsError("Mixing.mixup = 0 and cutmix = 0: at least one must be above 0")

    def partners(self, total: int, *key: int | str) -> Tensor:
        """For each place of a batch of `total` images the place of the image that it is mixed with, int64 [total]."""
        return seeds.permutation(total, *key, "partners")

    def mixed(self, x: Tensor, other: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """(x mixed with `other` [B, C, H, W], the share of x in each [B])."""
        cut = draw.within("which").uniform(1)[:, 0] < (
            self.switch if self.mixup and self.cutmix else float(self.cutmix > 0)
        )
        uniform = draw.within("share").uniform(1, dtype=torch.float64)[:, 0]
        by_mixup, by_cutmix = (_beta(uniform, alpha) for alpha in (self.mixup, self.cutmix))
        visible, area = self._cut(x, by_cutmix, draw)
        share = torch.where(cut, area, by_mixup)
        weight = share.to(x.dtype)[:, None, None, None]
        blend = weight * x + (1 - weight) * other
        paste = torch.where(visible[:, None], x, other)
        return torch.where(cut[:, None, None, None], paste, blend), share

    def _cut(self, x: Tensor, share: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """(which pixels of x stay, bool [B, H, W], their share [B]): a box of area 1 - share around a uniform place is
        cut out.
        """
        height, width = x.shape[2:]
        side = (1 - share).sqrt()
        middle = draw.within("place").uniform(2, dtype=torch.float64)
        inside = []
        for axis, length in enumerate((height, width)):
            half = (side * length / 2).floor()[:, None]
            at, places = (middle[:, axis : axis + 1] * length).floor(), torch.arange(length, device=x.device)
            inside.append((places >= at - half) & (places < at + half))
        visible = ~(inside[0][:, :, None] & inside[1][:, None, :])
        return visible, visible.to(torch.float64).mean((1, 2))


def soft(labels: Tensor, others: Tensor, share: Tensor, classes: int) -> Tensor:
    """Labels [B, classes], `share` [B] of which is for the class of `labels` [B] and the rest for that of `others`
    [B].
    """
    rows = torch.arange(len(labels), device=labels.device)
    targets = torch.zeros(len(labels), classes, dtype=torch.float32, device=labels.device)
    weight = share.to(torch.float32)
    targets.index_put_((rows, labels), weight, accumulate=True)
    return targets.index_put_((rows, others), 1 - weight, accumulate=True)


def _beta(uniform: Tensor, alpha: float) -> Tensor:
    """Beta(alpha, alpha) by its quantiles, so that each example has one number of its own; where alpha is 0, ones."""
    from scipy.stats import beta

    if alpha == 0:
        return torch.ones_like(uniform)
    values = np.asarray(beta.ppf(uniform.cpu().numpy(), alpha, alpha))
    return torch.from_numpy(values).to(uniform.device)
