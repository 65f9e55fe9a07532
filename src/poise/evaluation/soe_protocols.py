"""The attacks of Synergy-of-Experts' protocols (Cui et al. 2022, Sections 4.1 to 4.4): aimed at the choice, and made on
surrogates.

Every gradient attack takes 50 steps of epsilon / 5 from 5 starts, transfer 100 steps of epsilon / 5; an image counts
only if the network is right under all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from poise.attacks import (
    APGD,
    PGD,
    SGM,
    AdaptivePGD,
    AimedPGD,
    Attack,
    AutoAttack,
    SoftMixturePGD,
    Square,
    TransferFromExperts,
)
from poise.attacks.adaptive import Aim
from poise.attacks.transfer import SurrogateAttack
from poise.attacks.transfer import soe_transfer as surrogate_attacks
from poise.core.errors import SettingsError
from poise.evaluation.protocol import Protocol
from poise.evaluation.subsets import published_ids
from poise.threats import Linf, Threat

LAMBDAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""The grid over which the adaptive attacks are swept; 0 is PGD. The paper prints none."""
AIMS: tuple[Aim, ...] = ("confidence", "mismatch")
RUNS = 15
"""Of AimedPGD on every network of a comparison: as many as a collaboration of three experts has forms."""
STEPS = 100
"""Of every transfer attack."""
TRANSFER: dict[str, Literal[3, 30]] = {"soe-transfer-3": 3, "soe-transfer-30": 30}
"""Transfer protocols by name, with their number of variants."""
TRANSFER_LINES = {
    "soe-transfer-3": (
        "by poise transfer: M-PGD, SGM and M-DI2-FGSM by cross-entropy on a surrogate of 3 ResNet-20, all or nothing"
    ),
    "soe-transfer-30": (
        "by poise transfer: the same by CE and CW, M-PGD from 3 starts, on surrogates of 3, 5 and 8, all or nothing"
    ),
}


def _common(threat: Threat) -> dict[str, Any]:
    return {"threat": threat, "step_size": threat.epsilon / 5}


def _whitebox(threat: Threat) -> PGD:
    return PGD(steps=50, restarts=5, **_common(threat))


def soe_adaptive(threat: Threat | None = None) -> Protocol:
    """ "soe-adaptive": PGD-50 from 5 starts, and both adaptive losses for every lambda from 5 starts, for
    collaborations.
    """
    threat = threat or Linf()
    return Protocol(name="soe-adaptive", attacks=(_whitebox(threat), AdaptivePGD(lambdas=LAMBDAS, **_common(threat))))


def soe_lambdas(threat: Threat | None = None) -> Protocol:
    """ "soe-lambdas": a column for each adaptive loss and each lambda, which is the paper's Figure 5; lambda 0 is
    PGD.
    """
    threat = threat or Linf()
    swept = [
        AdaptivePGD(aims=(aim,), lambdas=(value,), **_common(threat)) for aim in AIMS for value in LAMBDAS if value > 0
    ]
    return Protocol(name="soe-lambdas", attacks=(_whitebox(threat), *swept))


def soe_printed(threat: Threat | None = None) -> Protocol:
    """What the columns of Table 1 are about: PGD-50, and the stronger of the two adaptive attacks as a whole, at its
    strongest lambda.
    """
    return dataclasses.replace(soe_lambdas(threat), name="soe-printed")


def soe_aimed(threat: Threat | None = None) -> Protocol:
    """ "soe-aimed": what a hard choice could hide from PGD, for collaborations.

    PGD-50 from 5 starts, both adaptive losses, attacks on every expert, the soft mixture, APGD on cross-entropy and
    DLR, Square.
    """
    threat = threat or Linf()
    common = _common(threat)
    adaptive_attacks = (AdaptivePGD(lambdas=LAMBDAS, **common), TransferFromExperts(**common), SoftMixturePGD(**common))
    further_attacks = (APGD(threat=threat), APGD(threat=threat, loss="dlr"), Square(threat=threat))
    return Protocol(name="soe-aimed", attacks=(_whitebox(threat), *adaptive_attacks, *further_attacks))


def soe_benchmark(threat: Threat, transferred: tuple[Attack, ...] = ()) -> Protocol:
    """ "soe-benchmark": white-box PGD, the adaptive forms that fit in equal runs, transfer and AutoAttack, on a network
    of any kind.

    transferred: what shows images made on surrogates, `Saved`; without any the protocol has no transfer columns.
    """
    attacks = (_whitebox(threat), AimedPGD(runs=RUNS, **_common(threat)), *transferred, AutoAttack(threat=threat))
    return Protocol(name="soe-benchmark", attacks=attacks)


@dataclass(frozen=True)
class TransferProtocol:
    """Attacks made on each surrogate. surrogates: how many members the published ensembles of ResNet-20 have, in
    order.
    """

    name: str
    surrogates: tuple[int, ...]
    attacks: tuple[SurrogateAttack, ...]

    def shortfall(self, members: Sequence[int], images: Sequence[int], *others: str) -> str | None:
        """What makes these attacks another evaluation than the published; None where nothing does.

        members: sizes of the surrogates; images: numbers of the examples; others: what else is not as published, in
        words, such as surrogates that are not held out.
        """
        steps, members = sorted({attack.steps for attack in self.attacks}), sorted(members)
        sgm = any(isinstance(attack, SGM) for attack in self.attacks)
        subset = list(images) == published_ids()
        if sgm and steps == [STEPS] and members == list(self.surrogates) and subset and not others:
            return None
        surrogates_asked, surrogates_here = (
            ", ".join(map(str, members_each)) for members_each in (self.surrogates, members)
        )
        images_text = (
            "the published images" if subset else f"{len(images):,} {'image' if len(images) == 1 else 'images'}"
        )
        attacks_text = (
            f"{', '.join(map(str, steps))} steps with{'' if sgm else 'out'} SGM on surrogates of size"
            f" {surrogates_here}, {images_text}"
        )
        published_text = (
            f"{STEPS} steps with SGM on held-out surrogates of size {surrogates_asked}, naturally trained,"
            f" {len(published_ids()):,} chosen images"
        )
        return f"{self.name} is {published_text}; here: {'; '.join((attacks_text, *others))}"


def soe_transfer(
    name: str, threat: Threat | None = None, dverge_cw_compat: bool = False, residual: bool = True
) -> TransferProtocol:
    """ "soe-transfer-3" (CE, a surrogate of 3) or "soe-transfer-30" (CE and CW, surrogates of 3, 5 and 8).

    dverge_cw_compat: the CW loss as in the code that the published tables stand on; residual: False leaves SGM out, for
    surrogates without residual blocks. Raises: SettingsError for another name.
    """
    if name not in TRANSFER:
        raise SettingsError(f"there is no transfer protocol {name!r}; must be one of {', '.join(TRANSFER)}")
    attacks = surrogate_attacks(TRANSFER[name], threat or Linf(), dverge_cw_compat)
    attacks_kept = tuple(attack for attack in attacks if residual or not isinstance(attack, SGM))
    return TransferProtocol(name, (3,) if TRANSFER[name] == 3 else (3, 5, 8), attacks_kept)
