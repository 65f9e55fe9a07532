"""The names of the `torchattacks` package over Poise's attacks.

    from poise.interop.torchattacks import PGD
    atk = PGD(model, eps=8 / 255, alpha=2 / 255, steps=10)
    adv_images = atk(images, labels)

Arguments, defaults and modes are those of the package; images are [B, C, H, W] in [0, 1], or normalised after
`set_normalization_used`. What differs: draws are seeded (a new attack's first call always draws the same and each
further call draws anew; attacks with a `seed` draw the same in every call), APGD, FAB, Square and AutoAttack give back
an image that they do not fool as it was, AutoAttack has its paper's budgets, where the package cuts APGD and FAB to 10
steps, and an Linf epsilon is at most 1. An attack that is not here: `poise.attacks.Torchattacks(name=...)`; one of your
own inherits from `attack.Attack` and says by `native()` which of Poise's it is, or has a `__call__` of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from poise.attacks import autoattack as ours_autoattack
from poise.attacks import pgd as ours
from poise.attacks.ascent import Start
from poise.attacks.attack import Attack as NativeAttack
from poise.attacks.autoattack import apgd as ours_apgd
from poise.attacks.autoattack import fab as ours_fab
from poise.attacks.autoattack import square as ours_square
from poise.core.errors import InputError, SettingsError, UnknownNameError
from poise.core.version import __version__
from poise.interop import torchattacks_base as attack
from poise.interop.asking import predicted
from poise.interop.autoattack_parts import threat_of
from poise.interop.torchattacks_base import Attack
from poise.threats import L2, Linf

Norm = Literal["Linf", "L2", "L1"]


def start_of(random_start: bool) -> Start:
    return "uniform" if random_start else "zero"


@dataclass(eq=False)
class FGSM(Attack):
    """One step of the gradient's sign."""

    eps: float = 8 / 255

    def native(self) -> NativeAttack:
        return ours.FGSM(threat=Linf(epsilon=self.eps))


@dataclass(eq=False)
class BIM(Attack):
    """PGD from the image itself; steps=0 chooses their number by epsilon, as in its paper."""

    eps: float = 8 / 255
    alpha: float = 2 / 255
    steps: int = 10

    def native(self) -> NativeAttack:
        threat, steps = Linf(epsilon=self.eps), self.steps
        if steps == 0 and not isinstance(steps, bool):
            steps = int(min(self.eps * 255 + 4, 1.25 * self.eps * 255))
            # an epsilon so small that no step is left
            threat, steps = (threat, steps) if steps else (Linf(epsilon=0), 1)
        return ours.PGD(threat=threat, step_size=self.alpha, steps=steps, start="zero")


@dataclass(eq=False)
class PGD(Attack):
    """PGD in Linf."""

    eps: float = 8 / 255
    alpha: float = 2 / 255
    steps: int = 10
    random_start: bool = True

    def native(self) -> NativeAttack:
        return ours.PGD(
            threat=Linf(epsilon=self.eps), step_size=self.alpha, steps=self.steps, start=start_of(self.random_start)
        )


@dataclass(eq=False)
class PGDL2(Attack):
    """PGD in L2. `eps_for_division` is accepted and not needed."""

    eps: float = 1.0
    alpha: float = 0.2
    steps: int = 10
    random_start: bool = True
    eps_for_division: float = 1e-10

    def native(self) -> NativeAttack:
        return ours.PGD(
            threat=L2(epsilon=self.eps), step_size=self.alpha, steps=self.steps, start=start_of(self.random_start)
        )


@dataclass(eq=False)
class TPGD(Attack):
    """TRADES' inner maximisation: PGD on the divergence from the natural prediction, from a little normal noise,
    clamped to [0, 1] as in the package. Needs no labels.
    """

    supported_mode: ClassVar[tuple[str, ...]] = ("default",)
    eps: float = 8 / 255
    alpha: float = 2 / 255
    steps: int = 10

    def native(self) -> NativeAttack:
        return ours.PGD(
            threat=Linf(epsilon=self.eps), step_size=self.alpha, steps=self.steps, start="clamped_gaussian", loss="kl"
        )


@dataclass(eq=False)
class MIFGSM(Attack):
    """The momentum iterative method, from the image itself."""

    eps: float = 8 / 255
    alpha: float = 2 / 255
    steps: int = 10
    decay: float = 1.0

    def native(self) -> NativeAttack:
        return ours.MIM(
            threat=Linf(epsilon=self.eps), step_size=self.alpha, steps=self.steps, momentum=self.decay, start="zero"
        )


@dataclass(eq=False)
class APGD(Attack):
    """APGD on cross-entropy ("ce") or DLR ("dlr")."""

    supported_mode: ClassVar[tuple[str, ...]] = ("default",)
    norm: Norm = "Linf"
    eps: float = 8 / 255
    steps: int = 10
    n_restarts: int = 1
    seed: int | None = 0
    loss: Literal["ce", "dlr"] = "ce"
    eot_iter: int = 1
    rho: float = 0.75
    verbose: bool = False

    def native(self) -> NativeAttack:
        if self.loss not in ("ce", "dlr"):
            raise SettingsError(f"loss = {self.loss!r}, must be 'ce' or 'dlr'")
        loss: ours_apgd.Loss = "cross_entropy" if self.loss == "ce" else "dlr"
        rest: dict[str, Any] = {"restarts": self.n_restarts, "eot_iterations": self.eot_iter, "rho": self.rho}
        return ours_apgd.APGD(threat=threat_of(self.norm, self.eps), steps=self.steps, loss=loss, **rest)


