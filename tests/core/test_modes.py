"""Modes restore what they found, and leave statistics alone where they say so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from poise.core.modes import crafting, evaluating, frozen_parameters, frozen_statistics, training


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 36, 3))


X = torch.linspace(0, 1, 5 * 64).view(5, 1, 8, 8)


def statistics(model: nn.Module) -> list[torch.Tensor]:
    return [buffer.clone() for buffer in model.buffers()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(left, right) for left, right in zip(a, b, strict=True))


@pytest.mark.parametrize("mode", [evaluating, frozen_statistics, training])
def test_mixed_modes_are_restored_also_on_error(mode):
    model = net()
    model.train()
    model[1].eval()
    for fail in (False, True):
        try:
            with mode(model):
                if fail:
                    raise RuntimeError
        except RuntimeError:
            pass
        assert [module.training for module in model] == [True, False, True, True]
        assert model[1].track_running_stats is True


def test_frozen_statistics_normalises_by_the_batch_and_touches_nothing():
    model = net()
    with training(model):
        expected = model(X)
    before = statistics(model)
    with frozen_statistics(model):
        torch.testing.assert_close(model(X), expected)
    assert same(before, statistics(model))


def test_training_updates_statistics_and_evaluating_does_not():
    model = net()
    before = statistics(model)
    with evaluating(model):
        model(X)
    assert same(before, statistics(model))
    with training(model):
        model(X)
    assert not same(before, statistics(model))


def test_frozen_parameters_get_no_gradient_and_are_thawed_selectively():
    model = net()
    model[3].bias.requires_grad_(False)
    with frozen_parameters(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())
        x = X.clone().requires_grad_()
        model(x).sum().backward()
        assert x.grad is not None
    assert [parameter.requires_grad for parameter in model.parameters()] == [True] * 5 + [False]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_crafting_combines_both():
    model = net().train()
    with crafting(model, "evaluating"):
        assert not model.training and not model[0].weight.requires_grad
    assert model.training and model[0].weight.requires_grad
