"""The names of the `foolbox` package over Poise's attacks.

    import poise.interop.foolbox as fb
    fmodel = fb.PyTorchModel(model, bounds=(0, 1))
    raw, clipped, success = fb.attacks.LinfPGD()(fmodel, images, labels, epsilons=[0.01, 0.03])

For a list of epsilons `raw` and `clipped` are lists and `success` is [epsilons, B]; for one epsilon they are single
tensors. The attacks can be had from here too, and any attack of Poise's takes part as `FixedEpsilon(APGD())`. What
differs: starts are seeded (a new attack's first call always draws the same, each further call draws anew), inputs are
tensors of torch, an Linf epsilon is at most 1 (all of the bounds), and MIFGSM follows gradients that are normalised
before they are summed, as its paper has it; `MIFGSM(normalised=False)` sums them as they are, as the package does.
"""

from __future__ import annotations

from typing import Any

from poise.interop.foolbox import attacks, criteria, models
from poise.interop.foolbox.attacks import (
    FGM,
    FGSM,
    L2PGD,
    MIFGSM,
    PGD,
    Attack,
    FixedEpsilon,
    L2BasicIterativeAttack,
    L2FastGradientAttack,
    L2ProjectedGradientDescentAttack,
    LinfBasicIterativeAttack,
    LinfFastGradientAttack,
    LinfMomentumIterativeFastGradientMethod,
    LinfPGD,
    LinfProjectedGradientDescentAttack,
    SparseL1DescentAttack,
)
from poise.interop.foolbox.criteria import Misclassification, TargetedMisclassification
from poise.interop.foolbox.images import samples
from poise.interop.foolbox.models import PyTorchModel, accuracy


def __getattr__(name: str) -> Any:
    return getattr(attacks, name)  # which says what there is


__all__ = [
    "FGM",
    "FGSM",
    "L2PGD",
    "MIFGSM",
    "PGD",
    "Attack",
    "FixedEpsilon",
    "L2BasicIterativeAttack",
    "L2FastGradientAttack",
    "L2ProjectedGradientDescentAttack",
    "LinfBasicIterativeAttack",
    "LinfFastGradientAttack",
    "LinfMomentumIterativeFastGradientMethod",
    "LinfPGD",
    "LinfProjectedGradientDescentAttack",
    "Misclassification",
    "PyTorchModel",
    "SparseL1DescentAttack",
    "TargetedMisclassification",
    "accuracy",
    "attacks",
    "criteria",
    "models",
    "samples",
]
