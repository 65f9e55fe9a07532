"""What training or a choice among experts hides: soft mixtures, voting, and another divergence inside than outside."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.core.errors import InputError
from poise.core.seeds import Draw
from poise.core.settings import to_json
from poise.core.verdicts import Finding
from poise.data import Digits
from poise.evaluation.sanity import CHECKS, Effort, inspect
from poise.evaluation.sanity.significance import Paired, exceeds, tail
from poise.learners import Policy
from poise.methods import Joint
from poise.models import CollaborationModule, EnsembleModule
from poise.objectives import AT, SqueezeTraining
from poise.threats import Linf
from poise.verbs.sanity import divergences_of

SMALL = Effort(
    steps=8, autoattack_steps=10, targets=2, queries=30, gradient_examples=20, gradient_samples=8, substitute_steps=10
)


class Masked(CollaborationModule):
    """Two experts on the mean pixel. The first answers class 0 whatever comes, more surely on bright images; the second
    goes over to class 1 above .45; the first is chosen below .3. So the chosen expert's gradient leads to dark images,
    away from the other expert.
    """

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.members, self.confidence = nn.ModuleList(), "evaluator"

    def all_heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pixel = x.flatten(1).mean(1)
        nothing = torch.zeros_like(pixel)
        logits = torch.stack([torch.stack([3 + pixel, nothing], 1), torch.stack([nothing, 8 * (pixel - 0.45)], 1)])
        return logits, torch.stack([4 * (0.3 - pixel), 4 * (pixel - 0.3)])[..., None]


def test_a_hard_choice_that_masks_the_gradient_is_caught(monkeypatch):
    from poise.evaluation.sanity import choice_checks

    # these two experts have no networks
    monkeypatch.setattr(choice_checks, "TransferFromExperts", choice_checks.SoftMixturePGD)
    x, y = torch.full((40, 1, 4, 4), 0.2), torch.zeros(40, dtype=torch.int64)
    found = inspect(
        Masked(), x, y, Linf(epsilon=0.35), effort=dataclasses.replace(SMALL, steps=20), checks=["hard_choice"]
    )["hard_choice"]
    assert found.judgement == "flaw"
    assert found.numbers["SoftMixturePGD"]["only_first"] >= 30
    assert found.seen.startswith("SoftMixturePGD breaks")


class VotesOnly(EnsembleModule):
    """Counts votes as it is usually written: with no gradient at all, where ours leaves one in the tie-break."""

    def combine(self, logits: Tensor) -> Tensor:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype).mean(0) + 0 * logits.mean(0)


@pytest.mark.parametrize(("kind", "judgement"), [(VotesOnly, "flaw"), (EnsembleModule, "pass")])
def test_an_ensemble_that_votes_is_attacked_through_its_mean(trained, kind, judgement):
    members = [trained(recipe) for recipe in ("nt_digits", "at_digits", "at_digits")]
    test = Digits().load().test.first(64)
    found = inspect(
        kind(members, "vote").eval(),
        test.pixels(),
        test.labels,
        Linf(epsilon=0.3),
        effort=SMALL,
        checks=["hard_choice"],
    )
    assert found["hard_choice"].judgement == judgement
    numbers = found["hard_choice"].numbers
    through_mean = numbers["PGD on mixtures"]
    assert through_mean["accuracy"] < 0.3  # these members stand hardly at all, however they are asked
    if judgement == "flaw":
        assert numbers["PGD"] > 0.5 and through_mean["only_first"] > 20
    else:  # the sign of the tie-break's gradient is that of the mean's
        assert abs(numbers["PGD"] - through_mean["accuracy"]) <= 2 / 64


def looked_at(model: nn.Module) -> Finding:
    x, y = torch.full((40, 1, 4, 4), 0.2), torch.zeros(40, dtype=torch.int64)
    effort = dataclasses.replace(SMALL, steps=20)
    return inspect(model.eval(), x, y, Linf(epsilon=0.35), effort=effort, checks=["hard_choice"])["hard_choice"]


@pytest.mark.parametrize(
    ("around", "judgement"),
    [
        (lambda model: nn.Sequential(nn.Identity(), model), "flaw"),
        (lambda model: EnsembleModule([model, model], "mean_probabilities"), "flaw"),
        (lambda model: nn.Sequential(nn.AvgPool2d(1), model), "warning"),
        (lambda model: nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), "not applicable"),
    ],
    ids=["wrapped", "in an ensemble", "behind a layer", "none"],
)
def test_a_choice_is_found_wherever_it_lies(monkeypatch, around, judgement):
    from poise.evaluation.sanity import choice_checks

    class Unbroken(choice_checks.SoftMixturePGD):  # these experts have no networks of their own
        def check(self, model: nn.Module) -> None:
            pass

        def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None = None) -> Tensor:
            return x

    monkeypatch.setattr(choice_checks, "TransferFromExperts", Unbroken)
    found = looked_at(around(Masked()))
    assert found.judgement == judgement
    if judgement == "warning":
        assert "The Masked inside Sequential makes a hard choice" in found.seen


def test_training_on_another_divergence_inside_is_a_warning_with_the_measure(trained):
    test = Digits().load().test.first(48)
    x, y = test.pixels(), test.labels

    def judged(inner: str, outer: str):
        given = (inner, outer)
        return inspect(
            trained("at_digits"),
            x,
            y,
            Linf(epsilon=0.2),
            effort=SMALL,
            checks=["training_divergence"],
            divergences=given,  # pyright: ignore[reportArgumentType]
        )["training_divergence"]

    found = judged("js", "symmetric_kl")
    assert found.judgement == "warning"
    assert set(found.numbers["accuracy"]) == {"PGD on js", "PGD-CE", "AutoAttack (short)"}
    assert "Li et al. 2023" in found.means
    assert judged("js", "js").judgement == "pass"


def test_the_divergences_are_found_in_a_methods_settings():
    def of(**changes: object):
        return divergences_of(to_json(Joint(policy=Policy(objective=SqueezeTraining(**changes)))))  # type: ignore[arg-type]

    assert of() == ("symmetric_kl", "symmetric_kl")
    assert of(inner_divergence="js", divergence="squared_l2") == ("js", "squared_l2")
    assert divergences_of(to_json(Joint(policy=Policy(objective=AT())))) is None


def test_the_tests_are_the_exact_binomial_ones():
    assert tail(10, 10, 0.5) == pytest.approx(2**-10)
    assert tail(0, 10, 0.5) == 1
    assert tail(3, 5, 0.2) == pytest.approx(10 * 0.2**3 * 0.8**2 + 5 * 0.2**4 * 0.8 + 0.2**5)
    first = torch.tensor([False] * 12 + [True] * 8)
    pair = Paired.of(first, ~first | (torch.arange(20) > 17))
    assert (pair.more, pair.less, pair.count) == (12, 6, 20)
    assert pair.gain == pytest.approx(0.3)
    assert pair.p == pytest.approx(sum(math.comb(18, k) for k in range(12, 19)) / 2**18)
    assert not pair.proven(0.001) and pair.proven(0.2)
    assert exceeds(10, 20, 0.1, 0.001) and not exceeds(4, 20, 0.1, 0.001)


def test_what_cannot_be_inspected_is_refused():
    x, y = torch.rand(20, 1, 4, 4), torch.zeros(20, dtype=torch.int64)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with pytest.raises(InputError, match=r"checks has no check 'black_boxes'; did you mean 'black_box'\?"):
        inspect(network, x, y, Linf(), checks=["black_boxes"])
    with pytest.raises(InputError, match=r"x has shape \[8, 1, 4, 4\], must be \[N, C, H, W\] with at least 16 images"):
        inspect(network, x[:8], y[:8], Linf())
    with pytest.raises(InputError, match=r"threat.epsilon = 0.0, must be positive"):
        inspect(network, x, y, Linf(epsilon=0))
    with pytest.raises(InputError, match=r"must be in \[0, 1\]; divide by 255"):
        inspect(network, 255 * x, y, Linf())
    assert len(CHECKS) == 18
