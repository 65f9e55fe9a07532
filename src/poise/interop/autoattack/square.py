"""`autoattack.square`: Square alone."""

from __future__ import annotations

from typing import Literal

import torch

from poise.interop.autoattack_parts import Model, refused
from poise.interop.autoattack_parts import SquareAttack as _Part


class SquareAttack(_Part):
    """The package's constructor and defaults; `perturb(x, y)` as in the package.

    Raises: SettingsError for a setting of the package's that is not had here (targeted, another loss).
    """

    def __init__(
        self,
        predict: Model,
        norm: str = "Linf",
        n_queries: int = 5000,
        eps: float | None = None,
        p_init: float = 0.8,
        n_restarts: int = 1,
        seed: int | None = 0,
        verbose: bool = False,
        targeted: bool = False,
        loss: Literal["margin"] = "margin",
        resc_schedule: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        refused("SquareAttack", eps=eps is None, targeted=targeted, loss=None if loss == "margin" else loss)
        super().__init__(predict, norm, eps or 0.0, seed, device, verbose, n_restarts, n_queries, p_init, resc_schedule)


__all__ = ["SquareAttack"]
