"""AWP and RWP against the numeric vectors: several steps of a learner, in float64 to 1e-9."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poise.core.batches import Batch, Now
from poise.learners import AWP, RWP, SGD, Learner, Policy
from poise.learners.perturbations import Keep, Uphill, WeightPerturbation, perturbed
from poise.objectives import AT, TRADES, Objective
from poise.objectives.at import Adversarial

Vectors = dict[str, Tensor]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


class FixedAT(AT):
    """AT whose adversarial examples are the images it is given."""

    def craft(self, model: nn.Module, batch: Batch, now: Now, teacher: nn.Module | None = None) -> Adversarial:
        return Adversarial(batch.y, batch.x, batch.x)


def awp_trades(x_adv: Tensor, beta: float) -> TRADES:
    """TRADES on given examples, in the order of forwards of the released TRADES-AWP."""

    class Fixed(TRADES):
        def craft(self, model: nn.Module, batch: Batch, now: Now, teacher: nn.Module | None = None) -> Adversarial:
            return Adversarial(batch.y, batch.x, x_adv)

    return Fixed(beta=beta, outer_order="adversarial_first")


@dataclass
class Seen:
    """What happens within one step."""

    moves: list[Tensor] = field(default_factory=list)
    """Of the perturbed parameters, in their order."""
    kept: list[Tensor] = field(default_factory=list)
    """Which examples counted, ascent by ascent."""
    states: list[Vectors] = field(default_factory=list)
    """The network's tensors as every loss met them."""


@contextmanager
def watching(perturbation: WeightPerturbation, objective: Objective[Any]) -> Iterator[Seen]:
    seen, move, loss = Seen(), type(perturbation).move, type(objective).loss

    def moving(self: Any, weights: Any, uphill: Uphill) -> list[Tensor]:
        def noting(keep: Keep | None) -> list[Tensor]:
            def counted(values: Tensor) -> Tensor:
                assert keep is not None
                seen.kept.append(keep(values))
                return seen.kept[-1]

            return uphill(None if keep is None else counted)

        seen.moves = move(self, weights, noting)
        return seen.moves

    def losing(self: Any, model: nn.Module, examples: Any, now: Now) -> Any:
        seen.states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return loss(self, model, examples, now)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(perturbation), "move", moving)
        patch.setattr(type(objective), "loss", losing)
        yield seen


def run(
    objective: Objective[Any], perturbation: AWP | RWP, network: nn.Module, batch: Batch, arrays: Vectors, steps: int
) -> None:
    """Take the steps; compare loss, perturbation, weights and buffers after each, and what the arrays tell of the
    inside of a step.
    """
    optimizer = SGD(
        learning_rate=float(arrays["lr"]),
        momentum=float(arrays["momentum"]),
        weight_decay=float(arrays["weight_decay"]),
    )
    learner = Learner("net", Policy(optimizer=optimizer, perturbation=perturbation), network)
    names = [
        name
        for name, parameter in network.named_parameters()
        if any(parameter is other for other in perturbed(network))
    ]
    kind = "scaled_diff" if isinstance(perturbation, RWP) else "diff"
    for step in range(steps):
        with watching(perturbation, objective) as seen:
            metrics = learner.descend(
                objective, batch, Now(epoch=1, step=step, epochs=1, steps_per_epoch=steps, seed=0)
            )
        for name, moved in zip(names, seen.moves, strict=True):
            close(moved, perturbation.gamma * arrays[f"step{step}.{kind}.{name}"])
        if isinstance(perturbation, RWP):
            assert torch.equal(seen.kept[0], arrays[f"step{step}.initial_losses_below_cmin"])
        elif step == 0:  # the only one that the vectors look into
            descends_where_the_vectors_do(seen.states[-1], dict(network.named_parameters()), arrays)
        losses = [value for name, value in metrics.items() if name.startswith("loss/")]
        close(torch.stack(losses).sum(), arrays[f"step{step}.loss"])
        for name, tensor in network.state_dict().items():
            close(tensor, arrays[f"step{step}.after.{name}"])


def descends_where_the_vectors_do(state: Vectors, parameters: dict[str, nn.Parameter], arrays: Vectors) -> None:
    """The perturbed network, its statistics not yet moved, and the gradient there."""
    for name, tensor in state.items():
        close(tensor, arrays[f"step0.perturbed.{name}"])
    gradients = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
    assert gradients.keys() == parameters.keys()
    for name, gradient in gradients.items():
        close(gradient, arrays[f"step0.grad.{name}"])
    close(torch.cat([gradient.flatten() for gradient in gradients.values()]).norm(), arrays["step0.grad_total_l2norm"])


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
