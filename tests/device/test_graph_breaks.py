"""What is compiled on GPUs is one graph: a break fails with its line. Traced on the CPU, by a compiler that changes
nothing.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported, UserError

from poise.attacks.ascent import moved_by
from poise.core.settings import registered
from poise.learners.compiled import asked
from poise.models import (
    VGG16,
    Collaboration,
    DigitsCNN,
    DualHead,
    Ensemble,
    Mixture,
    Network,
    PreActResNet18,
    ResNet18,
    ResNet20,
    SlimCNN,
    SmallCNN,
    Timm,
    WideResNet,
)
from poise.threats import L1, L2, Linf, Threat

pytestmark = pytest.mark.filterwarnings("ignore")  # of the compiler's own
CNN = DigitsCNN(width=2)
NETWORKS: list[tuple[Network, tuple[int, int, int]]] = [
    (CNN, (3, 8, 8)),
    (SlimCNN(), (1, 28, 28)),
    (SmallCNN(), (1, 28, 28)),
    (ResNet20(width=2), (3, 8, 8)),
    (ResNet18(width=2), (3, 8, 8)),
    (PreActResNet18(width=2), (3, 8, 8)),
    (WideResNet(depth=10, width=1), (3, 8, 8)),
    (VGG16(), (3, 32, 32)),
    (DualHead(backbone=CNN), (3, 8, 8)),
    (Ensemble(member=CNN, members=2), (3, 8, 8)),
    (Collaboration(member=CNN, members=2), (3, 8, 8)),
    (Mixture(member=CNN, gate=CNN, members=2), (3, 8, 8)),
]


def one_graph(call: Any) -> Any:
    torch._dynamo.reset()
    return torch.compile(call, fullgraph=True, dynamic=False, backend="eager")


def test_every_network_is_asked_but_those_of_another_library() -> None:
    ours = {network for network in registered(Network).values() if network.__module__.startswith("poise.models.")}
    assert {type(network) for network, _ in NETWORKS} | {Timm} == ours


@pytest.mark.parametrize(("network", "shape"), NETWORKS, ids=[type(network).__name__ for network, _ in NETWORKS])
def test_what_a_learner_compiles_of_a_network_is_one_graph(network: Network, shape: tuple[int, int, int]) -> None:
    model = network.build(shape, 10, seed=0).eval()
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    for place, _, method in asked(model)[:2]:  # members are alike
        call = getattr(place, method)
        found, plain = one_graph(call)(x), call(x)
        pairs = zip(*(value if isinstance(value, tuple) else (value,) for value in (found, plain)), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("threat", [Linf(), L2(), L2(box_first=True), L1()], ids=["Linf", "L2", "box first", "L1"])
def test_a_projected_step_is_one_graph(threat: Threat) -> None:
    x, gradient = torch.rand(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    step = one_graph(lambda *images: moved_by(threat, 0.1, *images))
    assert torch.equal(step(x, gradient, x), moved_by(threat, 0.1, x, gradient, x))


def test_a_break_is_found_with_its_line() -> None:
    class Looking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises((Unsupported, UserError), match=r"test_graph_breaks.py\", line \d+, in forward"):
        one_graph(Looking().forward)(torch.ones(2))
