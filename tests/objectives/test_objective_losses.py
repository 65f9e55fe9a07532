"""Losses on given examples: gradients where a softmax underflows, label smoothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise import losses
from poise.attacks import Ascent
from poise.core.batches import Batch, Now
from poise.core.settings import registered
from poise.models import Classifier, CollaborationModule, DualHeadModule, EnsembleModule, MixtureModule
from poise.models.dual_head import confidence_of
from poise.models.ensemble import log_mean_probabilities, log_votes
from poise.objectives import (
    ADP,
    ADR,
    AT,
    BAT,
    FAT,
    FGSMPGI,
    GAIRAT,
    GAIRRST,
    GAL,
    IAT,
    MART,
    NFGSM,
    NT,
    RPAT,
    RST,
    TRADES,
    Adversarial,
    CollaborativeTraining,
    FreeAT,
    MoRE,
    Objective,
    ReBAT,
    SqueezeTraining,
    SynergyOfExperts,
    TwoExamples,
    WeightedRST,
)
from poise.objectives.rst import entropy
from poise.objectives.surrogates import combined, confidence_loss
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
    "NFGSM": NFGSM().searching(INNER),
    "FGSMPGI": FGSMPGI(weight=2).searching(INNER),
    "FreeAT": FreeAT(replays=2).searching(INNER),
    "RPAT": RPAT(inner=INNER, beta=2),
    "ReBAT": ReBAT(inner=INNER, from_epoch=1),
    "ADR": ADR(inner=INNER),
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
    gradients = torch.autograd.grad(
        torch.stack(list(terms.values())).sum(), list(model.parameters()), allow_unused=True
    )
    assert all(bool(gradient.isfinite().all()) for gradient in gradients if gradient is not None)


def test_marts_value_is_that_of_the_released_form() -> None:
    natural, adversarial = (
        3 * torch.randn(50, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in (0, 1)
    )
    y = torch.arange(50) % 7
    p, log_q = natural.softmax(1), (adversarial.softmax(1) + 1e-12).log()
    robust = F.kl_div(log_q, p, reduction="none").sum(1) * (1.0000001 - p[torch.arange(50), y])
    model = Linear(torch.eye(7, dtype=torch.float64))
    examples = Adversarial(y, natural, adversarial)
    torch.testing.assert_close(MART(beta=1).loss(model, examples, NOW)["robust"], robust, rtol=1e-9, atol=1e-12)


# -- label smoothing --------------------------------------------------------------------------------------------------

CrossEntropy = Callable[[Tensor, Tensor], Tensor]
Expected = Callable[[Any, Any, Any, CrossEntropy], dict[str, Any]]
"""(objective, model, examples, cross-entropy of logits and labels) -> the terms with a cross-entropy in them, written
out.
"""


def both(o: Any, m: Any, e: Any, ce: CrossEntropy) -> dict[str, Any]:
    return {"natural": (1 - o.beta) * ce(m(e.x), e.y), "robust": o.beta * ce(m(e.x_adv), e.y)}


def boosted(o: Any, m: Any, e: Any, ce: CrossEntropy) -> dict[str, Any]:
    wrong = m(e.x_adv).softmax(1).scatter(1, e.y[:, None], 0.0).amax(1)
    return {"natural": ce(m(e.x_adv), e.y) - (1.0001 - wrong + 1e-12).log()}


def mixed(o: Any, m: Any, e: Any, ce: CrossEntropy) -> dict[str, Any]:
    parts = {"natural": e.natural, "robust": e.adversarial}
    return {
        name: (each.share * ce(m(each.x), e.y) + (1 - each.share) * ce(m(each.x), each.other)) / 2
        for name, each in parts.items()
    }


def over_members(o: Any, m: Any, e: Any, ce: CrossEntropy) -> dict[str, Any]:
    divisor = len(m.members) if isinstance(o, GAL) else 1
    return {
        name: sum(ce(member(x), e.y) for member in m.members) / divisor
        for name, x in (("natural", e.x), ("robust", e.x_adv))
    }


def of_experts(o: Any, m: Any, e: Any, ce: CrossEntropy) -> dict[str, Any]:
    def fit(x: Tensor) -> Tensor:
        logits, evaluator = m.all_heads(x)
        return combined(
            o.surrogate, torch.stack([ce(each, e.y) for each in logits]), o.sigma, m.confidences(logits, evaluator)
        )

    return {"natural": fit(e.x), "robust": torch.stack([fit(x) for x in e.x_adv.unbind(1)]).mean(0)}


EXPECTED: dict[str, Expected] = {
    **dict.fromkeys(
        ("NT", "TRADES", "BAT", "CollaborativeTraining", "SqueezeTraining", "GAIRRST"),
        lambda o, m, e, ce: {"natural": ce(m(e.x), e.y)},
    ),
    **dict.fromkeys(("AT", "WeightedRST"), both),
    "FAT": lambda o, m, e, ce: expected(o.objective, m, e, ce),
    "TwoExamples": lambda o, m, e, ce: expected(o.objective, m, e.first, ce),  # the same natural term in both
    "MART": boosted,
    "IAT": mixed,
    "RST": lambda o, m, e, ce: {"natural": ce(m(e.x), e.y.clamp(min=0))},
    **dict.fromkeys(
        ("GAIRAT", "NFGSM", "FGSMPGI", "FreeAT", "RPAT", "ReBAT"), lambda o, m, e, ce: {"robust": ce(m(e.x_adv), e.y)}
    ),
    "ADR": lambda o, m, e, ce: {"robust": e.rest * ce(m(e.x_adv), e.y) - (e.taught * m(e.x_adv).log_softmax(1)).sum(1)},
    "ADP": over_members,
    "GAL": over_members,
    "MoRE": lambda o, m, e, ce: {"natural": ce(m(e.x), e.y), "robust": ce(m(e.x_adv), e.y)},
    "SynergyOfExperts": of_experts,
}


def expected(objective: Any, model: nn.Module, examples: Any, ce: CrossEntropy) -> dict[str, Any]:
    return EXPECTED[type(objective).__name__](objective, model, examples, ce)


def smoothed(objective: Any, smoothing: float) -> Any:
    if isinstance(objective, FAT | TwoExamples):
        return replace(objective, objective=smoothed(objective.objective, smoothing))
    return replace(objective, label_smoothing=smoothing)


def tensors(found: Any) -> list[Tensor]:
    """All tensors of crafted examples, those inside their parts too."""
    if isinstance(found, Tensor):
        return [found]
    inside = found.values() if isinstance(found, dict) else [getattr(found, field.name) for field in fields(found)]
    return [tensor for each in inside if each is not None for tensor in tensors(each)]


@every_objective
def test_label_smoothing_mixes_into_the_cross_entropy_of_the_loss_alone(objective: Objective[Any]) -> None:
    source = torch.Generator().manual_seed(0)
    model = network_for(objective, *(4 * torch.randn(5, 9, generator=source, dtype=torch.float64) for _ in range(3)))
    batch = Batch.of(
        torch.rand(24, 1, 3, 3, generator=source, dtype=torch.float64), torch.randint(5, (24,), generator=source)
    )
    if isinstance(objective, RST):
        batch = replace(batch, y=torch.where(torch.arange(24) % 3 == 0, -1, batch.y))
    assert smoothed(objective, 0.0) == objective
    shown = [each.exchange([each.craft(model, batch, NOW)], NOW)[0] for each in (objective, smoothed(objective, 0.1))]
    assert all(torch.equal(*pair) for pair in zip(tensors(shown[0]), tensors(shown[1]), strict=True))

    terms = {smoothing: smoothed(objective, smoothing).loss(model, shown[0], NOW) for smoothing in (0.0, 0.1)}
    changed = set()
    for smoothing, found in terms.items():

        def ce(logits: Tensor, y: Tensor, smoothing: float = smoothing) -> Tensor:
            surprise = -logits.log_softmax(1)
            return (1 - smoothing) * surprise.gather(1, y[:, None])[:, 0] + smoothing * surprise.mean(1)

        by_hand = {name: values for name, values in expected(objective, model, shown[0], ce).items() if name in found}
        assert by_hand
        for name, values in by_hand.items():
            torch.testing.assert_close(found[name], values, rtol=1e-10, atol=1e-12)
        changed |= by_hand.keys()
    assert all(not torch.equal(terms[0.0][name], terms[0.1][name]) for name in changed)
    kept = terms[0.0].keys() - changed - {"coherence"}  # that of the gradients of the members' losses
    assert all(torch.equal(terms[0.0][name], terms[0.1][name]) for name in kept)


def test_every_objective_is_in_the_table() -> None:
    ours = {name for name, member in registered(Objective).items() if member.__module__.startswith("poise.objectives.")}
    assert ours == {type(objective).__name__ for objective in OBJECTIVES.values()} == EXPECTED.keys()


OF_LOGITS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": losses.cross_entropy,
    "smoothed": lambda z, y: losses.cross_entropy(z, y, 0.1),
    "boosted_ce": losses.boosted_ce,
    "margin": losses.margin,
    "targeted_margin": losses.targeted_margin,
    "probability_margin": losses.probability_margin,
    "targeted_probability_margin": losses.targeted_probability_margin,
    "dlr": losses.dlr,
    "targeted_dlr": lambda z, y: losses.targeted_dlr(z, y, (y + 1) % z.shape[1]),
    "entropy": lambda z, y: entropy(z),
    **{name: lambda z, y, name=name: losses.divergence(name, z, z.flip(1)) for name in get_args(losses.Divergence)},
    "mean probabilities": lambda z, y: log_mean_probabilities(torch.stack([z, z.flip(1)])),
    "votes": lambda z, y: log_votes(torch.stack([z, z.flip(1)])),
    "confidence": lambda z, y: confidence_of("rectified", z, z[:, :1]),
    "confidence_loss": lambda z, y: confidence_loss("rectified", z, z[:, :1], y),
}


@pytest.mark.parametrize("name", OF_LOGITS)
def test_logits_in_bfloat16_lose_nothing_more_in_a_loss(name: str) -> None:
    """MART's boosted cross-entropy of 13.4 was 34.6: in bfloat16 1.0001 is 1, and so is the probability of a sure
    mistake.
    """
    logits = (torch.randn(64, 10, generator=torch.Generator().manual_seed(0)) * 12).bfloat16()
    y = torch.arange(64) % 10
    value, wanted = OF_LOGITS[name](logits, y), OF_LOGITS[name](logits.float(), y)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-6)
