"""Losses on given examples: gradients where a softmax underflows."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.attacks import Ascent
from poise.core.batches import Batch, Now
from poise.models import Classifier, CollaborationModule, DualHeadModule, EnsembleModule, MixtureModule
from poise.objectives import (
    ADP,
    AT,
    BAT,
    FAT,
    GAIRAT,
    GAIRRST,
    GAL,
    IAT,
    MART,
    NT,
    RST,
    TRADES,
    Adversarial,
    CollaborativeTraining,
    MoRE,
    Objective,
    SqueezeTraining,
    SynergyOfExperts,
    TwoExamples,
    WeightedRST,
)
from poise.objectives.synergy import Sources
from poise.objectives.watch import minimised
from poise.threats import Linf

NOW = Now(epoch=2, step=3, epochs=2, steps_per_epoch=2, seed=1)
INNER = Ascent(threat=Linf(epsilon=0.1), step_size=0.05, steps=2)
OBJECTIVES: dict[str, Objective[Any]] = {
    "NT": NT(),
    "AT": AT(inner=INNER),
    "AT-half": AT(inner=INNER, beta=0.5),
    "AT-joint": AT(inner=INNER, beta=0.25, joint_batch=True),
    "TRADES": TRADES(inner=INNER),
    "TRADES-symmetric-kl": TRADES(inner=INNER, divergence="symmetric_kl"),
    "TRADES-js": TRADES(inner=INNER, divergence="js"),
    "TRADES-reversed-js": TRADES(inner=INNER, divergence="reversed_js"),
    "TRADES-squared-l2": TRADES(inner=INNER, divergence="squared_l2"),
    "MART": MART(inner=INNER),
    "FAT": FAT(objective=AT(inner=INNER)),
    "FAT-MART": FAT(objective=MART(inner=INNER)),
    "TwoExamples": TwoExamples(objective=TRADES(inner=INNER)),
    "SqueezeTraining": SqueezeTraining(inner=INNER),
    "SqueezeTraining-js": SqueezeTraining(inner=INNER, divergence="js"),
    "SqueezeTraining-reversed-js": SqueezeTraining(inner=INNER, divergence="reversed_js"),
    "CollaborativeTraining": CollaborativeTraining(inner=INNER),
    "BAT": BAT(inner=INNER),
    "IAT": IAT(inner=INNER),
    "RST": RST(inner=INNER, entropy_weight=0.5),
    "WeightedRST": WeightedRST(inner=INNER),
    "GAIRAT": GAIRAT(inner=INNER, from_epoch=1),
    "GAIRRST": GAIRRST(inner=INNER, from_epoch=1),
    "ADP": ADP(adversarial=INNER),
    "GAL": GAL(adversarial=INNER, noise=0),
    "MoRE": MoRE(adversarial=INNER),
    "SoE": SynergyOfExperts(inner=INNER),
    "SoE-hard": SynergyOfExperts(inner=INNER, surrogate="hard", update="per_source"),
    "SoE-released": SynergyOfExperts(inner=INNER, surrogate="released", phase_two_from=0),
}
every_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)


class Linear(Classifier):
    """Logits W x, x the image's pixels."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.head = nn.Linear(weights.shape[1], weights.shape[0], bias=False)
        self.head.weight = nn.Parameter(weights)

    def trunk(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def network_for(objective: Objective[Any], *weights: Tensor) -> nn.Module:
    """The linear network of the first weights; for ensembles, one member of each."""
    if isinstance(objective, ADP | GAL):
        return EnsembleModule([Linear(each) for each in weights], "mean_probabilities")
    if isinstance(objective, MoRE):
        return MixtureModule([Linear(each) for each in weights], Linear(weights[0][: len(weights)]))
    if isinstance(objective, SynergyOfExperts):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            experts = [DualHeadModule(Linear(each), "rectified").to(each.dtype) for each in weights]
        return CollaborationModule(experts, "rectified")
    return Linear(weights[0])


# -- a softmax that underflows ----------------------------------------------------------------------------------------

NATURAL, ADVERSARIAL, COLLABORATIVE = (120.0, 0.0, -5.0), (10.0, 3.0, 1.0), (130.0, 0.0, -5.0)


def placed(examples: Any, x: Tensor, x_adv: Tensor, x_col: Tensor) -> Any:
    """The examples with other images in their places."""
    found = {"x": x, "x_adv": x_adv, "x_margin": x_adv, "x_col": x_col}
    for name, inside in (("natural", x), ("adversarial", x_adv)):  # the branches of IAT
        if hasattr(examples, name):
            found[name] = replace(getattr(examples, name), x=inside)
    for name in ("first", "second"):
        if hasattr(examples, name):
            found[name] = placed(getattr(examples, name), x, x_adv, x_col)
    if isinstance(examples, Sources):
        found["x_adv"] = x_adv[:, None].expand_as(examples.x_adv)
    return replace(examples, **{field.name: found[field.name] for field in fields(examples) if field.name in found})


@pytest.mark.parametrize("y", [0, 1, 2])
@every_objective
def test_gradients_are_finite_where_a_natural_softmax_underflows(objective: Objective[Any], y: int) -> None:
    weights = torch.tensor([NATURAL, ADVERSARIAL, COLLABORATIVE]).T
    assert float(weights[:, 0].softmax(0)[1]) == 0
    model = network_for(objective, weights, weights.flip(0))
    x, x_adv, x_col = (row.view(1, 1, 1, 3) for row in torch.eye(3))
    batch = Batch.of(x, torch.tensor([-1 if isinstance(objective, RST) and y == 2 else y]))
    examples = objective.exchange([objective.craft(model, batch, NOW)], NOW)[0]
    terms = minimised(objective.loss(model, placed(examples, x, x_adv, x_col), NOW))
    assert all(bool(values.isfinite().all()) for values in terms.values())
    gradients = torch.autograd.grad(torch.stack(list(terms.values())).sum(), list(model.parameters()), allow_unused=True)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients if gradient is not None)


def test_marts_value_is_that_of_the_released_form() -> None:
    natural, adversarial = (3 * torch.randn(50, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in (0, 1))
    y = torch.arange(50) % 7
    p, log_q = natural.softmax(1), (adversarial.softmax(1) + 1e-12).log()
    robust = F.kl_div(log_q, p, reduction="none").sum(1) * (1.0000001 - p[torch.arange(50), y])
    model = Linear(torch.eye(7, dtype=torch.float64))
    examples = Adversarial(y, natural, adversarial)
    torch.testing.assert_close(MART(beta=1).loss(model, examples, NOW)["robust"], robust, rtol=1e-9, atol=1e-12)
