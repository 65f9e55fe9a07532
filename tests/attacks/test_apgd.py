"""APGD against the published vectors, against linear networks with a known answer, and against its own promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poise.attacks.autoattack.apgd import APGD, MomentumSearch, checkpoints
from poise.attacks.autoattack.search import Examples
from poise.core.errors import SettingsError
from poise.core.seeds import everyone
from poise.losses import cross_entropy, dlr, margin, targeted_dlr
from poise.threats import L2, Linf, Threat

Vectors = Callable[[str], dict[str, Tensor]]


@pytest.fixture
def common(vectors: Vectors) -> dict[str, Tensor]:
    return vectors("common")


@pytest.fixture
def net10(network: nn.Sequential) -> nn.Module:
    """The network of the vectors, ready to be attacked."""
    return network.eval().requires_grad_(False)


def linear(classes: int, seed: int, size: int = 12) -> nn.Sequential:
    """A linear network on 1 x size x size images whose logits are of order one around the grey image."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(size * size, classes).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
        layer.bias.copy_(-layer.weight.sum(1) / 2)
    return nn.Sequential(nn.Flatten(), layer)


def grey(count: int, seed: int, size: int = 12) -> Tensor:
    return 0.4 + 0.2 * torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(seed)).double()


def distances(net: Any, x: Tensor, y: Tensor, order: float) -> Tensor:
    """The exact distance of each image to the nearest other class of a linear network, the box being far away."""
    weight = net[1].weight.detach()
    logits = net(x).detach()
    gaps = logits.gather(1, y[:, None]) - logits
    normals = (weight[y][:, None] - weight[None]).norm(p=1 if order == torch.inf else 2, dim=2)
    return (gaps / normals.clamp(min=1e-12)).scatter(1, y[:, None], torch.inf).amin(1)


