"""Surrogate attacks: losses, gradients through skips, diverse inputs, draws, protocols, refusals."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from poise.attacks import MIM, Attack
from poise.attacks.transfer import MDI2FGSM, MPGD, SGM, SurrogateAttack, diverse, dverge_cw, skip_gradient, soe_transfer
from poise.core.errors import InputError
from poise.core.seeds import everyone
from poise.core.settings import from_json, registered, to_json
from poise.losses import cross_entropy, margin
from poise.models import Ensemble, EnsembleModule, PreActResNet18, ResNet20
from poise.models.resnet import ResNetModule
from poise.threats import L2, Linf

SHAPE = (3, 8, 8)
COMMON = {"threat": Linf(epsilon=0.05), "step_size": 0.01, "steps": 4}
ATTACKS: list[SurrogateAttack] = [MPGD(**COMMON), SGM(**COMMON), MDI2FGSM(**COMMON)]  # type: ignore[arg-type]
over_attacks = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)


@pytest.fixture(scope="module")
def surrogate() -> EnsembleModule:
    ensemble = Ensemble(member=ResNet20(width=2), members=3).build(SHAPE, 10, 0).double().eval()
    assert isinstance(ensemble, EnsembleModule)
    return ensemble


def images(count: int = 8) -> tuple[Tensor, Tensor]:
    draw = everyone(0, "images", count=count)
    return draw.uniform(*SHAPE, dtype=torch.float64), draw.within("labels").integers(10)


@over_attacks
def test_images_stay_in_the_threat_and_depend_on_example_and_seed_only(attack, surrogate):
    x, y = images()
    draw = everyone(1, "attack", count=len(x))
    x_adv = attack(surrogate, x, y, draw=draw)
    assert ((x_adv - x).abs() <= 0.05 + 1e-12).all()
    assert ((x_adv >= 0) & (x_adv <= 1)).all()
    rows = torch.tensor([5, 1])
    torch.testing.assert_close(attack(surrogate, x[rows], y[rows], draw=draw[rows]), x_adv[rows], atol=1e-12, rtol=0)
    assert torch.equal(attack(surrogate, x, y, draw=draw), x_adv)
    assert not torch.equal(attack(surrogate, x, y, draw=everyone(2, "attack", count=len(x))), x_adv)


@over_attacks
@pytest.mark.parametrize("loss", ["cross_entropy", "cw"])
def test_the_surrogates_loss_rises(attack, loss, surrogate):
    x, y = images()
    attack = type(attack)(loss=loss, confidence=50.0, **COMMON)
    x_adv = attack(surrogate, x, y)
    before, after = (
        cross_entropy(surrogate(z), y) if loss == "cross_entropy" else margin(surrogate(z), y) for z in (x, x_adv)
    )
    assert after.mean() > before.mean()
    target = (y + 1) % 10
    x_adv = attack(surrogate, x, y, target=target)
    assert cross_entropy(surrogate(x_adv), target).mean() < cross_entropy(surrogate(x), target).mean()


def test_momentum_pgd_of_one_start_is_mim(surrogate):
    x, y = images()
    draw = everyone(0, "attack", count=len(x))
    ours, theirs = MPGD(**COMMON), MIM(**COMMON)  # type: ignore[arg-type]
    assert torch.equal(ours(surrogate, x, y, draw=draw), theirs(surrogate, x, y, draw=draw))
    second = MPGD(restart=1, **COMMON)  # type: ignore[arg-type]
    assert not torch.equal(second(surrogate, x, y, draw=draw), ours(surrogate, x, y, draw=draw))


def test_the_released_margin_loss_is_the_given_one(vectors):
    given = vectors("logit_losses")
    for confidence in (0.1, 50.0):
        logits = given["logits"].clone().requires_grad_()
        values = dverge_cw(logits, given["y"], confidence)
        prefix = f"cw_dverge_compat_conf{confidence:g}"
        torch.testing.assert_close(values, given[prefix], atol=1e-9, rtol=1e-9)
        (gradient,) = torch.autograd.grad(values.sum(), logits)
        torch.testing.assert_close(gradient[4:], given[f"{prefix}.grad"][4:], atol=1e-9, rtol=1e-9)
    logits = given["logits"].clone().requires_grad_()
    values = dverge_cw(logits.log_softmax(1), given["y"], 0.1)
    torch.testing.assert_close(values, given["cw_dverge_compat_conf0.1_on_logprobs"], atol=1e-9, rtol=1e-9)
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    torch.testing.assert_close(
        gradient[4:], given["cw_dverge_compat_conf0.1_on_logprobs.grad"][4:], atol=1e-9, rtol=1e-9
    )


def test_the_released_margin_loss_stops_on_log_probabilities_and_the_masked_one_does_not(surrogate):
    x, y = images()
    natural = {
        "threat": Linf(epsilon=0.05),
        "step_size": 0.01,
        "steps": 4,
        "start": "zero",
        "loss": "cw",
        "confidence": 50.0,
    }
    sure = {**natural, "confidence": 0.1}
    assert (surrogate(x).softmax(1).gather(1, y[:, None]) < 0.9).all()
    assert torch.equal(SGM(dverge_cw_compat=True, **sure)(surrogate, x, y), x)  # type: ignore[arg-type]
    assert not torch.equal(SGM(**natural)(surrogate, x, y), x)  # type: ignore[arg-type]


# -- skip gradients ---------------------------------------------------------------------------------------------------


def test_skip_gradients_change_the_gradient_and_not_the_output(surrogate):
    x, y = images()
    x.requires_grad_()
    output = surrogate(x)
    torch.testing.assert_close(skip_gradient(surrogate, x, 0.2), output, atol=1e-12, rtol=0)
    plain, full, half = (
        torch.autograd.grad(cross_entropy(logits, y).sum(), x)[0]
        for logits in (output, skip_gradient(surrogate, x, 1.0), skip_gradient(surrogate, x, 0.5))
    )
    torch.testing.assert_close(full, plain, atol=1e-12, rtol=0)
    assert not torch.allclose(half, plain)


def test_gamma_scales_residual_branches_only():
    """The gradient at the image is a polynomial in gamma; at 0 it is that of a network whose residual branches are
    constants.
    """
    network = ResNet20(width=2).build(SHAPE, 10, 0).double().eval()
    assert isinstance(network, ResNetModule)
    x = images(2)[0].requires_grad_()
    (ours,) = torch.autograd.grad(skip_gradient(network, x, 0.0).sum(), x)
    z = F.relu(network.bn1(network.conv1(x)))
    for block in network.blocks():
        with torch.no_grad():
            constant = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(z)))))
        z = F.relu(constant + block.shortcut(z))
    (slow,) = torch.autograd.grad(network.head(z.mean((2, 3))).sum(), x)
    torch.testing.assert_close(ours, slow, atol=1e-12, rtol=0)


def test_skip_gradients_need_basic_blocks():
    x, y = images(2)
    with pytest.raises(InputError, match=r"ResNet of basic blocks .* not PreActResNetModule"):
        SGM()(PreActResNet18(width=2).build(SHAPE, 10, 0).double(), x, y)


# -- diverse inputs ---------------------------------------------------------------------------------------------------


def test_half_of_the_images_are_shrunk_to_sides_of_28_to_32():
    x = torch.ones(600, 1, 32, 32)
    shown = diverse(x, everyone(0, "diversity", count=600), 0.5, 28 / 32)
    sides = shown[:, 0].amax(1).sum(1)
    assert torch.equal(shown[:, 0].sum((1, 2)), sides**2)
    counts = Counter(sides.int().tolist())
    assert set(counts) == {28, 29, 30, 31, 32}
    assert all(30 < counts[side] < 90 for side in (28, 29, 30, 31))  # a tenth each
    corners = {
        (int(image[0].amax(1).argmax()), int(image[0].amax(0).argmax()))
        for image, side in zip(shown, sides, strict=True)
        if side == 28
    }
    assert len(corners) > 15
    assert {corner[0] for corner in corners} == {0, 1, 2, 3, 4}


def test_a_shrunk_image_is_its_nearest_neighbour_resize_on_black():
    x = everyone(0, count=40).uniform(2, 9, 6)
    shown = diverse(x, everyone(3, "diversity", count=40), 1.0, 0.5)
    for image, original in zip(shown, x, strict=True):
        filled = image[0] != 0
        height, width = int(filled.any(1).sum()), int(filled.any(0).sum())
        top, left = int(filled.any(1).float().argmax()), int(filled.any(0).float().argmax())
        assert 5 <= height <= 9
        small = F.interpolate(original[None], size=(height, width), mode="nearest")[0]
        assert torch.equal(image[:, top : top + height, left : left + width], small)
        assert int((image != 0).sum()) == 2 * height * width


def test_diversity_is_off_at_probability_zero_and_gradients_pass_through_it():
    x = everyone(0, count=4).uniform(1, 8, 8, dtype=torch.float64).requires_grad_()
    draw = everyone(0, "diversity", count=4)
    assert torch.equal(diverse(x, draw, 0.0, 0.5), x)
    (gradient,) = torch.autograd.grad(diverse(x, draw, 1.0, 0.5).sum(), x)
    assert (gradient.sum((1, 2, 3)) < 64).any()
    assert (gradient >= 0).all()


def test_diversity_is_drawn_afresh_at_every_step(surrogate):
    x, y = images()
    seen: list[Tensor] = []

    class Watching(EnsembleModule):
        def forward(self, x: Tensor) -> Tensor:
            if isinstance(x, Tensor):  # not when its graph is read
                seen.append((x == 0).flatten(1).sum(1))
            return super().forward(x)

    watching = Watching(list(surrogate.members), "mean_probabilities").eval()
    attack = MDI2FGSM(threat=Linf(epsilon=0.01), step_size=0.002, steps=6, probability=1.0, smallest=0.5)
    attack.perturb(watching, x + 0.02, y, everyone(0, count=len(x)))
    assert len(seen) == 6
    assert len({tuple(counts.tolist()) for counts in seen}) == 6


# -- protocols --------------------------------------------------------------------------------------------------------


def test_protocols_have_3_and_30_variants_of_different_names():
    three, ten = soe_transfer(3, Linf(epsilon=0.03)), soe_transfer(30, Linf(epsilon=0.03))
    assert [attack.name for attack in three] == ["MPGD-100", "SGM-100", "MDI2FGSM-100"]
    assert len(ten) == len({attack.name for attack in ten}) == 10  # on each of three surrogates
    assert set(three) <= set(ten)
    assert {attack.step_size for attack in ten} == {0.03 / 5}
    assert {attack.loss for attack in ten} == {"cross_entropy", "cw"}
    assert all(attack.dverge_cw_compat for attack in soe_transfer(30, L2(), dverge_cw_compat=True))


@over_attacks
def test_settings_survive_json(attack):
    assert from_json(Attack, to_json(attack)) == attack
    assert "SurrogateAttack" not in registered(Attack)
