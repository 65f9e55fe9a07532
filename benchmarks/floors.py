"""One training step of every objective of one network, beside its floor in forwards; three of them with weight
perturbations too.

    OMP_NUM_THREADS=1 python -m benchmarks floors [--quick] [--rounds N]

The floor is counted as in `steps`, by `poise.learners.costs`, whose counts the tests compare with the passes that
objectives make.
"""

from __future__ import annotations

from functools import partial

from benchmarks.measuring import Figure, interleaved, page, ratio, table
from benchmarks.steps import NOW, QUICK, SETTINGS, Setting, Step, floor_of, forwards
from poise.core.batches import Batch
from poise.learners import AWP, RWP, SGD, Learner, Policy
from poise.objectives import (
    ADR,
    AT,
    BAT,
    FAT,
    FGSMPGI,
    GAIRAT,
    GAIRRST,
    IAT,
    MART,
    NFGSM,
    NT,
    RPAT,
    RST,
    TRADES,
    CollaborativeTraining,
    FreeAT,
    Objective,
    ReBAT,
    SqueezeTraining,
    TwoExamples,
    WeightedRST,
)

ALONE: dict[str, Objective] = {
    "NT": NT(),
    "AT": AT(),
    "AT, half-half": AT(beta=0.5),
    "TRADES": TRADES(),
    "MART": MART(),
    "FAT": FAT(),
    "FAT-TRADES": FAT(objective=TRADES()),
    "FAT-MART": FAT(objective=MART()),
    "IAT": IAT(),
    "RST (Carmon)": RST(),
    "RST (Raghunathan)": WeightedRST(),
    "GAIRAT": GAIRAT(),
    "GAIR-RST": GAIRRST(),
    "BAT": BAT(),
    "N-FGSM": NFGSM(),
    "FGSM-PGI": FGSMPGI(),
    "free AT": FreeAT(),
    "RPAT": RPAT(),
    "ReBAT": ReBAT(from_epoch=1),
    "ADR": ADR(),
    "collaborative": CollaborativeTraining(),
    "Squeeze Training": SqueezeTraining(),
    "two examples, AT": TwoExamples(objective=AT()),
    "two examples, TRADES": TwoExamples(objective=TRADES()),
}
PERTURBED = ("AT", "TRADES", "Squeeze Training")
RATE = SGD(learning_rate=0.01)
POLICIES = {
    **{name: Policy(objective=objective, optimizer=RATE) for name, objective in ALONE.items()},
    **{f"{name} + AWP": Policy(objective=ALONE[name], optimizer=RATE, perturbation=AWP()) for name in PERTURBED},
    **{f"{name} + RWP": Policy(objective=ALONE[name], optimizer=RATE, perturbation=RWP()) for name in PERTURBED},
}


def stepping(setting: Setting, policy: Policy) -> Step:
    learner = Learner("joint", policy, setting.model())
    return partial(learner.descend, policy.objective, Batch.of(*setting.images()), NOW)


def main(quick: bool, rounds: int) -> str:
    """Run it and return the page."""
    setting = (QUICK if quick else SETTINGS)[0]
    bare, rows = forwards(setting), []
    for name, policy in POLICIES.items():
        seconds = interleaved({"step": stepping(setting, policy), **bare}, rounds)
        crafting, training = floor_of(policy)
        pieces = zip(seconds["evaluating"], seconds["training"], strict=True)
        floor = [crafting * evaluating + training * plain for evaluating, plain in pieces]
        share = ratio(floor, seconds["step"]).text(0, 100)
        rows.append(
            [
                name,
                Figure.of(seconds["step"]).text(0, 1000),
                f"{crafting} + {training}",
                str(crafting + training),
                share,
            ]
        )
    columns = ["objective", "ms", "crafting + training mode", "floor, forwards", "share of floor, %"]
    told = (
        "\n\nThe floor is a count of forwards without graph, timed in the same rounds and modes (folded in evaluating"
        " mode); crafting in training mode counts there. Friendly examples stop early, so their floor is an upper"
        " bound, as is Squeeze Training's (see steps)."
    )
    return page(
        "Every objective's step beside its floor",
        "python -m benchmarks floors",
        {setting.title: table(columns, rows) + told},
    )
