"""Attacks search on the folded copy; what they find is what they would find on the network, and verdicts are the
network's.
"""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from poise.attacks import CW, FGSM, MIM, PGD, Attack
from poise.data import Split
from poise.evaluation.predictions import attacked
from poise.models import ResNet20, surrogate

ATTACKS: list[Attack] = [
    FGSM(),
    PGD(steps=5),
    PGD(steps=3, keep="largest_margin", restarts=2),
    MIM(steps=5),
    CW(steps=5),
]


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    """A ResNet whose statistics are not those of initialisation."""
    made = ResNet20(width=4).build((3, 8, 8), 5, seed=0).to(dtype)
    made(torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype))
    return made.eval()


def images(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(2)).to(dtype), torch.arange(6) % 5


def on_the_network_itself(
    monkeypatch: pytest.MonkeyPatch, attack: Attack, net: nn.Module, x: Tensor, y: Tensor
) -> Tensor:
    with monkeypatch.context() as patched:
        patched.setattr("poise.attacks.pgd.surrogate", lambda model: model)
        return attack(net, x, y)


@pytest.mark.parametrize(
    "attack", ATTACKS, ids=lambda attack: type(attack).__name__ + str(getattr(attack, "restarts", ""))
)
def test_in_float64_the_found_images_are_the_same(monkeypatch, attack):
    net, (x, y) = network(), images()
    assert surrogate(net) is not net
    plain = on_the_network_itself(monkeypatch, attack, net, x, y)
    torch.testing.assert_close(attack(net, x, y), plain, atol=1e-12, rtol=0)


def test_in_float32_losses_at_the_found_images_agree_to_1e_4(monkeypatch):
    net, (x, y) = network(torch.float32), images(torch.float32)
    found = [PGD(steps=10)(net, x, y), on_the_network_itself(monkeypatch, PGD(steps=10), net, x, y)]
    losses = [nn.functional.cross_entropy(net(x_adv), y) for x_adv in found]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=0)
    assert float((found[0] == found[1]).float().mean()) > 0.99
    assert found[0].is_contiguous()


def test_verdicts_are_the_networks_own(monkeypatch):
    """A surrogate that is always wrong moves the images, and changes no verdict on them."""
    net, (x, y) = network(torch.float32), images(torch.float32)
    wrong = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5))
    monkeypatch.setattr("poise.attacks.pgd.surrogate", lambda model: wrong)
    split = Split.of((x * 255).to(torch.uint8), y)
    ((x_adv, predicted),) = attacked(net, split, PGD(steps=3, restarts=2))
    assert torch.equal(predicted, net(x_adv).argmax(1))


@pytest.mark.parametrize(
    "attack", ATTACKS, ids=lambda attack: type(attack).__name__ + str(getattr(attack, "restarts", ""))
)
def test_a_narrow_search_is_in_bfloat16_and_its_verdicts_are_the_networks_own(attack):
    net, (x, y) = network(torch.float32), images(torch.float32)
    asked: set[tuple[bool, torch.dtype]] = set()
    hook = net.register_forward_hook(lambda *given: asked.add((torch.is_autocast_enabled("cpu"), given[2].dtype)))
    split = Split.of((x * 255).to(torch.uint8), y)
    ((x_adv, predicted),) = attacked(net, split, attack, narrow=True)
    hook.remove()
    assert asked == {(True, torch.bfloat16), (False, torch.float32)} and x_adv.dtype is torch.float32
    assert torch.equal(predicted, net(x_adv).argmax(1))
    ((plain, _),) = attacked(net, split, attack)
    assert not torch.equal(plain, x_adv) or type(attack) is FGSM
    assert float((x_adv - split.pixels()).abs().max()) <= attack.threat.epsilon + 1e-6


def test_the_copy_is_kept_follows_the_weights_and_goes_with_the_network():
    net, (x, _) = network(), images()
    first = surrogate(net)
    assert surrogate(net) is first
    with torch.no_grad():
        for tensor in [*net.parameters(), *net.buffers()]:
            tensor.mul_(2)
    torch.testing.assert_close(surrogate(net)(x), net(x), atol=1e-9, rtol=1e-9)
    gone = weakref.ref(first)
    del net, first
    gc.collect()
    assert gone() is None


def shifted(module: nn.Module, given: tuple[Tensor, ...], found: Tensor) -> Tensor:
    return found + 1


def test_a_hook_that_came_later_is_asked_too_and_a_network_in_training_mode_is_its_own():
    net, (x, _) = network(), images()
    surrogate(net)
    net.get_submodule("bn1").register_forward_hook(shifted)
    torch.testing.assert_close(surrogate(net)(x), net(x), atol=1e-9, rtol=1e-9)
    net.train()
    assert surrogate(net) is net


def tripled(module: nn.Module, given: tuple[Tensor, ...], found: Tensor) -> Tensor:
    return found * 3