@dataclass(eq=False)
class APGDT(Attack):
    """APGD on the targeted DLR, towards the n_classes - 1 likeliest classes."""

    supported_mode: ClassVar[tuple[str, ...]] = ("default",)
    norm: Norm = "Linf"
    eps: float = 8 / 255
    steps: int = 10
    n_restarts: int = 1
    seed: int | None = 0
    eot_iter: int = 1
    rho: float = 0.75
    verbose: bool = False
    n_classes: int = 10

    def native(self) -> NativeAttack:
        rest: dict[str, Any] = {"restarts": self.n_restarts, "eot_iterations": self.eot_iter, "rho": self.rho}
        targets, threat = self.n_classes - 1, threat_of(self.norm, self.eps)
        return ours_apgd.APGD(threat=threat, steps=self.steps, loss="targeted_dlr", targets=targets, **rest)


@dataclass(eq=False)
class FAB(Attack):
    """FAB, and with `multi_targeted` FAB-T towards the n_classes - 1 likeliest classes."""

    norm: Norm = "Linf"
    eps: float = 8 / 255
    steps: int = 10
    n_restarts: int = 1
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    verbose: bool = False
    seed: int | None = 0
    multi_targeted: bool = False
    n_classes: int = 10

    def native(self) -> NativeAttack:
        rest: dict[str, Any] = {
            "alpha_max": self.alpha_max,
            "eta": self.eta,
            "beta": self.beta,
            "restarts": self.n_restarts,
        }
        rest |= {"targeted": self.multi_targeted, "targets": self.n_classes - 1}
        return ours_fab.FAB(threat=threat_of(self.norm, self.eps), steps=self.steps, **rest)


@dataclass(eq=False)
class Square(Attack):
    """Square on the margin loss."""

    norm: Norm = "Linf"
    eps: float = 8 / 255
    n_queries: int = 5000
    n_restarts: int = 1
    p_init: float = 0.8
    loss: Literal["margin"] = "margin"
    resc_schedule: bool = True
    seed: int | None = 0
    verbose: bool = False

    def native(self) -> NativeAttack:
        if self.loss != "margin":
            raise SettingsError(f"loss = {self.loss!r}, must be 'margin'")
        rest: dict[str, Any] = {"restarts": self.n_restarts, "p_init": self.p_init, "rescale": self.resc_schedule}
        return ours_square.Square(threat=threat_of(self.norm, self.eps), queries=self.n_queries, **rest)


@dataclass(eq=False)
class AutoAttack(Attack):
    """AutoAttack, version "standard", "plus" or "rand"; the number of classes is read off the model."""

    supported_mode: ClassVar[tuple[str, ...]] = ("default",)
    norm: Norm = "Linf"
    eps: float = 8 / 255
    version: Literal["standard", "plus", "rand"] = "standard"
    n_classes: int = 10
    seed: int | None = None
    verbose: bool = False

    def native(self) -> NativeAttack:
        if self.version not in ("standard", "plus", "rand"):
            raise SettingsError(f"version = {self.version!r}, must be 'standard', 'plus' or 'rand'")
        return ours_autoattack.AutoAttack(threat=threat_of(self.norm, self.eps), version=self.version)


@dataclass(eq=False)
class CW(Attack):
    """The attack of Carlini and Wagner of least L2 distance is none of Poise's: `poise.attacks.Torchattacks(name="CW")`
    shows the package's own. Raises: SettingsError.
    """

    c: float = 1
    kappa: float = 0
    steps: int = 50
    lr: float = 0.01

    def native(self) -> NativeAttack:
        raise SettingsError(
            "CW: the attack of least L2 distance is not had here; poise.attacks.Torchattacks(name='CW') runs the"
            " package's own, and poise.attacks.CW ascends the margin within a threat"
        )


class MultiAttack(Attack):
    """Several attacks, one after the other, each on the images that all before it did not fool; images [B, C, H, W]
    come back as the first that fooled the model made them, else as the last one did.

    Raises: InputError for fewer than two attacks, or attacks on different models.
    """

    def __init__(self, attacks: Sequence[Attack], verbose: bool = False) -> None:
        if not isinstance(attacks, list | tuple) or not all(isinstance(one, Attack) for one in attacks):
            raise InputError(f"attacks is {type(attacks).__name__}, must be a list of attacks of this module")
        if len(attacks) < 2:
            raise InputError(f"attacks has {len(attacks)} entries, must have at least 2")
        if any(one.model is not attacks[0].model for one in attacks):
            raise InputError("attacks are on different models, must be on one")
        super().__init__(attacks[0].model)
        self.attacks = list(attacks)

    def native(self) -> NativeAttack:
        raise SettingsError("MultiAttack is no one attack of Poise's; each of its `attacks` is")

    def __call__(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        adversarial = self.attacks[0](inputs, labels)
        truth = (predicted(self._network(), inputs) if labels is None else labels).to(adversarial.device)
        for one in self.attacks[1:]:
            rows = (predicted(self._network(), adversarial) == truth).nonzero()[:, 0]
            if len(rows):
                adversarial[rows] = one(inputs.to(adversarial.device)[rows], truth[rows])
        return adversarial


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    raise UnknownNameError(f"poise.interop.torchattacks has no attack {name!r}; it has {', '.join(sorted(NAMES))}")


__all__ = [
    "APGD",
    "APGDT",
    "BIM",
    "CW",
    "FAB",
    "FGSM",
    "MIFGSM",
    "PGD",
    "PGDL2",
    "TPGD",
    "Attack",
    "AutoAttack",
    "MultiAttack",
    "Square",
    "__version__",
    "attack",
]
NAMES = tuple(name for name in __all__ if name not in ("Attack", "__version__", "attack"))
