"""`autoattack.fab_pt`: FAB alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from poise.interop.autoattack_parts import FABAttack as _Part
from poise.interop.autoattack_parts import Model, refused


class FABAttack_PT(_Part):
    """The package's constructor and defaults over FAB and FAB-T; `perturb(x, y)` as in the package.

    Raises: SettingsError for a setting of the package's that is not had here (loss_fn).
    """

    def __init__(
        self,
        predict: Model,
        norm: str = "Linf",
        n_restarts: int = 1,
        n_iter: int = 100,
        eps: float | None = None,
        alpha_max: float = 0.1,
        eta: float = 1.05,
        beta: float = 0.9,
        loss_fn: Callable[..., Tensor] | None = None,
        verbose: bool = False,
        seed: int | None = 0,
        targeted: bool = False,
        device: torch.device | str | None = None,
        n_target_classes: int = 9,
    ) -> None:
        refused("FABAttack_PT", eps=eps is None, loss_fn=loss_fn)
        rest = (n_restarts, n_iter, alpha_max, eta, beta, targeted, n_target_classes)
        super().__init__(predict, norm, eps or 0.0, seed, device, verbose, *rest)


__all__ = ["FABAttack_PT"]
