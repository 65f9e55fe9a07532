"""L1: projections are the optimum of ball and box, and the attacks on linear networks reach the closed form."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor, nn

from poise.attacks import APGD, FAB, FGSM, MIM, PGD, Attack, AutoAttack, Square
from poise.attacks.autoattack.fab_projection import onto_plane
from poise.core.errors import SettingsError
from poise.core.overrides import override
from poise.core.seeds import everyone
from poise.core.settings import from_json, to_json
from poise.data import Digits
from poise.engine import Experiment, train
from poise.evaluation import Protocol, evaluate
from poise.learners import Policy
from poise.methods import Joint
from poise.models import DigitsCNN
from poise.objectives import AT
from poise.threats import L1, L2, Linf, shrunk

EPSILON = 1.5
WITHIN = L1(epsilon=EPSILON)


def images(count: int, seed: int = 0, size: int = 6) -> Tensor:
    return 0.3 + 0.4 * torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)).double()


def two_classes(seed: int = 1, size: int = 6) -> nn.Module:
    """A linear network whose boundary lies near the grey image."""
    layer = nn.Linear(3 * size * size, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(seed)))
        layer.bias.copy_(-layer.weight.sum(1) / 2)
    return nn.Sequential(nn.Flatten(), layer).requires_grad_(False)


def nearest_sizes(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The exact L1 distance [B] of each image to the boundary inside the box: coordinates of largest |w| first, by a
    linear program.
    """
    weight, bias = network[1].weight, network[1].bias  # type: ignore[index, union-attr]
    normal, level = (weight[1] - weight[0]).numpy(), float(bias[0] - bias[1])
    sizes = []
    for image in x.flatten(1).numpy():
        # image + p - q on the plane, p and q at least 0 and within the box
        found = linprog(
            np.ones(2 * len(normal)),
            A_eq=np.r_[normal, -normal][None],
            b_eq=[level - normal @ image],
            bounds=[*((0, 1 - pixel) for pixel in image), *((0, pixel) for pixel in image)],
        )
        sizes.append(found.fun)
    return torch.tensor(sizes).double()


