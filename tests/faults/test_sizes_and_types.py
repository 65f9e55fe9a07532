"""Directions and distances hold for numbers of any size and type, and NaN passes for no verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from poise.attacks import APGD, CW, FAB, FGSM, MIM, PGD, Attack, AutoAttack, Square, ascent
from poise.attacks.autoattack.fab_projection import onto_plane
from poise.attacks.autoattack.search import Examples
from poise.attacks.checks import check_finite
from poise.core.errors import InputError
from poise.core.lengths import unit
from poise.core.seeds import everyone
from poise.data import Split
from poise.evaluation.predictions import predict_under
from poise.learners.perturbations import AWP, RWP
from poise.losses import dlr, targeted_dlr
from poise.objectives.adp import log_determinant
from poise.objectives.gal import coherence
from poise.threats import L2, Linf, Threat

SIZES = [1e-44, 1e-38, 1e-30, 1e-20, 1e-12, 1e-7, 1e-3, 1.0, 1e10, 1e30, 1e38]


def arrows(size: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Gradients [2, 1, 2, 2] of largest entry `size`."""
    return (
        torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.75, -1.0, 0.25, 0.5]], dtype=torch.float64)
        .mul(size)
        .to(dtype)
        .view(2, 1, 2, 2)
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_in_l2_has_its_length_whatever_the_gradients_size(size: float, dtype: torch.dtype) -> None:
    gradient = arrows(size, dtype)
    step = L2().step(torch.zeros_like(gradient), gradient, 0.25)
    right = gradient.double() / gradient.double().flatten(1).norm(dim=1).view(-1, 1, 1, 1) * 0.25
    torch.testing.assert_close(
        step.double(), right, rtol=2e-6 if size < 1e-43 or dtype is torch.float32 else 1e-12, atol=0
    )


@pytest.mark.parametrize("threat", [Linf(), L2()], ids=["linf", "l2"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_no_gradient_is_no_step(threat: Threat, dtype: torch.dtype) -> None:
    z = torch.full((2, 1, 2, 2), 0.5, dtype=dtype)
    assert torch.equal(threat.step(z, torch.zeros_like(z), 0.25), z)


@pytest.mark.parametrize("size", [1e-40, 1e-25, 1e-6, 1e25])
@pytest.mark.parametrize("momentum", [0.5, 1.0])
def test_every_step_weighs_the_same_in_a_momentum_whatever_the_gradients_size(size: float, momentum: float) -> None:
    x = torch.full((2, 1, 2, 2), 0.5)
    moves = []
    for scale in (1.0, size):
        rows = [arrows(scale), arrows(scale).flip(0), arrows(scale).flip(2)]
        steps = iter(rows)
        z = ascent(
            lambda z, steps=steps: ((z * next(steps)).flatten(1).sum(1), z.flatten(1)),
            x, x, threat=L2(epsilon=10.0), step_size=0.01, steps=3, momentum=momentum,
        )  # fmt: skip
        moves.append(z)
    torch.testing.assert_close(moves[0], moves[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("epsilon", [1e-10, 1e-6, 1e-3, 0.5])
@pytest.mark.parametrize("box_first", [False, True])
def test_the_ball_in_l2_is_as_large_as_epsilon_says(epsilon: float, box_first: bool) -> None:
    x = torch.zeros(2, 1, 2, 2)  # around 0 numbers are fine enough to hold such a ball
    z = L2(epsilon=epsilon, box_first=box_first).project(x + arrows(1.0).abs(), x)
    torch.testing.assert_close(z.flatten(1).norm(dim=1), torch.full((2,), epsilon), rtol=2e-5, atol=0)


@pytest.mark.parametrize("epsilon", [1e-9, 1e-5, 0.3])
@pytest.mark.parametrize("attack", [APGD(steps=5), Square(queries=20)], ids=lambda attack: attack.name)
def test_searches_reach_the_sphere_of_a_tiny_epsilon(attack: Attack, epsilon: float) -> None:
    linear = nn.Linear(64, 4, bias=False)
    with torch.no_grad():
        # the least of leads, and of gradients
        linear.weight.copy_(torch.tensor([1e-30, 1e-31, -1e-30, -2e-30])[:, None].expand(4, 64))
    net = nn.Sequential(nn.Flatten(), linear)
    x, y = torch.zeros(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64)
    found = dataclasses.replace(attack, threat=L2(epsilon=epsilon)).search(net, 4)  # type: ignore[attr-defined, type-var]
    state = found.begin(Examples(x, y, net(x).detach(), everyone(0, count=3)), torch.zeros(3, dtype=torch.int64))
    for _ in range(4):
        state = found.step(state)
    size = (state["z"] - x).flatten(1).norm(dim=1)
    assert (size <= epsilon * (1 + 1e-5)).all()
    assert (size >= epsilon * 0.3).all()


@pytest.mark.parametrize("size", [1e-30, 1e-15, 1e-6, 1.0, 1e6])
@pytest.mark.parametrize("norm", [2, torch.inf])
def test_the_nearest_point_of_a_plane_is_that_of_the_same_plane_written_small(size: float, norm: float) -> None:
    torch.manual_seed(0)
    z, w = torch.rand(5, 12), torch.randn(5, 12)
    b = (w * z).sum(1) + 0.3
    threat = L2() if norm == 2 else Linf()
    torch.testing.assert_close(
        onto_plane(z, w * size, b * size, threat), onto_plane(z, w, b, threat), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e-12, 1e-3, 1e20])
@pytest.mark.parametrize("threat", [Linf(epsilon=0.2), L2(epsilon=1.0)], ids=["linf", "l2"])
def test_fab_finds_what_it_finds_of_a_network_whose_logits_are_scaled(size: float, threat: Threat) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 5)).double()
    x = torch.rand(6, 1, 8, 8, dtype=torch.float64)
    y = net(x).argmax(1)
    plain = FAB(threat=threat, steps=5).nearest(net, x, y)
    for parameter in net.parameters():
        parameter.data.mul_(size)
    torch.testing.assert_close(FAB(threat=threat, steps=5).nearest(net, x, y), plain, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e-12, 1e-4, 1e20])
