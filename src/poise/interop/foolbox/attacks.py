"""`foolbox.attacks`: the package's names and defaults over Poise's attacks; `FixedEpsilon` gives any other one of ours
its call.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from poise.attacks import pgd as ours
from poise.attacks.ascent import Start
from poise.attacks.attack import Attack as NativeAttack
from poise.core.errors import UnknownNameError
from poise.interop.foolbox.base import Attack
from poise.threats import L1, L2, Linf


@dataclass(eq=False)
class FixedEpsilon(Attack):
    """An attack of Poise's under foolbox's call; the epsilon of its threat is replaced by each of those asked for."""

    attack: NativeAttack

    def native(self, epsilon: float, scale: float) -> NativeAttack:
        threat = dataclasses.replace(cast(Any, self.attack.threat), epsilon=epsilon / scale)
        return dataclasses.replace(cast(Any, self.attack), threat=threat)


@dataclass(kw_only=True, eq=False)
class GradientDescent(Attack):
    """Projected gradient ascent of the cross-entropy. Steps of `abs_stepsize`, or if that is None of `rel_stepsize`
    times epsilon.
    """

    rel_stepsize: float
    abs_stepsize: float | None = None
    steps: int
    random_start: bool
    norm: ClassVar[type[Linf] | type[L2]] = Linf

    def settings(self, epsilon: float, scale: float) -> dict[str, Any]:
        step = self.rel_stepsize * epsilon if self.abs_stepsize is None else self.abs_stepsize
        threat = self.norm(epsilon=epsilon / scale)
        start = "uniform" if self.random_start else "zero"
        return {"threat": threat, "step_size": step / scale, "steps": self.steps, "start": start}

    def native(self, epsilon: float, scale: float) -> NativeAttack:
        return ours.PGD(**self.settings(epsilon, scale))


@dataclass(kw_only=True, eq=False)
class LinfProjectedGradientDescentAttack(GradientDescent):
    """PGD in Linf."""

    rel_stepsize: float = 0.01 / 0.3
    steps: int = 40
    random_start: bool = True


@dataclass(kw_only=True, eq=False)
class L2ProjectedGradientDescentAttack(GradientDescent):
    """PGD in L2."""

    norm = L2
    rel_stepsize: float = 0.025
    steps: int = 50
    random_start: bool = True


@dataclass(kw_only=True, eq=False)
class LinfBasicIterativeAttack(GradientDescent):
    """PGD in Linf from the image itself."""

    rel_stepsize: float = 0.2
    steps: int = 10
    random_start: bool = False


@dataclass(kw_only=True, eq=False)
class L2BasicIterativeAttack(LinfBasicIterativeAttack):
    """PGD in L2 from the image itself."""

    norm = L2


@dataclass(kw_only=True, eq=False)
class SparseL1DescentAttack(GradientDescent):
    """PGD in L1 from the image itself, each step along the share 1 - quantile of coordinates of largest gradient."""

    quantile: float = 0.99
    rel_stepsize: float = 0.2
    steps: int = 10
    random_start: bool = False

    def settings(self, epsilon: float, scale: float) -> dict[str, Any]:
        threat = L1(epsilon=epsilon / scale, density=1 - self.quantile)
        return super().settings(epsilon, scale) | {"threat": threat}


@dataclass(kw_only=True, eq=False)
class LinfFastGradientAttack(Attack):
    """FGSM, one step of epsilon."""

    norm: ClassVar[type[Linf] | type[L2]] = Linf
    random_start: bool = False

    def native(self, epsilon: float, scale: float) -> NativeAttack:
        start: Start = "uniform" if self.random_start else "zero"
        return ours.PGD(threat=self.norm(epsilon=epsilon / scale), step_size=epsilon / scale, steps=1, start=start)


@dataclass(kw_only=True, eq=False)
class L2FastGradientAttack(LinfFastGradientAttack):
    """One step of length epsilon along the gradient."""

    norm = L2


@dataclass(kw_only=True, eq=False)
class LinfMomentumIterativeFastGradientMethod(GradientDescent):
    """MIM in Linf."""

    momentum: float = 1.0
    normalised: bool = True
    """Each gradient is divided by its mean absolute value before it is summed (Dong et al. 2018); False, as in the
    package: by nothing.
    """
    rel_stepsize: float = 0.2
    steps: int = 10
    random_start: bool = False

    def native(self, epsilon: float, scale: float) -> NativeAttack:
        more = {"momentum": self.momentum, "normalised": self.normalised}
        return ours.MIM(**self.settings(epsilon, scale), **more)


FGSM, FGM = LinfFastGradientAttack, L2FastGradientAttack
PGD = LinfPGD = LinfProjectedGradientDescentAttack
L2PGD = L2ProjectedGradientDescentAttack
MIFGSM = LinfMomentumIterativeFastGradientMethod


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    raise UnknownNameError(f"poise.interop.foolbox has no attack {name!r}; it has {', '.join(__all__)}")


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
    "SparseL1DescentAttack",
]