def test_an_epsilon_beyond_the_box_is_refused_wherever_images_are_met(tmp_path: Path) -> None:
    network, x = two_classes(), images(3)
    y, words = network(x).argmax(1), r"L1.epsilon = 109: must be at most 108, within which every image of 3 x 6 x 6"
    for attack in (PGD(threat=L1(epsilon=109)), FAB(threat=L1(epsilon=109)), AutoAttack(threat=L1(epsilon=109))):
        with pytest.raises(SettingsError, match=words):
            attack(network, x, y)
    with pytest.raises(SettingsError, match=words):
        AutoAttack(threat=L1(epsilon=109)).run(network, x, y)
    PGD(threat=L1(epsilon=108), steps=1)(network, x, y)
    beyond = L1(epsilon=64.5)
    made = Experiment(
        data=Digits(train_images=20, test_images=10),
        method=Joint(policy=Policy(objective=AT())),
        epochs=1,
        selection="test",
    )
    trained = override(made, {"method.objective.inner.threat": to_json(beyond)})
    judged = dataclasses.replace(made, protocol=Protocol(attacks=(PGD(threat=beyond),)))
    for experiment in (trained, judged):
        with pytest.raises(SettingsError, match=r"L1.epsilon = 64.5: must be at most 64"):
            train(experiment, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    with pytest.raises(SettingsError, match=r"must be at most 64"):
        evaluate(DigitsCNN(width=4).build((1, 8, 8), 10, 0), Digits(test_images=10).load(), judged.protocol)


@pytest.mark.parametrize("epsilon", [0.1, 0.7, 2.0, 50.0])
@pytest.mark.parametrize("corner", [False, True], ids=["inside", "at corners of the box"])
def test_the_projection_is_the_quadratic_programs_optimum(epsilon: float, corner: bool) -> None:
    source = torch.Generator().manual_seed(7)
    x = torch.rand(6, 1, 1, 7, generator=source).double()
    x = x.round() if corner else x
    z = x + torch.randn(x.shape, generator=source).double()
    projected = L1(epsilon=epsilon).project(z, x)
    assert bool((projected >= 0).all()) and bool((projected <= 1).all())
    assert bool((L1().norm(projected - x) <= epsilon * (1 + 1e-12)).all())
    for ours, image, point in zip(
        projected.flatten(1).numpy(), x.flatten(1).numpy(), z.flatten(1).numpy(), strict=True
    ):

        def distance(move: np.ndarray, image: np.ndarray = image, point: np.ndarray = point) -> float:
            return float(((image + move[:7] - move[7:] - point) ** 2).sum())

        best = minimize(
            distance,
            np.zeros(14),
            bounds=[*((0, 1 - pixel) for pixel in image), *((0, pixel) for pixel in image)],
            constraints=[{"type": "ineq", "fun": lambda move: epsilon - move.sum()}],
            options={"ftol": 1e-13, "maxiter": 500},
        )
        assert ((ours - point) ** 2).sum() <= best.fun + 1e-6


def test_what_is_allowed_stays_and_ties_and_zeros_are_shared() -> None:
    threat = L1(epsilon=1.0)
    x = torch.full((1, 1, 1, 4), 0.5)
    inside = x + torch.tensor([0.25, -0.25, 0.0, 0.5])
    assert torch.equal(threat.project(inside, x), inside)
    tied = threat.project(x + torch.tensor([0.4, 0.4, -0.4, 0.4]), x)
    torch.testing.assert_close(tied - x, torch.tensor([[[[0.25, 0.25, -0.25, 0.25]]]]))
    assert torch.equal(threat.project(x, x), x)
    assert torch.equal(L1(epsilon=0).project(x + 1, x), x)
    none = shrunk(torch.ones(2, 3), torch.zeros(2, 3), torch.ones(2))  # no room at all
    assert torch.equal(none, torch.zeros(2, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_starts_and_steps_stay_in_the_threat_in_every_type(dtype: torch.dtype) -> None:
    threat = L1(epsilon=3.0)
    x = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    start = threat.random_start(x, everyone(0, "start", count=5))
    assert start.dtype == dtype
    size = threat.norm(start.double() - x.double())
    # half precision rounds each moved pixel by half its last digit
    assert bool((size <= 3.0 * (1 + 1e-5) + 768 * torch.finfo(dtype).eps / 4).all())
    assert bool((size > 1.5).all())


def test_a_step_moves_the_largest_gradients_that_the_box_lets_move_however_small_they_are() -> None:
    threat = L1(density=0.5)
    z = torch.tensor([[0.5, 1.0, 0.5, 0.5]]).view(1, 1, 1, 4)
    gradient = torch.tensor([[1e-30, 5.0, -3e-30, 2e-30]]).view(1, 1, 1, 4)
    moved = threat.step(z, gradient, 0.2)
    torch.testing.assert_close(moved.flatten(), torch.tensor([0.5, 1.0, 0.4, 0.6]))  # the second pixel is at its bound
    assert torch.equal(threat.step(z, torch.zeros_like(z), 0.2), z)


@pytest.mark.parametrize(
    "attack",
    [
        APGD(threat=WITHIN, radii=(3, 2, 1)),
        APGD(threat=WITHIN, loss="targeted_dlr", radii=(3, 2, 1)),
        FAB(threat=WITHIN),
        FAB(threat=WITHIN, targeted=True),
    ],
    ids=lambda attack: attack.name,
)
def test_on_a_linear_network_the_verdict_is_the_closed_forms_within_one_percent(attack: APGD | FAB) -> None:
    network, x = two_classes(), images(4)
    y = network(x).argmax(1)
    exact = nearest_sizes(network, x, y)
    for factor, stands in ((1.01, False), (0.999, True)):
        for image, label, size in zip(x.split(1), y.split(1), exact.tolist(), strict=True):
            within = replace(attack, threat=L1(epsilon=size * factor))
            reached = network(within(network, image, label)).argmax(1) != label
            assert bool(reached) != stands, (size, factor)


def test_the_move_onto_a_plane_is_the_linear_programs_optimum() -> None:
    network, x = two_classes(), images(8, seed=3)
    y = network(x).argmax(1)
    weight, bias = network[1].weight, network[1].bias  # type: ignore[index, union-attr]
    normal = (weight[1] - weight[0]).expand(8, -1)
    move = onto_plane(x.flatten(1), normal, (bias[0] - bias[1]).expand(8), L1())
    torch.testing.assert_close(move.abs().sum(1), nearest_sizes(network, x, y), rtol=1e-6, atol=1e-8)
    moved = x.flatten(1) + move
    assert bool((moved >= -1e-12).all()) and bool((moved <= 1 + 1e-12).all())
    unreachable = onto_plane(x.flatten(1), normal, torch.full((8,), 1e6).double(), L1())
    corner = (normal > 0).double()
    torch.testing.assert_close(x.flatten(1) + unreachable, corner)


@pytest.mark.parametrize(
    "attack",
    [
        FGSM(threat=WITHIN),
        PGD(threat=WITHIN, steps=10, step_size=0.5),
        MIM(threat=WITHIN, steps=10, step_size=0.5),
        APGD(threat=WITHIN, steps=20),
        APGD(threat=WITHIN, steps=20, radii=(3, 2, 1), unsuccessful="largest_loss"),
        FAB(threat=WITHIN, steps=10),
        Square(threat=WITHIN, queries=60),
    ],
    ids=lambda attack: attack.name,
)
def test_every_attack_stays_within_the_ball_and_the_box(attack: Attack) -> None:
    network, x = two_classes(), images(6)
    y = network(x).argmax(1)
    x_adv = attack(network, x, y)
    assert bool((L1().norm(x_adv - x) <= EPSILON * (1 + 1e-9)).all())
    assert bool((x_adv >= 0).all()) and bool((x_adv <= 1).all())


def test_square_finds_what_a_black_box_can_on_a_linear_network() -> None:
    network, x = two_classes(), images(12)
    y = network(x).argmax(1)
    threat = L1(epsilon=float(nearest_sizes(network, x, y).max()) * 8)
    assert float((network(Square(threat=threat, queries=400)(network, x, y)).argmax(1) == y).double().mean()) < 0.5


def test_autoattack_takes_the_published_l1_version() -> None:
    standard = AutoAttack(threat=L1()).components()
    ce, targeted, fab, square = standard
    assert isinstance(ce, APGD) and (ce.restarts, ce.radii) == (5, (3, 2, 1))
    assert isinstance(targeted, APGD) and (targeted.targets, targeted.radii) == (5, (3, 2, 1))
    assert isinstance(fab, FAB) and (fab.targeted, fab.targets) == (True, 9)
    assert isinstance(square, Square) and square.queries == 5000
    assert all(part.threat == L1() for part in standard)
    assert AutoAttack(threat=Linf()).components()[0] == APGD()


def test_old_digests_of_apgd_stay() -> None:
    assert "radii" not in to_json(APGD())
    assert from_json(APGD, to_json(APGD(threat=L1(), radii=(2, 1)))) == APGD(threat=L1(), radii=(2, 1))  # type: ignore[type-abstract]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threat": Linf(), "radii": (3, 2, 1)}, "is for L1 only, not for Linf"),
        ({"threat": L2(), "radii": (2, 1)}, "is for L1 only, not for L2"),
        ({"threat": L1(), "radii": (3, 2)}, "must end at 1"),
        ({"threat": L1(), "radii": ()}, "must end at 1"),
        ({"threat": L1(), "radii": (3, 2, 1), "steps": 2}, "at most as many as the 2 steps"),
    ],
)
def test_radii_that_mean_nothing_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        APGD(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("density", [0, -0.1, 1.5])
def test_a_density_is_a_share(density: float) -> None:
    with pytest.raises(SettingsError, match="density"):
        L1(density=density)
