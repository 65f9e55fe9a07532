"""Synergy-of-Experts and the ensembles it is compared with, on digits (Linf .2): every one of about as many parameters
as one DigitsCNN.

Three experts of width 8 have 18,534 parameters, the evaluators 387 more; MoRE's three and their gate, of width 7, have
19,700; the one network of width 16 has 19,258. All are trained adversarially by the policy of `digits`, with PGD-5 of
steps of .4 epsilon.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from poise.engine.experiment import Experiment
from poise.methods import DVERGE, Joint, Method
from poise.models import Collaboration, DigitsCNN, Ensemble, Mixture, Network
from poise.objectives import ADP, AT, GAL, MoRE, Objective, SynergyOfExperts
from poise.recipes.digits import EPOCHS, INNER, QUICK_EPOCHS, THREAT, digits, policy
from poise.recipes.rows import register
from poise.recipes.synergy_of_experts import VARIANTS, cost

EXPERT, SMALLER = DigitsCNN(width=8), DigitsCNN(width=7)
THREE = Ensemble(member=EXPERT)
LEAKY = Ensemble(member=dataclasses.replace(EXPERT, activation="leaky_relu"))


@dataclasses.dataclass(frozen=True)
class Row:
    """A method to compare: its name in tables, what it is in words, the network, the method and its cost in forwards of
    one member.
    """

    title: str
    line: str
    model: Network
    method: Method
    each: str = ""


def _joint(objective: Objective) -> Joint:
    return Joint(policy=policy(objective))


DISTILLATION = dataclasses.replace(INNER, start="zero")
ATTACKED: dict[str, Any] = {"adversarial": INNER, "craft_mode": "evaluating"}
"""The baselines' papers attack in training mode; here all methods attack in the mode of Synergy-of-Experts."""
INDEPENDENT = ADP(alpha=0, beta=0, **ATTACKED)
ROWS: dict[str, Row] = {
    "soe": Row(
        "SoE",
        "Synergy-of-Experts",
        Collaboration(member=EXPERT),
        _joint(SynergyOfExperts(inner=INNER)),
        "3 x 22 forwards an image in phase I, 3 x 16 in phase II",
    ),
    "adp": Row("ADP", "ADP in adversarial training", THREE, _joint(ADP(**ATTACKED)), "3 x 16 forwards an image"),
    "gal": Row(
        "GAL", "GAL in adversarial training, LeakyReLU", LEAKY, _joint(GAL(**ATTACKED)), "3 x 22 forwards an image"
    ),
    "dverge": Row(
        "DVERGE",
        "DVERGE in adversarial training, the first third on natural images",
        THREE,
        DVERGE(policy=policy(AT(inner=INNER)), distillation=DISTILLATION, natural_until=1 / 3, **ATTACKED),
        "3 x 3 forwards an image in the first third, then 3 x 22 to 30, with the depth of the epoch's layer",
    ),
    "more": Row(
        "MoRE", "MoRE", Mixture(member=SMALLER, gate=SMALLER), _joint(MoRE(**ATTACKED)), "4 x 16 forwards an image"
    ),
    "vote": Row(
        "Vote",
        "An ensemble that votes, in adversarial training",
        dataclasses.replace(THREE, output="vote"),
        _joint(INDEPENDENT),
        "3 x 16 forwards an image",
    ),
    "wide": Row(
        "One network",
        "Adversarial training of one network of as many parameters",
        DigitsCNN(),
        _joint(AT(beta=0.5, inner=INNER)),
    ),
}
"""All see natural and adversarial images, as the ensembles do."""
SURROGATE = Row(
    "Three networks",
    "Three networks trained independently on natural images",
    THREE,
    _joint(ADP(alpha=0, beta=0)),
    "3 x 3 forwards an image",
)
"""What the transfer attacks are made on."""
HELD_OUT = 1000
"""The surrogate's seed, which no target has: no weights of its are in what is attacked by transfer."""
BENCHMARK = tuple(f"{name}_ensembles_digits" for name in ROWS)
"""Names of the recipes that are compared."""


def on_digits(name: str, row: Row, quick: bool) -> Experiment:
    """The experiment of a row."""
    experiment = digits(name, row.title, row.method, quick)
    return dataclasses.replace(experiment, model=row.model, epochs=QUICK_EPOCHS if quick else EPOCHS)


def _register(name: str, row: Row, seed: int = 0) -> None:
    note = f"seed {seed}, held out: train no target with it" if seed else ""
    line = f"{row.line}, on digits (Linf {THREAT.epsilon:g})"
    register(name, line, lambda quick: dataclasses.replace(on_digits(name, row, quick), seed=seed), note, row.each)


for _name, _row in ROWS.items():
    _register(f"{_name}_ensembles_digits", _row)


def variant(what: str, members: int = 3, **changes: Any) -> Row:
    """Synergy-of-Experts with another number of experts or other settings of its objective (`confidence`: of its
    network).
    """
    # which is of CIFAR-10's epsilons
    attack = {name: value for name, value in changes.pop("inner", {}).items() if name != "step_size"}
    network = Collaboration(member=EXPERT, members=members, confidence=changes.pop("confidence", "rectified"))
    method = _joint(SynergyOfExperts(inner=dataclasses.replace(INNER, **attack), **changes))
    return Row(f"SoE, {what}", f"Synergy-of-Experts, {what}", network, method, cost(network, method))


for _members in (1, 2, 4, 5):
    _register(f"soe_ensembles_digits_x{_members}", variant(f"{_members} expert{'s' * (_members > 1)}", _members))
for _ending, (_what, _changes) in VARIANTS.items():
    _register(f"soe_ensembles_digits_{_ending}", variant(_what, **_changes))
_register("surrogate_ensembles_digits", SURROGATE, HELD_OUT)