def test_difference_of_logits_ratios_do_not_depend_on_the_logits_scale(size: float) -> None:
    torch.manual_seed(0)
    plain, y, target = torch.randn(6, 5), torch.arange(6) % 5, (torch.arange(6) + 1) % 5
    for loss in (lambda logits: dlr(logits, y), lambda logits: targeted_dlr(logits, y, target)):
        values, gradients = [], []
        for scale in (1.0, size):
            logits = (plain * scale).requires_grad_(True)
            values.append(loss(logits))
            gradients.append(torch.autograd.grad(values[-1].sum(), logits)[0] * scale)
        torch.testing.assert_close(values[1], values[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1e-36, 1e-25, 1e-10, 1e25])
@pytest.mark.parametrize("perturbation", [AWP(gamma=0.1), RWP(gamma=0.1, steps=2)], ids=["awp", "rwp"])
def test_weights_are_perturbed_by_the_same_share_whatever_the_gradients_size(
    perturbation: AWP | RWP, size: float
) -> None:
    torch.manual_seed(0)
    weights, gradients = [torch.randn(3, 4), torch.randn(2, 3)], [torch.randn(3, 4), torch.randn(2, 3)]
    moves = [
        perturbation.move(
            [weight.clone() for weight in weights], lambda keep, s=scale: [gradient * s for gradient in gradients]
        )
        for scale in (1.0, size)
    ]
    for plain, tiny in zip(*moves, strict=True):
        torch.testing.assert_close(tiny, plain, rtol=1e-2 if size < 1e-35 else 1e-5, atol=1e-6)


def test_weights_without_gradient_are_not_perturbed() -> None:
    weights = [torch.ones(2, 2)]
    for perturbation in (AWP(), RWP()):
        assert torch.equal(perturbation.move(weights, lambda keep: [torch.zeros(2, 2)])[0], torch.zeros(2, 2))


@pytest.mark.parametrize("size", [1e-40, 1e-24, 1e-10, 1e30])
def test_members_gradients_are_compared_by_direction_whatever_their_size(size: float) -> None:
    torch.manual_seed(0)
    gradients = torch.randn(3, 4, 6)
    torch.testing.assert_close(
        coherence(gradients * size), coherence(gradients), rtol=1e-3 if size < 1e-38 else 1e-5, atol=1e-6
    )


