"""Attacks aimed at a choice among experts: given numbers, threats, the sweep's worst case, and a masked choice that
they see through.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from poise.attacks import PGD, Attack
from poise.attacks.adaptive import AdaptivePGD, SoftMixturePGD, TransferFromExperts, adaptive_loss, soft_mixture
from poise.attacks.pgd import worst_of
from poise.core.errors import InputError, SettingsError
from poise.core.seeds import everyone
from poise.core.settings import from_json, to_json
from poise.losses import margin
from poise.models import Collaboration, CollaborationModule, DigitsCNN, Ensemble
from poise.models.ensemble import unwrapped
from poise.models.mixture import Mixture
from poise.threats import Linf

SHAPE = (1, 8, 8)
THREAT = Linf(epsilon=0.1)
SHORT = {"threat": THREAT, "step_size": 0.03, "steps": 4, "restarts": 2}
ATTACKS = [AdaptivePGD(lambdas=(0.0, 1.0), **SHORT), TransferFromExperts(**SHORT), SoftMixturePGD(**SHORT)]  # type: ignore[arg-type]


def collaboration(confidence: str = "rectified") -> CollaborationModule:
    whole = Collaboration(member=DigitsCNN(), confidence=confidence).build(SHAPE, 10, 3).double().eval()  # type: ignore[arg-type]
    assert isinstance(whole, CollaborationModule)
    return whole


def images(count: int = 12) -> tuple[Tensor, Tensor]:
    draw = everyone(0, "images", count=count)
    return draw.uniform(*SHAPE, dtype=torch.float64), draw.within("labels").integers(10)


@pytest.mark.parametrize("form", ["evaluator", "rectified"])
@pytest.mark.parametrize("weight", ["0", "0.2", "1"])
def test_adaptive_losses_are_the_given_ones(vectors, form, weight):
    given, whole = vectors("soe"), collaboration(form)
    prefix = f"adaptive_{form}_lambda{weight}"
    for aim, name in (("confidence", "l1"), ("mismatch", "l2")):
        logits, evaluator = (given[key].clone().requires_grad_() for key in ("logits", "evaluator"))
        values, _ = adaptive_loss(whole, logits, evaluator, given["y"], aim, float(weight))  # type: ignore[arg-type]
        torch.testing.assert_close(values, given[f"{prefix}.{name}"], atol=1e-9, rtol=1e-9)
        if f"{prefix}.{name}_grad_logits" in given:
            by_logits, by_evaluator = torch.autograd.grad(values.mean(), (logits, evaluator))
            torch.testing.assert_close(by_logits, given[f"{prefix}.{name}_grad_logits"], atol=1e-9, rtol=1e-9)
            torch.testing.assert_close(by_evaluator, given[f"{prefix}.{name}_grad_evaluator"], atol=1e-9, rtol=1e-9)
    assert torch.equal(
        whole.winners(whole.confidences(given["logits"], given["evaluator"])), given[f"{prefix}.selected"]
    )


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
def test_images_stay_in_the_threat_and_depend_on_example_and_seed_only(attack: Attack):
    whole, (x, y) = collaboration(), images()
    draw = everyone(1, "attack", count=len(x))
    x_adv = attack(whole, x, y, draw=draw)
    assert ((x_adv - x).abs() <= THREAT.epsilon + 1e-12).all()
    assert ((x_adv >= 0) & (x_adv <= 1)).all()
    assert not torch.equal(x_adv, x)
    rows = torch.tensor([7, 2, 5])
    torch.testing.assert_close(attack(whole, x[rows], y[rows], draw=draw[rows]), x_adv[rows], atol=1e-12, rtol=0)
    assert not torch.equal(attack(whole, x, y, draw=everyone(2, "attack", count=len(x))), x_adv)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
def test_attacks_survive_json_and_refuse_networks_without_experts(attack: Attack):
    assert from_json(Attack, to_json(attack)) == attack
    x, y = images(2)
    with pytest.raises(
        InputError, match=f"{type(attack).__name__} attacks .* not PlainModule|PlainModule chooses among no experts"
    ):
        attack(DigitsCNN().build(SHAPE, 10, 0).double(), x, y)


def test_an_attack_on_the_choice_refuses_an_ensemble_and_one_on_experts_does_not():
    x, y = images(3)
    ensemble = Ensemble(member=DigitsCNN()).build(SHAPE, 10, 0).double()
    mixture = Mixture(member=DigitsCNN(), gate=DigitsCNN()).build(SHAPE, 10, 0).double()
    for attack in (AdaptivePGD(), SoftMixturePGD()):
        with pytest.raises(InputError, match="EnsembleModule chooses among no experts"):
            attack(ensemble, x, y)
    for whole in (ensemble, mixture):
        assert TransferFromExperts(**SHORT)(whole, x, y).shape == x.shape  # type: ignore[arg-type]


def test_the_adaptive_attack_refuses_targets_and_an_empty_sweep():
    x, y = images(2)
    with pytest.raises(InputError, match="cannot be targeted"):
        AdaptivePGD()(collaboration(), x, y, target=y)
    with pytest.raises(SettingsError, match="lambdas"):
        AdaptivePGD(lambdas=())


def test_without_lambda_the_adaptive_attack_is_pgd():
    whole, (x, y) = collaboration(), images()
    draw = everyone(0, "attack", count=len(x))
    common = {"threat": THREAT, "step_size": 0.03, "steps": 4}
    adaptive = AdaptivePGD(lambdas=(0.0,), restarts=1, **common)(whole, x, y, draw=draw)  # type: ignore[arg-type]
    torch.testing.assert_close(adaptive, PGD(**common)(whole, x, y, draw=draw))  # type: ignore[arg-type]


def test_the_sweep_is_at_least_as_strong_as_each_of_its_lambdas():
    whole, (x, y) = collaboration(), images(24)
    draw = everyone(0, "attack", count=len(x))
    y = whole(x).argmax(1)  # every image is right before the attack
    common = {"threat": Linf(epsilon=0.02), "step_size": 0.01, "steps": 3, "restarts": 1}

    def fooled(**kwargs: object) -> Tensor:
        return whole(AdaptivePGD(**common, **kwargs)(whole, x, y, draw=draw)).argmax(1) != y  # type: ignore[arg-type]

    swept = fooled(lambdas=(0.0, 0.5, 2.0))
    parts = [fooled(lambdas=(weight,), aims=(aim,)) for weight in (0.0, 0.5, 2.0) for aim in ("confidence", "mismatch")]
    assert torch.equal(swept, torch.stack(parts).any(0))
    assert 0 < int(swept.sum()) < len(x)


def test_names_tell_settings_apart():
    names = [
        AdaptivePGD().name,
        AdaptivePGD(lambdas=(0.2,)).name,
        AdaptivePGD(aims=("mismatch",)).name,
        AdaptivePGD(restarts=1).name,
        TransferFromExperts().name,
        SoftMixturePGD().name,
        SoftMixturePGD(temperature=1, restarts=1).name,
    ]
    assert names == [
        "AdaptivePGD-50x5",
        "AdaptivePGD-50x5-0.2",
        "AdaptivePGD-50x5-mismatch",
        "AdaptivePGD-50",
        "TransferFromExperts-50x5",
        "SoftMixturePGD-50x5",
        "SoftMixturePGD-50-temperature1",
    ]


@pytest.mark.parametrize("attack", ATTACKS[1:], ids=lambda attack: type(attack).__name__)
def test_targets_are_reached_more_often_than_by_chance(attack: Attack):
    attack = dataclasses.replace(attack, threat=Linf(epsilon=0.2), step_size=0.05, steps=10)  # type: ignore[call-arg]
    whole, (x, _) = collaboration(), images(16)
    before = whole(x)
    target = before.topk(2, 1).indices[:, 1]  # the second most likely class
    after = whole(attack(whole, x, before.argmax(1), target=target))
    assert (after.argmax(1) == target).sum() >= 8


def test_the_worst_of_runs_keeps_the_first_success_and_else_the_largest_margin():
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False)).double()
    with torch.no_grad():
        # class 1 where the pixel is positive, margin = pixel
        next(network.parameters()).copy_(torch.tensor([[0.0], [1.0]]))
    x, y = torch.zeros(3, 1, 1, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    tried = [torch.tensor([-0.3, 0.2, -0.1]), torch.tensor([-0.2, 0.9, 0.4]), torch.tensor([-0.4, 0.9, 0.9])]
    seen = []

    def run(number: int):
        def once(x: Tensor, y: Tensor, draw, target) -> Tensor:
            seen.append(draw.index.tolist())
            return tried[number].double()[draw.index].view(-1, 1, 1, 1)

        return once

    found = worst_of([run(0), run(1), run(2)], network, x, y, everyone(0, count=3))
    assert found.flatten().tolist() == pytest.approx([-0.2, 0.2, 0.4])
    assert seen == [[0, 1, 2], [0, 2], [0]]
    tried[0][0] = torch.nan  # no answer at all is no right one
    assert worst_of([run(0), run(1)], network, x, y, everyone(0, count=3)).flatten().isnan().tolist() == [
        True,
        False,
        False,
    ]


def compiled(whole: nn.Module) -> nn.Module:
    return torch.compile(whole, backend="eager")  # type: ignore[return-value]


@pytest.mark.parametrize("wrap", [compiled, nn.DataParallel, lambda whole: nn.Sequential(nn.Identity(), whole)])
def test_what_only_wraps_a_collaboration_hides_nothing(wrap):
    whole, (x, y) = collaboration(), images(4)
    wrapped = wrap(whole)
    assert unwrapped(wrapped) is whole
    if wrap is not compiled:  # which compiles for long
        for attack in ATTACKS:
            assert torch.equal(attack(wrapped, x, y), attack(whole, x, y))
    normalised = nn.Sequential(nn.BatchNorm2d(3), whole)
    assert unwrapped(normalised) is normalised


class Masked(CollaborationModule):
    """Two experts on one pixel. The first answers class 0 whatever comes, the second goes over to class 1 above 1/2;
    the evaluators prefer the first below 0.3. The chosen expert's gradient is zero at the start, that of confidences
    and of the other expert is not.
    """

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.members, self.confidence = nn.ModuleList(), "evaluator"

    def all_heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pixel = x.flatten(1)[:, 0]
        nothing = torch.zeros_like(pixel)
        logits = torch.stack([torch.stack([nothing + 3, nothing], 1), torch.stack([nothing, 8 * (pixel - 0.45)], 1)])
        return logits, torch.stack([4 * (0.3 - pixel), 4 * (pixel - 0.3)])[..., None]


def test_attacks_that_follow_the_confidences_see_through_a_choice_that_masks_the_gradient():
    whole = Masked()
    x, y = torch.full((4, 1, 1, 1), 0.2, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    common = {"threat": Linf(epsilon=0.35), "step_size": 0.05, "steps": 10, "start": "zero"}
    assert (margin(whole(PGD(**common)(whole, x, y)), y) < 0).all()  # type: ignore[arg-type]
    soft = SoftMixturePGD(restarts=1, temperature=0.5, **common)  # type: ignore[arg-type]
    adaptive = AdaptivePGD(restarts=1, lambdas=(1.0,), aims=("mismatch",), **common)  # type: ignore[arg-type]
    for attack in (soft, adaptive):
        assert (margin(whole(attack(whole, x, y)), y) > 0).all()


def test_a_cold_mixture_is_the_hard_choice():
    whole, (x, _) = collaboration(), images()
    torch.testing.assert_close(soft_mixture(whole, x, 1e-7), whole(x).log_softmax(1), atol=1e-6, rtol=0)
    warm = soft_mixture(whole, x, 1e7)
    logits, _ = whole.all_heads(x)
    torch.testing.assert_close(warm.exp(), logits.softmax(-1).mean(0), atol=1e-6, rtol=0)
