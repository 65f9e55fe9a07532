"""AWP and RWP against the numeric vectors: several steps of a learner, in float64 to 1e-9."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poise.core.batches import Batch, Now
from poise.learners import AWP, RWP, SGD, Learner, Policy
from poise.learners.perturbations import WeightPerturbation, perturbed
from poise.objectives import AT, TRADES
from poise.objectives.at import Adversarial

Vectors = dict[str, Tensor]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


class FixedAT(AT):
    """AT whose adversarial examples are the images it is given."""

    def craft(self, model: nn.Module, batch: Batch, now: Now) -> Adversarial:
        return Adversarial(batch.y, batch.x, batch.x)


def awp_trades(x_adv: Tensor, beta: float) -> TRADES:
    """TRADES on given examples, in the order of forwards of the released TRADES-AWP."""

    class Fixed(TRADES):
        def craft(self, model: nn.Module, batch: Batch, now: Now) -> Adversarial:
            return Adversarial(batch.y, batch.x, x_adv)

    return Fixed(beta=beta, outer_order="adversarial_first")


def run(objective: Any, perturbation: WeightPerturbation, network: nn.Module, batch: Batch, arrays: Vectors, steps: int) -> None:
    """Take the steps; compare loss, perturbation, weights and buffers after each."""
    optimizer = SGD(learning_rate=float(arrays["lr"]), momentum=float(arrays["momentum"]), weight_decay=float(arrays["weight_decay"]))
    learner = Learner("net", Policy(optimizer=optimizer, perturbation=perturbation), network)
    names = [name for name, parameter in network.named_parameters() if any(parameter is other for other in perturbed(network))]
    kind = "scaled_diff" if isinstance(perturbation, RWP) else "diff"
    for step in range(steps):
        moves: list[Tensor] = []
        move = type(perturbation).move

        def noted(self: Any, weights: Any, uphill: Any, move: Any = move, moves: list[Tensor] = moves) -> list[Tensor]:
            moves.extend(move(self, weights, uphill))
            return moves

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(perturbation), "move", noted)
            metrics = learner.descend(objective, batch, Now(epoch=1, step=step, epochs=1, steps_per_epoch=steps, seed=0))
        for name, moved in zip(names, moves, strict=True):
            close(moved, perturbation.gamma * arrays[f"step{step}.{kind}.{name}"])
        losses = [value for name, value in metrics.items() if name.startswith("loss/")]
        close(torch.stack(losses).sum(), arrays[f"step{step}.loss"])
        for name, tensor in network.state_dict().items():
            close(tensor, arrays[f"step{step}.after.{name}"])


def test_at_awp(vectors: Callable[[str], Vectors], network: nn.Module) -> None:
    common, arrays = vectors("common"), vectors("step_at_awp")
    run(FixedAT(), AWP(gamma=float(arrays["gamma"])), network, Batch.of(arrays["x_adv"], common["y"]), arrays, steps=3)


def test_trades_awp(vectors: Callable[[str], Vectors], network: nn.Module) -> None:
    common, arrays = vectors("common"), vectors("step_trades_awp")
    objective = awp_trades(arrays["x_adv"], float(arrays["beta"]))
    run(objective, AWP(gamma=float(arrays["gamma"])), network, Batch.of(common["x"], common["y"]), arrays, steps=3)


def test_at_rwp(vectors: Callable[[str], Vectors], network: nn.Module) -> None:
    common, arrays = vectors("common"), vectors("step_at_rwp")
    perturbation = RWP(
        gamma=float(arrays["gamma"]),
        steps=int(arrays["inner_steps"]),
        step_size=float(arrays["proxy_lr"]),
        largest_loss=float(arrays["c_min"]),
    )
    run(FixedAT(), perturbation, network, Batch.of(arrays["x_adv"], common["y"]), arrays, steps=2)
