"""The named protocols, each scaled to the threat it is asked for: `named("zipper-linf").at(Linf(epsilon=4 / 255))`.

Every attack does as many steps as its name says. AutoAttack is the standard version; a component beside it is that
attack alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from poise.attacks import APGD, CW, FGSM, MIM, PGD, Attack, AutoAttack
from poise.attacks.autoattack import PUBLISHED
from poise.core import papers
from poise.core.errors import SettingsError, did_you_mean
from poise.core.papers import Paper
from poise.core.settings import number, tag_of
from poise.evaluation.protocol import Protocol
from poise.evaluation.soe_protocols import TRANSFER, soe_adaptive, soe_aimed, soe_benchmark, soe_lambdas
from poise.threats import L1, L2, Linf, Threat

Build = Callable[[Threat, float], tuple[Attack, ...]]
"""(threat, step size) -> the attacks."""


@dataclass(frozen=True)
class NamedProtocol:
    """A protocol that can be had at any epsilon of the norms it is defined for.

    scales: a threat of each norm with its step size, first the default; other epsilons scale the step size in
    proportion.
    """

    name: str
    line: str
    scales: tuple[tuple[Threat, float], ...]
    build: Build
    paper: Paper | None = None
    rest: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Other settings of the Protocol: first, chosen, note."""
    general: bool = False
    """Whether it is meant for the threat that a network was trained under: it is of no paper's table, or of one that
    has each network evaluated at an epsilon of its own."""

    def at(self, threat: Threat | None = None, step_size: float | str | None = None) -> Protocol:
        """The protocol under this threat; what differs from the default is in its name, so that records do not collide.

        Raises: SettingsError for a norm that it is not defined for, or a step size out of range.
        """
        threat = threat if threat is not None else self.scales[0][0]
        scale_own = next(
            ((scale_threat, step) for scale_threat, step in self.scales if type(scale_threat) is type(threat)), None
        )
        if scale_own is None:
            norms = " and ".join(type(scale_threat).__name__ for scale_threat, _ in self.scales)
            raise SettingsError(f"protocol {self.name!r} is defined for {norms} only, not for {type(threat).__name__}")
        if threat.epsilon == 0:
            raise SettingsError(f"epsilon = 0: protocol {self.name!r} needs a positive one")
        step_scaled = scale_own[1] * (threat.epsilon / scale_own[0].epsilon)  # exactly the default at the default
        used_step = step_scaled if step_size is None else _number(step_size)
        attacks = self.build(threat, used_step)
        steps = [step for attack in attacks if (step := getattr(attack, "step_size", None)) is not None]
        if step_size is not None and used_step not in steps:
            raise SettingsError(f"step_size = {step_size}: protocol {self.name!r} has no step size to choose")
        label = self.name + (f"-{tag_of(threat).lower()}" if type(threat) is not type(self.scales[0][0]) else "")
        label += f"-eps{threat.epsilon:.4g}" if threat != scale_own[0] else ""
        label += f"-step{steps[0]:.4g}" if step_size is not None and used_step != step_scaled else ""
        return Protocol(name=label, attacks=attacks, **self.rest)


def _number(step_size: float | str) -> float:
    try:
        return float(number(step_size))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise SettingsError(f"step_size = {step_size!r}: must be a number such as 0.007 or 2/255") from None


