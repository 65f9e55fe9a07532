"""FAB against the published vectors, against the exact minimal perturbation of linear networks, and its projection by
brute force.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from poise.attacks.autoattack.fab import FAB
from poise.attacks.autoattack.fab_projection import onto_plane
from poise.core.seeds import everyone
from poise.threats import L2, Linf, Threat

Vectors = Callable[[str], dict[str, Tensor]]
THREATS = pytest.mark.parametrize("threat", [Linf(), L2()], ids=["linf", "l2"])


@pytest.fixture
def common(vectors: Vectors) -> dict[str, Tensor]:
    return vectors("common")


@pytest.fixture
def net10(network: nn.Sequential) -> nn.Module:
    """The network of the vectors, ready to be attacked."""
    return network.eval().requires_grad_(False)


def linear(classes: int, seed: int, size: int = 12) -> tuple[nn.Module, Tensor]:
    """A linear network on 1 x size x size images with logits of order one around the grey image, and its weight."""
    layer = nn.Linear(size * size, classes).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(seed)))
        layer.bias.copy_(-layer.weight.sum(1) / 2)
    return nn.Sequential(nn.Flatten(), layer), layer.weight.detach()


def grey(count: int, seed: int, size: int = 12) -> Tensor:
    return 0.4 + 0.2 * torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(seed)).double()


def exact_distances(logits: Tensor, y: Tensor, weight: Tensor, threat: Threat) -> Tensor:
    """min over c of (z_y - z_c) / the dual norm of w_y - w_c [B], the box being far away."""
    gaps = logits.gather(1, y[:, None]) - logits
    normals = (weight[y][:, None] - weight[None]).norm(p=1 if isinstance(threat, Linf) else 2, dim=2)
    return (gaps / normals.clamp(min=1e-12)).scatter(1, y[:, None], torch.inf).amin(1)


@THREATS
def test_projections_are_those_of_the_vectors(vectors: Vectors, threat: Threat) -> None:
    v = vectors("aa_projections")
    move = onto_plane(v["points"], v["w"], v["b"], threat)
    torch.testing.assert_close(move, v["delta_linf" if isinstance(threat, Linf) else "delta_l2"], rtol=1e-9, atol=1e-9)


def test_the_linf_projection_is_the_linear_programs_optimum() -> None:
    generator = torch.Generator().manual_seed(0)
    z, w = torch.rand(12, 9, generator=generator).double(), torch.randn(12, 9, generator=generator).double()
    b = (w * torch.rand(12, 9, generator=generator)).sum(1)  # a point of the box lies on each plane
    move = onto_plane(z, w, b, Linf())
    torch.testing.assert_close((w * (z + move)).sum(1), b)
    for i in range(12):
        cost = np.r_[np.zeros(9), 1.0]  # variables: the moved point, and the largest change r
        above, below = np.c_[np.eye(9), -np.ones(9)], np.c_[-np.eye(9), -np.ones(9)]
        best = linprog(
            cost,
            A_ub=np.r_[above, below],
            b_ub=np.r_[z[i].numpy(), -z[i].numpy()],
            A_eq=np.r_[w[i].numpy(), 0.0][None],
            b_eq=[float(b[i])],
            bounds=[(0, 1)] * 9 + [(0, None)],
        )
        assert float(move[i].abs().max()) == pytest.approx(best.fun, abs=1e-8)


@THREATS
def test_a_plane_outside_the_box_sends_the_point_to_the_nearest_corner(threat: Threat) -> None:
    z, w = torch.full((1, 4), 0.25).double(), torch.tensor([[1.0, -2.0, 0.0, 3.0]]).double()
    move = onto_plane(z, w, torch.tensor([100.0]).double(), threat)
    torch.testing.assert_close(z + move, torch.tensor([[1.0, 0.0, 0.25, 1.0]]).double())


@pytest.mark.parametrize("steps", [5, 20])
def test_single_targeted_runs_are_those_of_the_vectors(
    vectors: Vectors, net10: nn.Module, common: dict[str, Tensor], steps: int
) -> None:
    v = vectors("aa_fab")
    attack = FAB(threat=Linf(epsilon=float(v["eps"])), steps=steps, targeted=True, targets=1)
    found = attack.nearest(net10, common["x"], common["y"])
    torch.testing.assert_close(found, v[f"linf_targeted_class2_{steps}.x_adv"], rtol=0, atol=1e-8)


def test_untargeted_and_l2_runs_are_those_of_the_vectors(
    vectors: Vectors, net10: nn.Module, common: dict[str, Tensor]
) -> None:
    v = vectors("aa_fab")
    found = FAB(threat=Linf(epsilon=float(v["eps"])), steps=20).nearest(net10, common["x"], common["y"])
    torch.testing.assert_close(found, v["linf_untargeted_20.x_adv"], rtol=0, atol=1e-8)
    found = FAB(threat=L2(), steps=20, targeted=True, targets=1).nearest(net10, common["x"], common["y"])
    torch.testing.assert_close(found, v["l2_targeted_class2_20.x_adv"], rtol=0, atol=1e-8)


@pytest.mark.parametrize("steps", [5, 20, 100])
def test_the_attack_towards_nine_classes_is_that_of_the_vectors(
    vectors: Vectors, net10: nn.Module, common: dict[str, Tensor], steps: int
) -> None:
    v = vectors("aa_fab")
    x_adv = FAB(threat=Linf(epsilon=float(v["eps"])), steps=steps, targeted=True)(net10, common["x"], common["y"])
    torch.testing.assert_close(x_adv, v[f"linf_t_{steps}.x_adv"], rtol=0, atol=1e-8)
    assert torch.equal(net10(x_adv).argmax(1) == common["y"], v[f"linf_t_{steps}.robust"])


@THREATS
@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_on_a_linear_network_it_is_within_one_percent_of_the_smallest_perturbation(
    threat: Threat, targeted: bool, classes: int
) -> None:
    net, weight = linear(classes, seed=classes)
    x = grey(20, seed=1)
    y = net(x).argmax(1)
    exact = exact_distances(net(x).detach(), y, weight, threat)
    found = FAB(threat=threat, targeted=targeted, steps=30).nearest(net, x, y)
    assert (net(found).argmax(1) != y).all()
    ratio = threat.norm(found - x) / exact
    assert ratio.min() > 1 - 1e-9
    assert ratio.max() < 1.01


@THREATS
def test_it_fools_exactly_the_examples_within_epsilon_and_returns_the_others_unchanged(threat: Linf | L2) -> None:
    net, weight = linear(5, seed=8)
    x = grey(40, seed=2)
    y = net(x).argmax(1)
    exact = exact_distances(net(x).detach(), y, weight, threat)
    threat = replace(threat, epsilon=float(exact.median()))
    x_adv = FAB(threat=threat, targeted=True, steps=30)(net, x, y)
    fooled = net(x_adv).argmax(1) != y
    clear = (exact / threat.epsilon - 1).abs() > 0.01
    assert torch.equal(fooled[clear], exact[clear] < threat.epsilon)
    assert torch.equal(x_adv[~fooled], x[~fooled])
    assert (threat.norm(x_adv - x) <= threat.epsilon).all()
    assert ((x_adv >= 0) & (x_adv <= 1)).all()


def test_restarts_only_help_and_results_do_not_depend_on_batch_mates(
    net10: nn.Module, common: dict[str, Tensor]
) -> None:
    x, y, threat = common["x"], common["y"], Linf(epsilon=4 / 255)
    once = FAB(threat=threat, steps=5).nearest(net10, x, y)
    attack, order, closer = FAB(threat=threat, steps=5, restarts=3), torch.arange(len(y)).flip(0), 0
    for seed in range(4):  # one draw alone need not bring any image closer
        draw = everyone(seed, "test", count=len(y))
        thrice = attack.nearest(net10, x, y, draw=draw)
        assert (threat.norm(thrice - x) <= threat.norm(once - x)).all()
        assert torch.equal(attack.nearest(net10, x[order], y[order], draw=draw[order]), thrice[order])
        closer += not torch.equal(thrice, once)
    assert closer


@THREATS
def test_rows_without_a_gradient_do_not_hold_up_the_projection_of_the_others(
    threat: Threat, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    z, w = torch.rand(6, 400, generator=generator).double(), torch.randn(6, 400, generator=generator).double()
    b = (w * torch.rand(6, 400, generator=generator)).sum(1)
    alone = onto_plane(z[:3], w[:3], b[:3], threat)
    w[3], b[3] = 0, 0  # on its plane already: 0 / 0
    w[4], b[4] = 0, 1
    w[5] = torch.nan
    rounds: list[bool] = []
    equal = torch.equal
    monkeypatch.setattr(
        "poise.attacks.autoattack.fab_projection.torch.equal", lambda a, b: rounds.append(equal(a, b)) or rounds[-1]
    )
    move = onto_plane(z, w, b, threat)
    assert len(rounds) < 15, "not one round for each of 400 pixels"
    assert torch.equal(move[:3], alone)
    assert not move[3:5].any()
