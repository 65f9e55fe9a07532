"""`autoattack.autopgd_base`: APGD alone."""

from __future__ import annotations

from typing import Any, Literal

import torch

from poise.interop.autoattack_parts import APGDAttack as _Part
from poise.interop.autoattack_parts import APGDTargeted as _Targeted
from poise.interop.autoattack_parts import Model, refused


class APGDAttack(_Part):
    """The package's constructor and defaults over APGD; `perturb(x, y)` as in the package.

    Raises: SettingsError for a setting of the package's that is not had here (topk, is_tf_model).
    """

    def __init__(
        self,
        predict: Model,
        n_iter: int = 100,
        norm: str = "Linf",
        n_restarts: int = 1,
        eps: float | None = None,
        seed: int | None = 0,
        loss: Literal["ce", "dlr"] = "ce",
        eot_iter: int = 1,
        rho: float = 0.75,
        topk: float | None = None,
        verbose: bool = False,
        device: torch.device | str | None = None,
        use_largereps: bool = False,
        is_tf_model: bool = False,
        logger: Any = None,
    ) -> None:
        refused("APGDAttack", eps=eps is None, topk=topk, is_tf_model=is_tf_model)
        super().__init__(
            predict, norm, eps or 0.0, seed, device, verbose, n_restarts, n_iter, loss, eot_iter, rho, use_largereps
        )


class APGDAttack_targeted(_Targeted):
    """The package's constructor and defaults over APGD-T."""

    def __init__(
        self,
        predict: Model,
        n_iter: int = 100,
        norm: str = "Linf",
        n_restarts: int = 1,
        eps: float | None = None,
        seed: int | None = 0,
        eot_iter: int = 1,
        rho: float = 0.75,
        topk: float | None = None,
        n_target_classes: int = 9,
        verbose: bool = False,
        device: torch.device | str | None = None,
        use_largereps: bool = False,
        is_tf_model: bool = False,
        logger: Any = None,
    ) -> None:
        refused("APGDAttack_targeted", eps=eps is None, topk=topk, is_tf_model=is_tf_model)
        rest = (n_restarts, n_iter, n_target_classes, eot_iter, rho, use_largereps)
        super().__init__(predict, norm, eps or 0.0, seed, device, verbose, *rest)


__all__ = ["APGDAttack", "APGDAttack_targeted"]