def named(name: str) -> NamedProtocol:
    """Raises: SettingsError with the nearest name, or with the command for protocols of surrogates."""
    if name in TRANSFER:
        raise SettingsError(f"{name} is made on surrogates, by: poise transfer RUN --surrogate RUN --protocol {name}")
    if name not in PROTOCOLS:
        raise SettingsError(f"there is no protocol {name!r}{did_you_mean(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def standard(threat: Threat | None = None, step_size: float = 2 / 255) -> Protocol:
    """FGSM, PGD-20, PGD-100, MIM-20 and CW-100 (uniform start, one restart), AutoAttack and each of its components
    alone.
    """
    return Protocol(name="standard", attacks=_standard(threat or Linf(), step_size))


def strict(threat: Threat, step_size: float) -> Protocol:
    """PGD-20, and for the worst case PGD-100 with 3 restarts and PGD-100 on the margin: what small data needs to be
    honest.
    """
    return Protocol(name="strict", attacks=_strict(threat, step_size))


def at_each(name: str, protocols: Sequence[Protocol]) -> Protocol:
    """One protocol `name` of all attacks of several, each within one threat; its worst case is over their union.

    Raises: SettingsError for two of one norm and epsilon, or none.
    """
    if not protocols:
        raise SettingsError("--epsilon: the list is empty, must hold at least one number")
    threats = [protocol.attacks[0].threat for protocol in protocols]
    if len(protocols) == 1:
        return protocols[0]
    norms = list(dict.fromkeys(map(tag_of, threats)))
    sizes = {norm: [f"{threat.epsilon:.4g}" for threat in threats if tag_of(threat) == norm] for norm in norms}
    for norm, radii in sizes.items():
        if len(set(radii)) < len(radii):
            raise SettingsError(f"--epsilon {', '.join(radii)}: every one of a list must be another, within {norm}")
    label = "-".join((f"{norm.lower()}-" if len(norms) > 1 else "") + f"eps{'-'.join(sizes[norm])}" for norm in norms)
    attacks = tuple(attack for protocol in protocols for attack in protocol.attacks)
    return dataclasses.replace(protocols[0], name=f"{name}-{label}", attacks=attacks)


def union(protocol: Protocol, attacks: Sequence[Attack]) -> Protocol:
    """The protocol with attacks within other norms after it; its worst case is over their union."""
    norms = dict.fromkeys(tag_of(attack.threat).lower() for attack in attacks)
    return dataclasses.replace(protocol, name="+".join([protocol.name, *norms]), attacks=(*protocol.attacks, *attacks))


def plus_autoattack(protocol: Protocol, threat: Threat | None = None) -> Protocol:
    """The protocol with AutoAttack after it, by default at Linf 8/255: columns of papers whose PGD had another
    epsilon.
    """
    attacks = (*protocol.attacks, AutoAttack(threat=threat or Linf()))
    return dataclasses.replace(protocol, name=f"{protocol.name}+aa", attacks=attacks)


def components(threat: Threat, *names: str) -> tuple[Attack, ...]:
    """AutoAttack's components of these published names under the threat, by default those of the standard version."""
    if not names:
        return AutoAttack(threat=threat).components()
    return tuple(dataclasses.replace(cast(Any, PUBLISHED[name]), threat=threat) for name in names)


def _gradient(threat: Threat, step_size: float) -> tuple[Attack, ...]:
    common: dict[str, Any] = {"threat": threat, "step_size": step_size}
    return PGD(**common), PGD(steps=100, **common), MIM(**common), CW(**common)


def _cheap(threat: Threat, step_size: float) -> tuple[Attack, ...]:
    return FGSM(threat=threat), *_gradient(threat, step_size)


def _standard(threat: Threat, step_size: float) -> tuple[Attack, ...]:
    return *_cheap(threat, step_size), *components(threat), AutoAttack(threat=threat)


def _strict(threat: Threat, step_size: float) -> tuple[Attack, ...]:
    common: dict[str, Any] = {"threat": threat, "step_size": step_size}
    return PGD(**common), PGD(steps=100, restarts=3, **common), PGD(steps=100, loss="margin", **common)


def _autoattack(threat: Threat, step_size: float) -> tuple[Attack, ...]:
    return *components(threat), AutoAttack(threat=threat)


def _zipper(threat: Threat, step_size: float) -> tuple[Attack, ...]:
    parts = components(threat, "apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square")
    return *_gradient(threat, step_size), *parts, AutoAttack(threat=threat)


def _zipper_mnist(threat: Threat, step_size: float) -> tuple[Attack, ...]:
    common: dict[str, Any] = {"threat": threat, "step_size": step_size}
    return PGD(steps=40, **common), PGD(steps=100, **common), MIM(steps=40, **common), AutoAttack(threat=threat)


def _zipper_compat(threat: Threat, step_size: float) -> tuple[Attack, ...]:
    common: dict[str, Any] = {"threat": threat, "step_size": step_size, "steps": 10}
    margin = CW(start="unclamped_uniform", confidence=50, **common)
    parts = components(threat, "apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square")
    return PGD(**common), MIM(**common), margin, *parts, AutoAttack(threat=threat)


def _squeeze(threat: Threat, step_size: float) -> tuple[Attack, ...]:
    common: dict[str, Any] = {"threat": threat, "step_size": step_size}
    return FGSM(threat=threat), PGD(**common), PGD(steps=100, **common), CW(**common), AutoAttack(threat=threat)


def _pgd_trades(threat: Threat, step_size: float) -> tuple[Attack, ...]:
    return (PGD(threat=threat, step_size=step_size),)


def _pgd_rst(threat: Threat, step_size: float) -> tuple[Attack, ...]:
    return (PGD(threat=threat, step_size=step_size, steps=40, restarts=5, keep="largest_margin"),)


def _union(threat: Threat, step_size: float) -> tuple[Attack, ...]:
    return tuple(AutoAttack(threat=threat_of_union) for threat_of_union in (threat, *UNION[1:]))


def _soe_whitebox(threat: Threat, step_size: float) -> tuple[Attack, ...]:
    return PGD(threat=threat, step_size=step_size, steps=50, restarts=5), APGD(threat=threat)


def _soe(made: Callable[[Threat], Protocol]) -> Build:
    return lambda threat, step_size: made(threat).attacks


def _soe_blackbox(threat: Threat, step_size: float) -> tuple[Attack, ...]:
    return components(threat, "square")


LINF = (Linf(), 2 / 255)
EUCLIDEAN = (L2(), 15 / 255)
NORMS = (LINF, EUCLIDEAN, (L1(), 1.0))
UNION = (Linf(), L2(epsilon=0.5), L1(epsilon=12.0))
"""The three balls whose union multi-norm robustness on CIFAR-10 is measured over (Croce & Hein 2021)."""
OLD = Linf(epsilon=0.031)
SOE = ((Linf(epsilon=0.03), 0.006),)
SUBSET: dict[str, Any] = {"first": 1000, "chosen": "dverge"}
COMPAT = (
    "the released evaluator of Zipper takes ten steps of .007 whatever number of steps it is asked for: "
    "its columns PGD20 and PGD100 are both PGD-10 here"
)

PROTOCOLS: dict[str, NamedProtocol] = {
    protocol.name: protocol
    for protocol in (
        NamedProtocol(
            "standard",
            "FGSM, PGD-20, PGD-100, MIM-20, CW-100, AutoAttack and each component alone",
            NORMS,
            _standard,
            general=True,
        ),
        NamedProtocol(
            "gradient",
            "FGSM, PGD-20, PGD-100, MIM-20, CW-100: no AutoAttack, so a first look only",
            NORMS,
            _cheap,
            general=True,
        ),
        NamedProtocol(
            "strict",
            "PGD-20, PGD-100 with 3 restarts, PGD-100 on the margin: for small data",
            NORMS,
            _strict,
            general=True,
        ),
        NamedProtocol(
            "autoattack",
            "AutoAttack (standard) and each component alone",
            NORMS,
            _autoattack,
            papers.AUTOATTACK,
            general=True,
        ),
        NamedProtocol(
            "union",
            "AutoAttack at Linf 8/255, L2 .5 and L1 12; the worst case is over their union",
            (LINF,),
            _union,
            papers.L1_ATTACKS,
        ),
        NamedProtocol(
            "robustbench-imagenet",
            "AutoAttack at Linf 4/255 on 5,000 images, as RobustBench ranks networks on ImageNet",
            ((Linf(epsilon=4 / 255), 1 / 255),),
            lambda threat, step_size: (AutoAttack(threat=threat),),
            papers.ROBUSTBENCH,
            {"first": 5000, "note": "the first 5,000 images of the split; RobustBench has a list of its own"},
        ),
        NamedProtocol(
            "zipper-linf", "the 11 columns of Zipper's tables at Linf 8/255", (LINF,), _zipper, papers.GENERALIST
        ),
        NamedProtocol(
            "zipper-l2", "the 11 columns of Zipper's Table 5 at L2 128/255", (EUCLIDEAN,), _zipper, papers.GENERALIST
        ),
        NamedProtocol(
            "zipper-mnist",
            "PGD-40, PGD-100, MIM-40 and AutoAttack at Linf .3",
            ((Linf(epsilon=0.3), 0.01),),
            _zipper_mnist,
            papers.GENERALIST,
        ),
        NamedProtocol(
            "zipper-compat",
            "Zipper's released evaluator: ten steps of .007 at Linf .031 for PGD, MIM and CW, AutoAttack and its"
            " components",
            ((OLD, 0.007),),
            _zipper_compat,
            papers.GENERALIST,
            {"note": COMPAT},
        ),
        NamedProtocol(
            "squeeze",
            "FGSM, PGD-20, PGD-100, CW-100 and AutoAttack at Linf 8/255",
            (LINF,),
            _squeeze,
            papers.SQUEEZE_TRAINING,
        ),
        NamedProtocol(
            "pgd-trades",
            "PGD-20 as TRADES evaluates: steps of .003 at Linf .031",
            ((OLD, 0.003),),
            _pgd_trades,
            papers.TRADES,
        ),
        NamedProtocol(
            "pgd-rst",
            "PGD-40 as RST evaluates: steps of .01 at Linf .031, 5 restarts, right at every iterate",
            ((OLD, 0.01),),
            _pgd_rst,
            papers.RST_CARMON,
        ),
        NamedProtocol(
            "soe-whitebox",
            "PGD-50 with 5 restarts and steps of epsilon / 5 at Linf .03, and APGD, on DVERGE's 1,000 images",
            SOE,
            _soe_whitebox,
            papers.SYNERGY,
            SUBSET,
            general=True,
        ),
        NamedProtocol(
            "soe-adaptive",
            "PGD-50 and both adaptive losses, 5 restarts, for collaborations",
            SOE,
            _soe(soe_adaptive),
            papers.SYNERGY,
            SUBSET,
            general=True,
        ),
        NamedProtocol(
            "soe-lambdas",
            "each adaptive loss with each lambda: a column each",
            SOE,
            _soe(soe_lambdas),
            papers.SYNERGY,
            SUBSET,
            general=True,
        ),
        NamedProtocol(
            "soe-aimed",
            "what a hard choice could hide from PGD, for collaborations",
            SOE,
            _soe(soe_aimed),
            papers.SYNERGY,
            SUBSET,
            general=True,
        ),
        NamedProtocol(
            "soe-benchmark",
            "PGD-50, the adaptive forms that fit and AutoAttack, for any network",
            SOE,
            _soe(soe_benchmark),
            papers.SYNERGY,
            general=True,
        ),
        NamedProtocol(
            "soe-blackbox",
            "Square (5,000 queries) at Linf .03 on the first 1,000 images",
            SOE,
            _soe_blackbox,
            papers.SYNERGY,
            {"first": 1000},
            general=True,
        ),
    )
}
"""By name. Those of papers without a stated epsilon for all rows (Synergy-of-Experts: .01 to .07) are to be scaled."""
Protocol.named.update({name: protocol.at for name, protocol in PROTOCOLS.items()})
