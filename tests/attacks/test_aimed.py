"""AimedPGD takes the forms that fit the network, and is as strong as the strongest of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poise.attacks import PGD, AdaptivePGD, AimedPGD
from poise.core.errors import InputError
from poise.core.seeds import everyone
from poise.losses import margin
from poise.models import Collaboration, DigitsCNN, Ensemble, Network
from poise.models.mixture import Mixture
from poise.threats import Linf

SHAPE = (1, 8, 8)
COMMON: dict[str, Any] = {"threat": Linf(epsilon=0.05), "step_size": 0.02, "steps": 5}
SMALL = DigitsCNN(width=4)
FORMS: list[tuple[Network, int]] = [
    (SMALL, 1),
    (Collaboration(member=SMALL), 1 + 1 + 2 * 5 + 3),
    (Ensemble(member=SMALL), 1 + 1 + 3),
    (Ensemble(member=SMALL, output="vote", members=2), 1 + 2 + 2),
    (Mixture(member=SMALL, gate=SMALL), 1 + 3),
]


def built(network: Network) -> nn.Module:
    return network.build(SHAPE, 10, 4).double().eval()


def images(count: int = 12) -> tuple[Tensor, Tensor]:
    draw = everyone(0, "images", count=count)
    return draw.uniform(*SHAPE, dtype=torch.float64), draw.within("labels").integers(10)


@pytest.mark.parametrize(("network", "forms"), FORMS, ids=[type(network).__name__ + str(forms) for network, forms in FORMS])
def test_the_forms_are_those_that_fit(network: Network, forms: int) -> None:
    model, (x, y) = built(network), images()
    attack = AimedPGD(**COMMON)
    assert len(attack._scores(model, x, y)) == forms
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
    for single in (PGD(**COMMON), AdaptivePGD(restarts=1, lambdas=(0.4,), **COMMON), AdaptivePGD(restarts=1, lambdas=(1.0,), **COMMON)):
        assert (together | ~broken(single)).all()
    assert together.sum() > broken(PGD(**COMMON)).sum() or together.all()


def test_a_vote_is_attacked_through_its_members_probabilities() -> None:
    """PGD on the votes themselves finds less: all but a thousandth of them has no gradient."""
    model, (x, _) = built(Ensemble(member=SMALL, output="vote")), images(40)
    y = model(x).argmax(1)
    aimed = margin(model(AimedPGD(**COMMON)(model, x, y)), y) > 0
    plain = margin(model(PGD(**COMMON)(model, x, y)), y) > 0
    assert aimed.sum() >= plain.sum()
    assert (aimed | ~plain).all()


def test_names_and_refusals() -> None:
    assert (AimedPGD().name, AimedPGD(restarts=2, steps=10).name) == ("AimedPGD-50", "AimedPGD-10x2")
    x, y = images(2)
    with pytest.raises(InputError, match="cannot be targeted"):
        AimedPGD(**COMMON)(built(SMALL), x, y, target=y)
