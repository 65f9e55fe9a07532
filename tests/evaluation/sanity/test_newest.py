"""The newest tricks are caught by the check made for each: layers that are flat by construction, and safe sinks."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.data import Digits
from poise.evaluation.sanity import Effort, Finding, inspect
from poise.evaluation.sanity.flat_checks import Straight
from poise.evaluation.sanity.sink_checks import merged
from poise.models import DigitsCNN
from poise.threats import Linf

THREAT = Linf(epsilon=0.12)
SMALL = Effort(steps=8, autoattack_steps=15)


class MeanSparse(nn.Module):
    """z, or its channel's mean where it is less than `width` standard deviations away."""

    def __init__(self, seen: Tensor, width: float, form: str = "where") -> None:
        super().__init__()
        axes = [axis for axis in range(seen.dim()) if axis != 1]
        self.mean, self.least = seen.mean(axes, keepdim=True), width * seen.std(axes, keepdim=True)
        self.form = form

    def forward(self, z: Tensor) -> Tensor:
        off = z - self.mean
        near = off.abs() < self.least
        if self.form == "where":
            return torch.where(near, self.mean, z)
        if self.form == "mask":
            return self.mean + off * (~near).to(z.dtype)
        if self.form == "fill":
            return self.mean + off.masked_fill(near, 0)
        if self.form == "set":
            off = off.clone()
            off[near] = 0
            return self.mean + off
        return Flattened.apply(z, self.mean, near)  # type: ignore[return-value]


class Flattened(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, mean, near):
        ctx.save_for_backward(near)
        return torch.where(near, mean, z)

    @staticmethod
    def backward(ctx, *towards):
        (near,) = ctx.saved_tensors
        return torch.where(near, 0, towards[0]), None, None


def judged(network: nn.Module, check: str, **how: object) -> Finding:
    test = Digits().load().test.first(96)
    found = inspect(network, test.pixels(), test.labels, THREAT, effort=SMALL, checks=[check], **how)  # type: ignore[arg-type]
    return found[check]


@pytest.fixture(scope="module")
def sparse() -> Callable[[str], nn.Module]:
    """A network trained behind a layer that puts the mean in the place of most pixels."""
    data = Digits().load().train
    x, y = data.pixels(), data.labels
    layer = MeanSparse(x, 0.75)
    network = DigitsCNN(width=8).build((1, 8, 8), 10, 0)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for epoch in range(4):
        for rows in torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(network(layer(x[rows])), y[rows]).backward()
            optimizer.step()
    return lambda form: nn.Sequential(MeanSparse(x, 0.75, form), copy.deepcopy(network)).eval()


@pytest.mark.parametrize("form", ["where", "mask", "fill", "set", "function"])
def test_a_layer_that_is_flat_near_its_mean_is_caught(sparse: Callable[[str], nn.Module], form: str) -> None:
    found = judged(sparse(form), "flat_operations")
    assert found.judgement == "flaw"
    named = {"where": "where", "mask": "mul", "fill": "masked_fill", "set": "setitem", "function": "MeanSparse"}
    assert named[form] in found.numbers["replaced"]
    assert "with the identity in the backward pass of" in found.seen


@pytest.mark.parametrize("form", ["where", "mask", "fill", "set", "function"])
def test_the_forward_pass_stays_and_flat_places_alone_get_the_identity(form: str) -> None:
    z = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    layer = MeanSparse(z, 0.8, form)
    weights = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(1)).double()
    leaf = z.clone().requires_grad_(True)
    straight = Straight(nn.Sequential(layer, nn.ReLU()))
    out = straight(leaf)
    assert torch.equal(out, layer(z).relu())
    (out * weights).sum().backward()
    passed = weights * (layer(z) > 0)  # the ReLU's own derivative stays
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, passed, rtol=0, atol=1e-12)


def test_what_is_flat_nowhere_and_relus_are_left_as_they_are() -> None:
    z = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    parts: list[Callable[[Tensor], Tensor]] = [
        lambda z: z.relu(),
        lambda z: torch.where(z > 0, z, torch.zeros_like(z)),
        lambda z: z * (z > 0),
        lambda z: z * torch.full_like(z.detach(), 0.5),
        lambda z: z * z.sigmoid(),
        lambda z: z.clamp(-100, 100),
    ]
    for part in parts:

        class Part(nn.Module):
            def forward(self, x: Tensor, part: Callable[[Tensor], Tensor] = part) -> Tensor:
                return part(x)

        straight = Straight(Part())
        (own,) = torch.autograd.grad(part(z).sum(), z)
        (passed,) = torch.autograd.grad(straight(z).sum(), z)
        assert torch.equal(own, passed)
        assert not straight.replaced


def doubled(mapped: bool) -> nn.Module:
    """Twenty outputs: y for an image, y + 10 for what an attack makes of it; `mapped` hides them by a hard choice."""
    data = Digits().load().train
    x, y = data.pixels(), data.labels
    network = DigitsCNN(width=8).build((1, 8, 8), 20, 0)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for epoch in range(6):
        for rows in torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).split(64):
            z = x[rows].clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(F.cross_entropy(network(z), y[rows]), z)
            z_adv = (x[rows] + THREAT.epsilon * slope.sign()).clamp(0, 1)
            optimizer.zero_grad()
            loss = F.cross_entropy(network(x[rows]), y[rows]) + F.cross_entropy(network(z_adv), y[rows] + 10)
            loss.backward()
            optimizer.step()
    return (Mapped(network) if mapped else network).eval()


class Mapped(nn.Module):
    """Ten logits: those of whichever half has the largest one, which no gradient goes through."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.network(x)
        second = outputs.argmax(1, keepdim=True) >= 10
        return torch.where(second, outputs[:, 10:], outputs[:, :10])


@pytest.mark.parametrize("mapped", [False, True], ids=["twenty outputs", "label map outside the graph"])
def test_a_sink_beside_each_class_is_caught(mapped: bool) -> None:
    found = judged(doubled(mapped), "safe_sink", classes=10)
    assert found.judgement == "flaw", found
    assert found.numbers["natural"] > 0.8
    assert found.numbers["aimed"] < found.numbers["PGD"] - 0.08
    assert ("outputs of network" in found.numbers["outputs"]) == mapped


def test_outputs_are_merged_by_the_largest_and_refusals_are_left_out() -> None:
    outputs = torch.tensor([[1.0, 5.0, 4.0, 2.0], [0.0, -1.0, -3.0, 7.0]])
    assert merged(outputs, 2).tolist() == [[4, 5], [0, 7]]
    assert merged(outputs, 3).tolist() == [[1, 5, 4], [0, -1, -3]]
    assert torch.equal(merged(outputs, 4), outputs)


def test_a_network_with_outputs_to_spare_is_honest_where_attacks_are_not_misled() -> None:
    network = DigitsCNN(width=8).build((1, 8, 8), 20, 0)
    data = Digits().load().train
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for rows in torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).split(64):
        optimizer.zero_grad()
        F.cross_entropy(network(data.pixels()[rows]), data.labels[rows]).backward()
        optimizer.step()
    assert judged(network.eval(), "safe_sink", classes=10).judgement == "pass"
    assert judged(network.eval(), "safe_sink").judgement == "not applicable"
