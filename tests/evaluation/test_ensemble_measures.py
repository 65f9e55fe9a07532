"""What several experts have together: measures against counts by hand, and the surrogate x target matrix."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from poise.attacks import FGSM, PGD
from poise.core.errors import InputError
from poise.core.seeds import everyone
from poise.data.dataset import Split
from poise.evaluation.experts import measure_ensemble, measures
from poise.evaluation.predictions import accuracy, predict, predict_under
from poise.models import Collaboration, CollaborationModule, DigitsCNN, Ensemble
from poise.models.mixture import Mixture
from poise.threats import Linf

SHAPE = (1, 8, 8)
ATTACK = PGD(threat=Linf(epsilon=0.1), step_size=0.04, steps=3)
MODELS = [
    Collaboration(member=DigitsCNN()),
    Ensemble(member=DigitsCNN()),
    Mixture(member=DigitsCNN(), gate=DigitsCNN()),
]


def split(count: int = 50) -> Split:
    draw = everyone(0, "split", count=count)
    return Split.of((draw.uniform(*SHAPE) * 256).to(torch.uint8), draw.within("labels").integers(3))


def test_measures_count_what_they_say():
    """Four examples of class 0 and two experts: both right, only the first, only the second, none."""
    logits = torch.tensor(
        [[[3.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 1.0], [5.0, 0.0], [0.0, 1.0]]]
    )
    y, chosen = torch.zeros(4, dtype=torch.int64), torch.tensor([1, 0, 0, 1])
    output = torch.stack([logits[expert, example] for example, expert in enumerate(chosen.tolist())])
    found = measures(logits, y, output, chosen)
    assert found.members == (0.5, 0.5)
    assert found.overlap == 0.25
    assert found.oracle == 0.75
    assert found.best == (0.5, 0.5)  # the fourth example's least wrong expert is the second
    assert found.accuracy == 0.5
    assert found.choice is not None
    assert found.choice.right == 0.5
    assert found.choice.best == 0.5
    assert found.choice.missed == 0.25
    assert found.choice.won == (0.5, 0.5)


def test_the_expert_of_lowest_loss_may_be_wrong_where_another_is_right():
    p = torch.tensor([[[0.40, 0.35, 0.25]], [[0.45, 0.55, 1e-6]]])
    found = measures(p.log(), torch.tensor([0]), p.log().mean(0))
    assert (found.oracle, found.overlap) == (0.0, 0.0)
    assert found.choice is None


@pytest.mark.parametrize("network", MODELS, ids=lambda network: type(network).__name__)
@pytest.mark.parametrize("attack", [None, ATTACK], ids=["natural", "attacked"])
def test_measures_of_a_network_agree_with_its_predictions(network, attack):
    model, images = network.build(SHAPE, 10, 2).double(), split()
    found = measure_ensemble(model, images, attack, batch_size=16)
    predicted = predict(model, images) if attack is None else predict_under(model, images, attack)
    assert found.accuracy == accuracy(predicted, images)
    assert found == measure_ensemble(model, images, attack, batch_size=50)
    assert max(found.members) <= 1 - found.overlap + 1e-12
    assert found.oracle <= 1 - found.overlap + 1e-12
    assert sum(found.best) == pytest.approx(1)
    if isinstance(model, CollaborationModule):
        assert found.choice is not None
        assert found.choice.right == found.accuracy
        assert found.choice.right + found.choice.missed + found.overlap == pytest.approx(1)
        assert sum(found.choice.won) == pytest.approx(1)
    else:
        assert found.choice is None


def test_a_wrapper_hides_no_experts():
    model = MODELS[0].build(SHAPE, 10, 2).double()
    assert measure_ensemble(nn.Sequential(nn.Identity(), model), split(8), ATTACK) == measure_ensemble(
        model, split(8), ATTACK
    )


def test_the_network_comes_back_as_it_was_and_one_network_is_refused():
    model = Collaboration(member=DigitsCNN()).build(SHAPE, 10, 0).train()
    measure_ensemble(model, split(8), FGSM(threat=Linf(epsilon=0.1)))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(InputError, match="PlainModule, must be a Collaboration"):
        measure_ensemble(DigitsCNN().build(SHAPE, 10, 0), split(8))