@pytest.mark.parametrize("sure", [0.0, 60.0, 95.0, 300.0])
def test_the_diversity_of_members_is_that_of_their_wrong_classes_however_sure_they_are(sure: float) -> None:
    torch.manual_seed(0)
    logits, y = torch.randn(3, 4, 5, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    right = log_determinant(logits, y)
    logits[:, :, 0] += sure
    single = logits.float().requires_grad_(True)
    found = log_determinant(single, y)
    torch.testing.assert_close(found.double(), right, rtol=1e-3, atol=1e-3)
    assert torch.autograd.grad(found.sum(), single)[0].isfinite().all()


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1.0, 1e30])
def test_unit_vectors_have_length_one_and_zero_stays_zero(size: float) -> None:
    vectors = torch.stack([torch.zeros(4), torch.tensor([3.0, 0.0, -4.0, 0.0]) * size])
    torch.testing.assert_close(
        unit(vectors)[1], torch.tensor([0.6, 0.0, -0.8, 0.0]), rtol=1e-2 if size < 1e-38 else 1e-6, atol=0
    )
    assert torch.equal(unit(vectors)[0], torch.zeros(4))


# -- types
# ------------------------------------------------------------------------------------------------------------------

HALVES = [torch.float16, torch.bfloat16]
TYPES = [*HALVES, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", TYPES)
def test_draws_lie_where_they_should_in_every_type(dtype: torch.dtype) -> None:
    draw = everyone(0, count=64)
    uniform, normal = draw.uniform(4096, dtype=dtype), draw.normal(4096, dtype=dtype)
    assert uniform.dtype is normal.dtype is dtype
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(float(uniform.double().mean()) - 0.5) < 0.005
    assert normal.isfinite().all()
    assert abs(float(normal.double().std()) - 1) < 0.01


class Shallow(nn.Module):
    """A small network; `factor` makes it so sure that cross-entropy has no gradient."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.layers, self.factor = nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), factor

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) * self.factor


ATTACKS: list[Callable[[Threat], Attack]] = [
    lambda threat: FGSM(threat=threat),
    lambda threat: PGD(threat=threat, step_size=0.1, steps=3, restarts=2),
    lambda threat: PGD(threat=threat, step_size=0.1, steps=3, loss="kl", start="gaussian"),
    lambda threat: PGD(threat=threat, step_size=0.1, steps=3, start="zero", keep="largest_margin"),
    lambda threat: MIM(threat=threat, step_size=0.1, steps=3),
    lambda threat: CW(threat=threat, step_size=0.1, steps=3),
    lambda threat: APGD(threat=threat, steps=4, unsuccessful="largest_loss"),
    lambda threat: APGD(threat=threat, steps=4, loss="dlr"),
    lambda threat: APGD(threat=threat, steps=4, loss="targeted_dlr", targets=2),
    lambda threat: FAB(threat=threat, steps=3, restarts=2),
    lambda threat: FAB(threat=threat, steps=3, targeted=True, targets=2),
    lambda threat: Square(threat=threat, queries=10),
    lambda threat: AutoAttack(
        threat=threat, version="custom", attacks=(APGD(steps=3), FAB(steps=2), Square(queries=5))
    ),
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("threat", [Linf(epsilon=0.1), L2(epsilon=0.5)], ids=["linf", "l2"])
@pytest.mark.parametrize("factor", [1.0, 1000.0, 1e-4], ids=["plain", "sure", "flat"])
def test_attacks_return_allowed_images_in_every_type(dtype: torch.dtype, threat: Threat, factor: float) -> None:
    torch.manual_seed(0)
    net, x = Shallow(factor).to(dtype), torch.rand(5, 1, 8, 8).to(dtype)
    y = net(x).argmax(1)
    for attack in (make(threat) for make in ATTACKS):
        z = attack(net, x, y)
        assert z.dtype is dtype, attack.name
        assert z.isfinite().all(), attack.name
        assert z.min() >= 0, attack.name
        assert z.max() <= 1, attack.name
        rounding = 2 * torch.finfo(dtype).eps * (8 if isinstance(threat, L2) else 1)
        assert threat.norm(z.double() - x.double()).max() <= threat.epsilon + max(rounding, 1e-6), attack.name


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("factor", "epsilon"), [(1.0, 0.4), (30.0, 0.2), (1000.0, 0.2)])
def test_an_attack_in_half_precision_breaks_what_it_breaks_in_float32(
    dtype: torch.dtype, factor: float, epsilon: float
) -> None:
    """Steps in L2 are below the spacing of half numbers; moved in those, images would stay where they are."""
    torch.manual_seed(0)
    net, x = Shallow(factor), torch.rand(64, 1, 8, 8).mul(0.5).add(0.5)
    y = net(x).argmax(1)
    attack = PGD(threat=L2(epsilon=epsilon), step_size=0.01, steps=60, start="zero")
    stands = float((net(attack(net, x, y)).argmax(1) == y).double().mean())
    half, x = net.to(dtype), x.to(dtype)
    y = half(x).argmax(1)
    assert 0.05 < stands < 0.95
    assert abs(float((half(attack(half, x, y)).argmax(1) == y).double().mean()) - stands) < 0.13


# -- NaN
# --------------------------------------------------------------------------------------------------------------------


class Root(nn.Module):
    """Its logits or their gradient are NaN where the first pixel is below (or not above) a level."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.layers, self.where = nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), where

    def forward(self, x: Tensor) -> Tensor:
        logits = self.layers(x)
        if self.where == "gradient":  # 0 * inf
            return logits + (0 * x.flatten(1)[:, :1]).sqrt()
        bad = x.flatten(1)[:, 0] != 0.5
        if self.where == "every class":
            return torch.where(bad[:, None], torch.nan, logits)
        if self.where == "infinity":
            return torch.where(bad[:, None], torch.inf, logits)
        return torch.where(bad[:, None] & (torch.arange(5) == logits.detach().argmax(1)[:, None]), torch.nan, logits)


@pytest.mark.parametrize("where", ["gradient", "every class", "one class"])
@pytest.mark.parametrize("make", ATTACKS[1:2] + ATTACKS[3:], ids=lambda make: make(Linf()).name)
def test_nan_is_refused_and_neither_a_success_nor_an_image_that_stands(
    make: Callable[[Threat], Attack], where: str
) -> None:
    torch.manual_seed(0)
    net, x = Root(where), torch.full((3, 1, 8, 8), 0.5)
    y = net(x).argmax(1)
    attack = make(Linf(epsilon=0.01))
    if where == "gradient" and isinstance(attack, Square):
        assert attack(net, x, y).isfinite().all()  # it takes none
        return
    with pytest.raises(InputError, match="NaN or infinite"):
        z = attack(net, x, y)
        # judged by whoever asks the network about the last iterate
        if isinstance(attack, MIM | CW) and where != "gradient":
            check_finite(net(z))


@pytest.mark.parametrize("where", ["gradient", "every class", "one class"])
def test_nan_is_refused_by_runs_and_evaluations(where: str) -> None:
    torch.manual_seed(0)
    net, x = Root(where), torch.full((3, 1, 8, 8), 0.5)
    y = net(x).argmax(1)
    split = Split.of((x * 255).to(torch.uint8), y)
    quick = Linf(epsilon=0.01)
    with pytest.raises(InputError, match="NaN or infinite"):
        AutoAttack(threat=quick, version="custom", attacks=(APGD(steps=4),)).run(net, x, y)
    for attack in (PGD(threat=quick, steps=2), PGD(threat=quick, steps=2, restarts=2), APGD(threat=quick, steps=2)):
        with pytest.raises(InputError, match="NaN or infinite"):
            predict_under(net, split, attack)


def test_every_power_of_ten_from_the_smallest_number_to_the_largest_gives_the_same_direction() -> None:
    steps = [L2().step(torch.zeros(2, 1, 2, 2), arrows(10.0**power), 1.0) for power in range(-43, 39)]
    for one, other in pairwise(steps):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-2 if one is steps[0] else 2e-3)