def test_a_hook_that_took_another_ones_place_is_asked_in_the_copy_too():
    net, (x, _) = network(), images()
    first = net.register_forward_hook(shifted)
    torch.testing.assert_close(surrogate(net)(x), net(x), atol=1e-9, rtol=1e-9)
    first.remove()
    net.register_forward_hook(tripled)
    torch.testing.assert_close(surrogate(net)(x), net(x), atol=1e-9, rtol=1e-9)


class TwoNames(nn.Module):
    """Keeps a handle on a layer of its sequence, as one does for saliency maps, or reads the weights of one."""

    def __init__(self, handle: int | None) -> None:
        super().__init__()
        self.handle: nn.Module = nn.Identity()
        layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 5)]
        if handle is not None:
            self.handle = layers[handle]
        self.features, self.reads = nn.Sequential(*layers), handle is None

    def forward(self, x: Tensor) -> Tensor:
        first = next(self.features.children())
        return self.features(x) + (first.weight.sum() if self.reads else 0.0)  # type: ignore[operator]


@pytest.mark.parametrize("handle", [0, 1, None])
def test_layers_with_two_names_or_whose_weights_are_read_are_not_folded(handle: int | None):
    net, (x, _) = TwoNames(handle).double(), images()
    with torch.no_grad():
        net(torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double() * 3)
    torch.testing.assert_close(surrogate(net.eval())(x), net(x), atol=1e-9, rtol=1e-9)


def test_a_network_that_was_moved_or_cast_has_another_copy():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    assert surrogate(net) is not net
    net.double()
    torch.testing.assert_close(surrogate(net)(images()[0]), net(images()[0]), atol=1e-9, rtol=1e-9)


class Switched(nn.Module):
    """A defence that is an ordinary attribute of the module."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.inside = network()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        factor = self.value[0] if isinstance(self.value, list) else self.value
        return self.inside(x) * (factor if isinstance(factor, float | Tensor) else 1.0)


@pytest.mark.parametrize("one, other", [(1.0, 2.0), ([1.0], [2.0]), (None, 3.0)])
def test_an_attribute_that_was_changed_is_changed_in_the_copy_too(one: object, other: object):
    net, (x, _) = Switched(one).eval(), images()
    kept = surrogate(net)
    assert kept is not net and surrogate(net) is kept
    net.value = other
    torch.testing.assert_close(surrogate(net)(x), net(x), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    "holder",
    [SimpleNamespace(of=SimpleNamespace(factor=1.0)), {"of": np.ones(1)}, [{1.0}]],
    ids=lambda holder: type(holder).__name__,
)
def test_an_object_that_was_changed_in_place_is_changed_in_the_copy_too(holder: Any):
    """Read by a function of the network's own, however deep it lies."""

    class Reading(Switched):
        def forward(self, x: Tensor) -> Tensor:
            kept = self.value
            if isinstance(kept, SimpleNamespace):
                return self.inside(x) * kept.of.factor
            return self.inside(x) * (float(kept["of"][0]) if isinstance(kept, dict) else sum(kept[0]))

    net, (x, _) = Reading(holder).eval(), images()
    surrogate(net)
    if isinstance(holder, SimpleNamespace):
        holder.of.factor = 2.0
    elif isinstance(holder, dict):
        holder["of"][0] = 2.0
    else:
        holder[0].add(2.0)
    torch.testing.assert_close(surrogate(net)(x), net(x), atol=1e-9, rtol=1e-9)


def test_a_tensor_attribute_that_was_changed_in_place_is_changed_in_the_copy_too():
    factor = torch.tensor(1.0, dtype=torch.float64)
    net, (x, _) = Switched(factor).eval(), images()
    surrogate(net)
    factor.mul_(3)
    torch.testing.assert_close(surrogate(net)(x), net(x), atol=1e-9, rtol=1e-9)


def test_there_is_a_copy_for_each_arithmetic_and_neither_takes_the_others_place():
    net = network(torch.float32)
    plain = surrogate(net)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = surrogate(net)
    assert surrogate(net) is plain and plain is not narrow
    with torch.autocast("cpu", torch.bfloat16):
        assert surrogate(net) is narrow
    assert {module.weight.dtype for module in narrow.modules() if isinstance(module, nn.Conv2d)} == {torch.bfloat16}


def test_a_copy_in_bfloat16_says_what_autocast_says_of_the_plain_copy():
    net, (x, _) = network(torch.float32), images(torch.float32)
    plain = surrogate(net)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(surrogate(net)(x), plain(x))


def test_a_copy_in_bfloat16_serves_a_forward_that_switches_autocast_off_and_one_in_float64():
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = network(torch.float32)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                return self.inside(x.float())

    net, (x, _) = Careful().eval(), images(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(surrogate(net)(x).float(), net(x), atol=0.1, rtol=0.1)
        wide = network()
        torch.testing.assert_close(surrogate(wide)(x.double()), wide(x.double()), atol=1e-9, rtol=1e-9)
