"""AimedPGD takes the forms that fit the network, and is as strong as the strongest of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poise.attacks import PGD, AdaptivePGD, AimedPGD
from poise.attacks.adaptive import soft_mixture
from poise.core.errors import InputError
from poise.core.progress import Progress
from poise.core.seeds import everyone
from poise.data import Data, Split
from poise.evaluation import Protocol, evaluate, soe_adaptive
from poise.losses import margin
from poise.models import Collaboration, DigitsCNN, Ensemble, Network
from poise.models.ensemble import CollaborationModule, EnsembleModule
from poise.models.mixture import Mixture
from poise.threats import L2, Linf

SHAPE = (1, 8, 8)
COMMON: dict[str, Any] = {"threat": Linf(epsilon=0.05), "step_size": 0.02, "steps": 5}
SMALL = DigitsCNN(width=4)
FORMS: list[tuple[Network, int]] = [
    (SMALL, 1),
    (Collaboration(member=SMALL), 1 + 1 + 2 * 5 + 3),
    (Ensemble(member=SMALL), 1 + 1 + 3),
    (Ensemble(member=SMALL, output="mean_logits"), 1 + 1 + 3),
    (Ensemble(member=SMALL, output="vote", members=2), 1 + 1 + 2),
    (Mixture(member=SMALL, gate=SMALL), 1 + 3),
]


def built(network: Network) -> nn.Module:
    return network.build(SHAPE, 10, 4).double().eval()


def images(count: int = 12) -> tuple[Tensor, Tensor]:
    draw = everyone(0, "images", count=count)
    return draw.uniform(*SHAPE, dtype=torch.float64), draw.within("labels").integers(10)


@pytest.mark.parametrize(
    ("network", "forms"), FORMS, ids=[type(network).__name__ + str(forms) for network, forms in FORMS]
)
def test_the_forms_are_those_that_fit(network: Network, forms: int) -> None:
    model, (x, y) = built(network), images()
    attack = AimedPGD(**COMMON)
    assert len(attack.forms(model)) == forms
    assert attack.facts(model) == {"forms": forms, "runs": forms}
    assert AimedPGD(runs=8, restarts=2).facts(model) == {"forms": forms, "runs": max(8, 2 * forms)}
    x_adv = attack(model, x, y)
    assert ((x_adv - x).abs() <= 0.05 + 1e-12).all()
    rows, draw = torch.tensor([7, 2]), everyone(0, "attack", count=len(x))
    torch.testing.assert_close(attack(model, x[rows], y[rows], draw=draw[rows]), x_adv[rows], atol=1e-12, rtol=0)


def test_nothing_that_one_form_breaks_is_left_standing() -> None:
    model, (x, _) = built(Collaboration(member=SMALL)), images(40)
    y = model(x).argmax(1)

    def broken(attack: Any) -> Tensor:
        return margin(model(attack(model, x, y)), y) > 0

    together = broken(AimedPGD(**COMMON))
    for single in (
        PGD(**COMMON),
        AdaptivePGD(restarts=1, lambdas=(0.4,), **COMMON),
        AdaptivePGD(restarts=1, lambdas=(1.0,), **COMMON),
    ):
        assert (together | ~broken(single)).all()
    assert together.sum() > broken(PGD(**COMMON)).sum() or together.all()


def test_steps_on_a_vote_are_those_on_its_members_mean_probability() -> None:
    """The cross-entropies' gradients are parallel, so a form of its own would be the same attack twice."""
    vote, (x, _) = built(Ensemble(member=SMALL, output="vote")), images(40)
    assert isinstance(vote, EnsembleModule)
    y = vote(x).argmax(1)
    mean = EnsembleModule(list(vote.members), "mean_probabilities")
    for threat in (Linf(epsilon=0.05), L2(epsilon=0.5)):
        attack = PGD(**{**COMMON, "threat": threat})
        torch.testing.assert_close(
            attack(vote, x, y), attack(mean, x, y), atol=0 if isinstance(threat, Linf) else 1e-6, rtol=0
        )


def test_runs_fill_up_with_starts_that_were_not_tried_before() -> None:
    """One network of one form meets as many runs as a collaboration of fifteen: PGD with fifteen restarts."""
    model, (x, _) = built(SMALL), images(40)
    y = model(x).argmax(1)
    filled = AimedPGD(runs=15, **COMMON)
    assert torch.equal(filled(model, x, y), PGD(restarts=15, **COMMON)(model, x, y))
    assert filled._plan(4)[:4] == AimedPGD(**COMMON)._plan(4)
    assert len(set(filled._plan(4))) == 15
    assert filled._plan(17) == AimedPGD(**COMMON)._plan(17)
    assert filled.name == "AimedPGD-5-15runs"


def test_several_hidden_in_one_network_are_refused_and_counted_in_records() -> None:
    model, (x, y) = built(Collaboration(member=SMALL, members=2)), images(4)
    hidden = nn.Sequential(nn.AvgPool2d(1), model)
    with pytest.raises(InputError, match="AimedPGD cannot reach the Collaboration inside Sequential; attack it itself"):
        AimedPGD(**COMMON)(hidden, x, y)
    data = Data("toy", split := Split.of((x * 255).to(torch.uint8), y), split, tuple("0123456789"))
    shown: list[str] = []
    progress = Progress()
    progress.begin = lambda name, *_: shown.append(name) or (lambda done: None)  # type: ignore[method-assign,func-returns-value]
    with pytest.raises(InputError, match="AdaptivePGD attacks the choice of a Collaboration"):
        evaluate(built(SMALL), data, soe_adaptive(), progress=progress)
    assert shown == [], "nothing was run before it was refused"
    record = evaluate(model, data, Protocol(name="aimed", attacks=(AimedPGD(**{**COMMON, "steps": 1}),)))
    assert (record.attacks[0].notes["forms"], record.attacks[0].notes["runs"]) == (14, 14)


def test_choices_inside_an_ensemble_are_reached() -> None:
    """Two collaborations that vote: the forms of the vote, of mixtures throughout, and all those of each
    collaboration.
    """
    several = [Collaboration(member=SMALL, members=2).build(SHAPE, 10, seed).double().eval() for seed in (1, 2)]
    choices = [each for each in several if isinstance(each, CollaborationModule)]
    model = EnsembleModule(several, "vote").eval()
    attack, alone = AimedPGD(**COMMON), len(AimedPGD(**COMMON).forms(several[0]))
    attack.check(model)
    assert alone == 1 + 1 + 2 * 5 + 2
    assert len(attack.forms(model)) == 1 + 1 + 1 + 2 * alone
    x, _ = images(40)
    y = model(x).argmax(1)
    mixed = attack.forms(model)[2](x, y, None)(x)[1]
    expected = torch.stack([soft_mixture(each, x, attack.temperature).exp() for each in choices]).mean(0).log()
    torch.testing.assert_close(mixed, expected)
    with pytest.raises(InputError, match="cannot reach the Ensemble inside Sequential"):
        attack.check(nn.Sequential(nn.AvgPool2d(1), model))
    with pytest.raises(InputError, match="cannot reach the Collaboration inside Ensemble"):
        attack.check(EnsembleModule([nn.Sequential(nn.AvgPool2d(1), several[0]), several[1]], "vote"))


def test_names_and_refusals() -> None:
    assert (AimedPGD().name, AimedPGD(restarts=2, steps=10).name) == ("AimedPGD-50", "AimedPGD-10x2")
    x, y = images(2)
    with pytest.raises(InputError, match="cannot be targeted"):
        AimedPGD(**COMMON)(built(SMALL), x, y, target=y)
