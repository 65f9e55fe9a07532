"""Square: its published schedule, its shapes, its threat, and that it asks for nothing but logits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from poise.attacks.autoattack.square import Square, bumps, share_changed, square_side
from poise.core.errors import InputError
from poise.core.seeds import everyone
from poise.losses import margin
from poise.threats import L2, Linf, Threat

Vectors = Callable[[str], dict[str, Tensor]]
THREATS = pytest.mark.parametrize("threat", [Linf(epsilon=0.02), L2(epsilon=0.3)], ids=["linf", "l2"])


class Linear(nn.Module):
    """A linear network that can neither be differentiated nor asked in training mode, and counts its queries."""

    def __init__(self, classes: int = 5, shape: tuple[int, int, int] = (3, 12, 12)) -> None:
        super().__init__()
        size = shape[0] * shape[1] * shape[2]
        generator = torch.Generator().manual_seed(classes)
        self.weight = nn.Parameter(torch.randn(size, classes, generator=generator))
        self.queries = 0

    def forward(self, z: Tensor) -> Tensor:
        assert not self.training
        self.queries += 1
        return (z.detach().flatten(1) - 0.5) @ self.weight.detach()


def images(count: int, shape: tuple[int, int, int] = (3, 12, 12)) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))


def test_the_schedule_is_that_of_the_vectors(vectors: Vectors) -> None:
    v = vectors("aa_square_schedule")
    for queries in (1000, 5000):
        shares = [share_changed(query, queries, 0.8) for query in range(queries)]
        assert shares == pytest.approx(v[f"p_queries{queries}"].tolist(), abs=1e-12)
        for height in (8, 32):
            assert [square_side(p, height, height) for p in shares] == v[f"side_h{height}_queries{queries}"].tolist()


def test_the_schedule_is_stretched_to_the_budget_unless_told_otherwise() -> None:
    net, x = Linear().eval(), images(1)
    sides = [Square(queries=1000, rescale=rescale).search(net, 5)._table(32, 32) for rescale in (True, False)]  # type: ignore[attr-defined]
    assert sides[0][-1] < sides[1][-1]
    assert sides[1].tolist() == [square_side(share_changed(query, 10_000, 0.8), 32, 32) for query in range(1000)]
    assert (Square(queries=30, rescale=False)(net, x, net(x).argmax(1)) - x).abs().max() <= 8 / 255 + 1e-6


@pytest.mark.parametrize("side", [1, 2, 3, 5, 6, 11])
def test_bumps_have_norm_one_and_two_signs_that_fall_off_from_their_centres(side: int) -> None:
    both = bumps(side)
    assert both.shape == (side, side)
    assert float(both.norm()) == pytest.approx(1)
    if side >= 3:
        left, right = both[:, : side // 2], both[:, side // 2 :]
        assert (left > 0).all()
        assert (right < 0).all()
        assert int(left.argmax()) // left.shape[1] == side // 2
        assert float(left[0].max()) < float(left.max())


@THREATS
@pytest.mark.parametrize("shape", [(3, 12, 12), (1, 7, 9), (3, 3, 3)])
def test_images_stay_in_the_threat_and_the_box(threat: Threat, shape: tuple[int, int, int]) -> None:
    net, x = Linear(4, shape).eval(), images(20, shape)
    y = net(x).argmax(1)
    x_adv = Square(threat=threat, queries=60)(net, x, y)
    assert (threat.norm(x_adv - x) <= threat.epsilon + 1e-6).all()
    assert ((x_adv >= 0) & (x_adv <= 1)).all()
    fooled = net(x_adv).argmax(1) != y
    assert torch.equal(x_adv[~fooled], x[~fooled])


@THREATS
def test_more_queries_break_more_and_every_image_within_reach_of_one_change_falls(threat: Threat) -> None:
    net, x = Linear().eval(), 0.1 + 0.8 * images(40)
    y = net(x).argmax(1)
    lead = -margin(net(x), y).detach()
    second = net(x).scatter(1, y[:, None], -torch.inf).argmax(1)
    # the first 20 images are put next to the border of their class
    across = (net.weight[:, y] - net.weight[:, second]).detach().T
    shifted = (lead - 1e-3)[:20, None] * across[:20] / across[:20].square().sum(1, keepdim=True)
    x[:20] -= shifted.view_as(x[:20])
    assert torch.equal(net(x).argmax(1), y)
    broken = [net(Square(threat=threat, queries=queries)(net, x, y)).argmax(1) != y for queries in (1, 30, 300)]
    assert (broken[0] <= broken[1]).all()
    assert (broken[1] <= broken[2]).all()
    assert int(broken[0].sum()) < int(broken[2].sum())
    assert broken[2][:20].all() and not broken[2].all()


def test_it_nears_the_best_corner_of_a_linear_network() -> None:
    net, x = Linear(2).eval(), 0.4 + 0.2 * images(1)
    y = net(x).argmax(1)
    reach = (net.weight[:, 0] - net.weight[:, 1]).abs().sum().detach()
    epsilon = float(-margin(net(x), y)[0] / reach) * 1.25  # a quarter more than the least that suffices
    x_adv = Square(threat=Linf(epsilon=epsilon), queries=3000)(net, x, y)
    assert int(net(x_adv).argmax(1)) != int(y)


def test_the_budget_is_the_number_of_queries() -> None:
    net, x = Linear().eval(), images(3)
    y = net(x).argmax(1)
    net.queries = 0
    Square(threat=Linf(epsilon=1e-6), queries=25, restarts=2)(net, x, y)
    assert net.queries == 1 + 1 + 1 + 2 * 25  # checking the network, counting its work, natural images, two runs


def test_an_example_keeps_its_result_whatever_its_batch_mates() -> None:
    net, x = Linear().eval(), images(50)
    y = net(x).argmax(1)
    attack, draw = Square(threat=Linf(epsilon=0.01), queries=40), everyone(3, "test", count=50)
    whole = attack(net, x, y, draw=draw)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(attack(net, x[order], y[order], draw=draw[order]), whole[order])
    other = attack(net, x, y, draw=everyone(4, "test", count=50))
    assert not torch.equal(other, whole)


def test_a_target_is_reached() -> None:
    net, x = Linear().eval(), images(6)
    target = (net(x).argmax(1) + 1) % 5
    x_adv = Square(threat=Linf(epsilon=0.5), queries=400)(net, x, net(x).argmax(1), target=target)
    assert torch.equal(net(x_adv).argmax(1), target)


def test_flat_inputs_are_refused() -> None:
    net, x = nn.Flatten(), torch.eye(3)
    with pytest.raises(InputError, match="Square needs images"):
        Square()(net, x, torch.arange(3))


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 9, 14)])
def test_windows_looked_up_pixel_by_pixel_find_what_whole_images_find(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x = Linear(shape=shape).double().eval(), images(6, shape).double()
    x = x.to(memory_format=torch.channels_last)
    y, attack = net(x).argmax(1), Square(threat=Linf(epsilon=0.02), queries=400, p_init=0.3)
    by_pixel = attack(net, x, y, draw=everyone(0, "test", count=6))
    monkeypatch.setattr("poise.attacks.autoattack.square._SMALL", 0)
    assert torch.equal(by_pixel, attack(net, x, y, draw=everyone(0, "test", count=6)))
    monkeypatch.setattr("poise.attacks.autoattack.square._SMALL", 1)
    assert torch.equal(by_pixel, attack(net, x, y, draw=everyone(0, "test", count=6)))
    assert int((net(by_pixel).argmax(1) != y).sum()) > 0
