"""What a GPU is asked first: every objective and every attack at small size, and what each needs to be right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from poise import attacks as A
from poise import objectives as O
from poise.attacks import Ascent
from poise.core.batches import Batch, Now
from poise.learners import EMA, SGD, SWA, Learner, Policy
from poise.learners.compiled import Compilation
from poise.learners.perturbations import AWP, RWP
from poise.learners.precision import Precision
from poise.learners.teachers import OwnAverage
from poise.models import Collaboration, DigitsCNN, Ensemble, Mixture, Network, ResNet20
from poise.threats import L1, L2, Linf

INNER = Ascent(steps=2)
NORMAL, BALL = replace(INNER, start="gaussian"), replace(INNER, threat=L2(), step_size=0.1)
SUM = replace(INNER, threat=L1(), step_size=1.0)
CNN = DigitsCNN(width=4)
PAIR, TEAM, MIXTURE = (
    Ensemble(member=CNN, members=2),
    Collaboration(member=CNN, members=2),
    Mixture(member=CNN, gate=CNN, members=2),
)
AT = O.AT(inner=INNER)
Case = tuple[Network, O.Objective[Any], dict[str, Any]]
OBJECTIVES: dict[str, Case] = {
    "NT": (CNN, O.NT(), {"average": SWA(from_epoch=1)}),
    "AT": (CNN, AT, {}),
    "AT ResNet": (ResNet20(width=4), AT, {}),
    "AT joint": (CNN, O.AT(inner=INNER, beta=0.5, joint_batch=True), {}),
    "AT jitter": (CNN, O.AT(inner=replace(INNER, jitter=0.01)), {}),
    "AT ramp": (CNN, O.AT(inner=replace(INNER, ramp=1.0)), {}),
    "AT L2 ramp": (CNN, O.AT(inner=replace(BALL, ramp=1.0)), {}),
    "AT L1 ramp": (CNN, O.AT(inner=replace(SUM, ramp=1.0)), {}),
    "AT in training mode": (CNN, O.AT(inner=INNER, craft_mode="training"), {}),
    "AT with frozen statistics": (CNN, O.AT(inner=INNER, craft_mode="frozen_statistics"), {}),
    "AT in microbatches": (CNN, AT, {"microbatch": 2}),
    "AT clipped": (CNN, AT, {"clip": 1.0}),
    "AT with AWP": (CNN, AT, {"perturbation": AWP()}),
    "AT with RWP": (CNN, AT, {"perturbation": RWP(steps=2)}),
    "TRADES": (CNN, O.TRADES(inner=NORMAL), {}),
    "MART": (CNN, O.MART(inner=INNER), {}),
    "BAT": (CNN, O.BAT(inner=INNER), {}),
    "FAT": (CNN, O.FAT(objective=AT, tau=(0, 1), tau_from=(1, 2)), {}),
    "GAIRAT": (CNN, O.GAIRAT(inner=INNER, from_epoch=2), {}),
    "GAIRRST": (CNN, O.GAIRRST(inner=NORMAL, from_epoch=1), {}),
    "IAT": (CNN, O.IAT(inner=INNER), {}),
    "SqueezeTraining": (CNN, O.SqueezeTraining(inner=INNER), {}),
    "TwoExamples": (CNN, O.TwoExamples(objective=AT), {}),
    "RST": (CNN, O.RST(inner=INNER, entropy_weight=0.1), {}),
    "WeightedRST": (CNN, O.WeightedRST(inner=INNER), {}),
    "CollaborativeTraining": (CNN, O.CollaborativeTraining(inner=INNER), {}),
    "NFGSM ramp": (CNN, O.NFGSM(inner=Ascent(step_size=8 / 255, steps=1, start="zero", ramp=1.0)), {}),
    "FGSMPGI": (CNN, O.FGSMPGI(), {}),
    "FreeAT": (CNN, O.FreeAT(replays=2), {}),
    "RPAT": (CNN, O.RPAT(inner=INNER), {}),
    "ReBAT": (CNN, O.ReBAT(inner=INNER, from_epoch=1), {"teacher": OwnAverage()}),
    "ADR": (CNN, O.ADR(inner=INNER), {"teacher": OwnAverage()}),
    "ADP": (PAIR, O.ADP(adversarial=INNER), {}),
    "GAL": (PAIR, O.GAL(adversarial=INNER), {}),
    "MoRE": (MIXTURE, O.MoRE(adversarial=INNER), {}),
    "SynergyOfExperts": (TEAM, O.SynergyOfExperts(inner=INNER, phase_two_from=1), {}),
    "SynergyOfExperts, phase II": (
        TEAM,
        O.SynergyOfExperts(inner=INNER, phase_two_from=0, surrogate="hard", detach_features=True),
        {},
    ),
    "SynergyOfExperts, one source after the other": (
        TEAM,
        O.SynergyOfExperts(inner=INNER, update="per_source", phase_two_from=1),
        {},
    ),
}
UNRECORDED = {
    "NT": "crafts nothing",
    "FGSMPGI": "remembers",
    "FreeAT": "crafts nothing",
    "ReBAT": "asks a teacher",
    "ADR": "asks a teacher",
    "SynergyOfExperts, one source after the other": "depends on the turn",
}

NEAR, ROUND, SPARSE = Linf(epsilon=0.02), L2(epsilon=0.3), L1(epsilon=2.0, density=0.1)
ATTACKS: dict[str, tuple[Network, Any]] = {
    "FGSM": (CNN, A.FGSM(threat=NEAR)),
    "PGD": (CNN, A.PGD(threat=NEAR, steps=3)),
    "PGD L2": (CNN, A.PGD(threat=ROUND, steps=3)),
    "PGD L1": (CNN, A.PGD(threat=SPARSE, steps=3, step_size=0.5)),
    "PGD of several runs": (CNN, A.PGD(threat=NEAR, steps=3, restarts=2, keep="largest_margin", loss="kl")),
    "MIM": (CNN, A.MIM(threat=NEAR, steps=3)),
    "CW": (CNN, A.CW(threat=NEAR, steps=3)),
    "Collaborative": (CNN, A.Collaborative(threat=NEAR, steps=3)),
    "APGD": (CNN, A.APGD(threat=NEAR, steps=4)),
    "APGD-T": (CNN, A.APGD(threat=NEAR, steps=4, loss="targeted_dlr", targets=2)),
    "APGD-MALT": (CNN, A.APGD(threat=NEAR, steps=4, loss="targeted_dlr", targets=2, targets_by="malt")),
    "APGD-PMA": (CNN, A.APGD(threat=NEAR, steps=4, loss="probability_margin")),
    "APGD L2": (CNN, A.APGD(threat=ROUND, steps=4)),
    "APGD L1": (CNN, A.APGD(threat=SPARSE, steps=4)),
    "FAB-T": (CNN, A.FAB(threat=NEAR, steps=4, targeted=True, targets=2)),
    "FAB L2": (CNN, A.FAB(threat=ROUND, steps=4)),
    "FAB L1": (CNN, A.FAB(threat=SPARSE, steps=4)),
    "Square": (CNN, A.Square(threat=NEAR, queries=8)),
    "Square L2": (CNN, A.Square(threat=ROUND, queries=8)),
    "Square L1": (CNN, A.Square(threat=SPARSE, queries=8)),
    "MPGD": (ResNet20(width=2), A.MPGD(threat=NEAR, steps=3)),
    "SGM": (ResNet20(width=2), A.SGM(threat=NEAR, steps=3)),
    "MDI2FGSM": (ResNet20(width=2), A.MDI2FGSM(threat=NEAR, steps=3)),
    "AimedPGD": (TEAM, A.AimedPGD(threat=NEAR, steps=2)),
    "AdaptivePGD": (TEAM, A.AdaptivePGD(threat=NEAR, steps=2, restarts=1, lambdas=(0.5,))),
    "SoftMixturePGD": (TEAM, A.SoftMixturePGD(threat=NEAR, steps=2, restarts=1)),
    "TransferFromExperts": (TEAM, A.TransferFromExperts(threat=NEAR, steps=2, restarts=1)),
}
COMPONENTS = (
    A.APGD(steps=6),
    A.APGD(steps=4, loss="targeted_dlr", targets=2),
    A.FAB(steps=3, targeted=True, targets=2),
    A.Square(queries=12),
)
AUTOATTACK = A.AutoAttack(threat=NEAR, version="custom", attacks=COMPONENTS)

SHAPE = (3, 8, 8)
COUNTS = (4, 4, 2, 4)
"""Images of each step: an epoch ends with a smaller one."""
NOW = Now(epoch=1, step=0, epochs=2, steps_per_epoch=3, seed=5, scope="joint")


def batch(step: int, count: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Batch:
    """The random batch of a step."""
    generator = torch.Generator().manual_seed(step)
    x = torch.rand(count, *SHAPE, generator=generator, dtype=torch.float64).to(dtype)
    made = Batch.of(x, torch.randint(10, (count,), generator=generator))
    return replace(made, **{name: getattr(made, name).to(device) for name in ("x", "y", "ids", "places", "extra")})


def moment(step: int) -> Now:
    return replace(NOW, step=step, epoch=step // NOW.steps_per_epoch + 1)


def learner(case: Case, arithmetic: Precision, compilation: Compilation | None) -> Learner:
    model, objective, more = case
    policy = Policy(objective=objective, optimizer=SGD(learning_rate=0.05), **{"average": EMA(decay=0.9), **more})
    network = model.build(SHAPE, 10, seed=0).to(arithmetic.device, arithmetic.dtype)
    return Learner("joint", policy, network, arithmetic=arithmetic, compilation=compilation)


def examples(model: Network, count: int = 8) -> tuple[nn.Module, Tensor, Tensor]:
    """A network in evaluating mode, random images [B, C, H, W], and the labels that the network gives them [B]."""
    x = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))
    network = model.build(SHAPE, 10, seed=0).eval()
    with torch.no_grad():
        return network, x, network(x).argmax(1)
