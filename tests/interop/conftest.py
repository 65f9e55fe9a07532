"""A linear network on tiny images and a batch that it classifies rightly but for one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def net() -> nn.Module:
    layer = nn.Linear(48, 10)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(0)))
        layer.bias.copy_(-layer.weight.sum(1) / 2)
    return nn.Sequential(nn.Flatten(), layer).eval()


@pytest.fixture
def batch(net: nn.Module) -> tuple[Tensor, Tensor]:
    x = torch.rand(20, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = net(x).argmax(1)
    y[3] = (y[3] + 1) % 10
    return x, y