@pytest.mark.parametrize(
    ("norm", "loss", "steps"),
    [
        ("linf", "ce", 20),
        ("linf", "ce", 100),
        ("linf", "dlr", 20),
        ("linf", "dlr", 100),
        ("l2", "ce", 20),
        ("l2", "dlr", 20),
    ],
)
def test_iterates_losses_and_flags_are_those_of_the_vectors(
    vectors: Vectors, net10: nn.Module, common: dict[str, Tensor], norm: str, loss: str, steps: int
) -> None:
    expected = vectors(f"aa_apgd_{norm}")
    threat: Threat = Linf(epsilon=float(expected["eps"])) if norm == "linf" else L2(epsilon=float(expected["eps_l2"]))
    x, y = common["x"], common["y"]
    search = MomentumSearch(
        APGD(threat=threat, steps=steps, loss="cross_entropy" if loss == "ce" else "dlr"), net10, 10, False
    )
    examples = Examples(x, y, net10(x), everyone(0, "test", count=len(y)))
    state = search.start_from(expected[f"start_{norm}"], examples, torch.zeros_like(y), len(y))
    for _ in range(search.steps):
        state = search.step(state)
    key = f"{norm}_{loss}_{steps}"
    right = expected[f"{key}.loss_best"]
    ill = (right.abs() > 10) & (loss == "dlr")  # over so small a gap of logits that rounding grows with every step
    torch.testing.assert_close(state["best_loss"][~ill], right[~ill], rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(state["best_loss"][ill], right[ill], rtol=1e-2, atol=0)
    assert torch.equal(state["fooled"], ~expected[f"{key}.robust"])
    difference = (state["best"] - expected[f"{key}.x_best"]).flatten(1).abs().amax(1)
    # where the DLR has reached its ceiling of 1, its gradient is rounding error, which L2 steps normalise to full
    # length
    saturated = (right - 1).abs() < 1e-9 if norm == "l2" and loss == "dlr" else torch.zeros_like(y, dtype=torch.bool)
    assert (~saturated & ~ill).any()
    assert difference[~saturated & ~ill].max() < 1e-8
    assert difference[~ill].max() < 1e-3


def test_the_targeted_attack_follows_the_vectors_target_by_target(
    vectors: Vectors, net10: nn.Module, common: dict[str, Tensor]
) -> None:
    expected = vectors("aa_apgd_t")
    x, y = common["x"], common["y"]
    attack = APGD(threat=Linf(epsilon=float(expected["eps"])), steps=int(expected["n_iter"]), loss="targeted_dlr")
    search = MomentumSearch(attack, net10, 10, False)
    assert search.runs == 9
    natural = net10(x)
    assert torch.equal(natural.argmax(1) == y, expected["initially_correct"])
    robust, x_adv = expected["initially_correct"].clone(), x.clone()
    for run in range(9):
        rows = robust.nonzero()[:, 0]
        assert torch.equal(robust, expected["attacked"][run])
        part = Examples(x, y, natural, everyone(0, "test", count=len(y)))[rows]
        noise = expected["start_noise"][run][rows].double()
        state = search.start_from(x[rows] + noise, part, torch.full_like(part.y, run), len(part))
        assert torch.equal(state["target"], expected["y_target"][run][rows])
        for _ in range(search.steps):
            state = search.step(state)
        torch.testing.assert_close(state["best_loss"], expected["loss_best"][run][rows], rtol=1e-8, atol=1e-9)
        assert torch.equal(~state["fooled"], expected["robust_after_run"][run][rows])
        robust[rows] = ~state["fooled"]
        # which of its fooling iterates an example keeps is free: here the first, in the vectors the last
        x_adv[rows[state["fooled"]]] = state["found"][state["fooled"]]
    assert torch.equal(robust, expected["robust"])
    assert torch.equal(x_adv[robust], expected["x_adv"][robust])
    assert (net10(x_adv).argmax(1) == y).eq(robust).all()


def test_the_losses_are_those_of_the_vectors(vectors: Vectors) -> None:
    v = vectors("logit_losses")
    logits = v["logits"].clone().requires_grad_(True)
    for name, values in (
        ("dlr", dlr(logits, v["y"])),
        ("dlr_targeted", targeted_dlr(logits, v["y"], v["y_target"])),
        ("ce", cross_entropy(logits, v["y"])),
    ):
        torch.testing.assert_close(values.detach(), v[name], rtol=1e-9, atol=1e-9)
        (gradient,) = torch.autograd.grad(values.sum(), logits, retain_graph=True)
        torch.testing.assert_close(gradient[4:], v[f"{name}.grad"][4:], rtol=1e-9, atol=1e-9)  # earlier rows have ties
    torch.testing.assert_close(-margin(v["logits"], v["y"]), v["square_margin"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(dlr(v["logits4"], v["y4"]), v["dlr4"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        targeted_dlr(v["logits4"], v["y4"], v["y4_target"]), v["dlr_targeted4"], rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(dlr(v["logits3"], v["y3"]), v["dlr3"], rtol=1e-9, atol=1e-9)


def test_checkpoints_come_after_22_then_19_then_16_steps_and_so_on_of_100() -> None:
    review, _ = checkpoints(100)
    assert [k for k, due in enumerate(review) if due] == [22, 41, 57, 70, 80, 87, 93, 99]
    for steps in (1, 2, 5):
        assert len(checkpoints(steps)[0]) == steps + 1


@pytest.mark.parametrize("threat", [Linf(), L2()], ids=["linf", "l2"])
@pytest.mark.parametrize(
    ("loss", "classes"),
    [("cross_entropy", 2), ("dlr", 2), ("targeted_dlr", 3), ("targeted_dlr", 5), ("targeted_dlr", 10)],
)
def test_on_a_linear_network_it_finds_every_example_within_epsilon_and_none_beyond(
    threat: Linf | L2, loss: Any, classes: int
) -> None:
    net, x = linear(classes, seed=classes), grey(60, seed=1)
    y = net(x).argmax(1)
    order = torch.inf if isinstance(threat, Linf) else 2
    exact = distances(net, x, y, order)
    threat = replace(threat, epsilon=float(exact.median()))
    x_adv = APGD(threat=threat, loss=loss)(net, x, y)
    fooled = net(x_adv).argmax(1) != y
    clear = (exact / threat.epsilon - 1).abs() > 1e-3
    assert torch.equal(fooled[clear], exact[clear] < threat.epsilon)
    assert 10 < int(fooled.sum()) < 50
    assert (threat.norm(x_adv - x) <= threat.epsilon * (1 + 1e-9)).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


def test_an_example_keeps_its_result_whatever_its_batch_mates() -> None:
    net, x = linear(10, seed=3).float(), grey(48, seed=2).float()
    y = net(x).argmax(1)
    attack, draw = APGD(threat=Linf(epsilon=0.02), loss="targeted_dlr", steps=15), everyone(5, "test", count=48)
    whole = attack(net, x, y, draw=draw)
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    assert torch.equal(attack(net, x[order], y[order], draw=draw[order]), whole[order])


def test_a_target_is_reached_and_nothing_else_counts() -> None:
    net, x = linear(6, seed=4), grey(20, seed=3)
    y = net(x).argmax(1)
    target = (y + 2) % 6
    x_adv = APGD(threat=Linf(epsilon=0.2), steps=20)(net, x, y, target=target)
    assert torch.equal(net(x_adv).argmax(1), target)
    unreached = APGD(threat=Linf(epsilon=1e-4), steps=5)(net, x, y, target=target)
    assert torch.equal(unreached, x)


def test_unsuccessful_examples_come_back_natural_or_with_their_largest_loss() -> None:
    net, x = linear(4, seed=5), grey(10, seed=4)
    y = net(x).argmax(1)
    threat = Linf(epsilon=1e-6)
    assert torch.equal(APGD(threat=threat, steps=5)(net, x, y), x)
    pushed = APGD(threat=threat, steps=5, unsuccessful="largest_loss")(net, x, y)
    assert (cross_entropy(net(pushed), y) > cross_entropy(net(x), y)).all()
    assert (threat.norm(pushed - x) <= threat.epsilon * (1 + 1e-9)).all()


def test_misclassified_examples_come_back_unchanged() -> None:
    net, x = linear(4, seed=6), grey(12, seed=5)
    wrong = (net(x).argmax(1) + 1) % 4
    assert torch.equal(APGD(threat=Linf(epsilon=0.1), steps=5)(net, x, wrong), x)


def test_restarts_differ_and_repeat() -> None:
    net, x = linear(4, seed=7), grey(30, seed=6)
    y = net(x).argmax(1)
    found = {}
    for restarts in (1, 3):
        threat = L2(epsilon=float(distances(net, x, y, 2).median()))
        attack = APGD(threat=threat, steps=1, restarts=restarts, unsuccessful="largest_loss")
        found[restarts] = attack(net, x, y)
        assert torch.equal(attack(net, x, y), found[restarts])
    broken = {restarts: net(x_adv).argmax(1) != y for restarts, x_adv in found.items()}
    assert (broken[1] <= broken[3]).all()
    assert torch.equal(found[1][broken[1]], found[3][broken[1]])
    assert not torch.equal(found[1][~broken[3]], found[3][~broken[3]]), "of the last run each"


def test_expectation_over_transformation_averages_the_gradients() -> None:
    calls = []

    class Counting(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            calls.append(len(z))
            return z.flatten(1)[:, :4] * 3

    x = grey(4, seed=7)
    y = Counting()(x).argmax(1)
    calls.clear()
    APGD(threat=Linf(epsilon=1e-4), steps=3, eot_iterations=5)(Counting(), x, y)
    # one natural forward, then five gradients at the start and after each of three steps
    assert calls.count(4) == 1 + 4 * 5


def test_the_gradients_of_all_iterations_move_an_image() -> None:
    """The k-th answer depends on the k-th pixel alone: only the mean of all gradients reaches every pixel."""

    class Turning(nn.Module):
        asked = 0

        def forward(self, z: Tensor) -> Tensor:
            k, self.asked = self.asked % 3, self.asked + 1
            return torch.stack([z.flatten(1)[:, k], 1 - z.flatten(1)[:, k]], 1)

    search = MomentumSearch(APGD(threat=Linf(epsilon=0.1), eot_iterations=3), Turning(), 2, targeted=False)
    z = torch.full((2, 1, 2, 2), 0.7, dtype=torch.float64)
    labels = torch.zeros(2, dtype=torch.long)
    _, gradient, _ = search._evaluate({"z": z, "y": labels, "target": labels})
    # of cross-entropy by each logit's pixel
    slope = -2 * (1 - float(torch.sigmoid(torch.tensor(0.4, dtype=torch.float64)))) / 3
    torch.testing.assert_close(gradient.flatten(1), torch.tensor([[slope, slope, slope, 0]] * 2, dtype=torch.float64))


def test_bad_settings_are_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"APGD\.rho"):
        APGD(rho=1.5)
    with pytest.raises(SettingsError, match=r"APGD\.loss"):
        APGD(loss="hinge")  # type: ignore[arg-type]
