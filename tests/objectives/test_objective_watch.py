"""What is measured beside the loss: the cross-entropies of Squeeze Training's Figs 5 and 8."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poise.attacks import Ascent
from poise.core.batches import Batch, Now
from poise.core.modes import crafting
from poise.learners import AWP, RWP, Learner, Policy
from poise.losses import cross_entropy
from poise.objectives import TRADES, Objective
from poise.objectives.watch import moments, watched
from poise.threats import Linf

UNIFORM = Ascent(threat=Linf(epsilon=0.1), step_size=0.03, steps=4)
GAUSSIAN = replace(UNIFORM, start="gaussian")


def moment(epoch: int = 1, epochs: int = 200) -> Now:
    return Now(epoch=epoch, step=epoch - 1, epochs=epochs, steps_per_epoch=1, seed=5)


def shown(objective: Objective, model: nn.Module, batch: Batch, now: Now) -> Any:
    with crafting(model, objective.craft_mode):
        return objective.exchange([objective.craft(model, batch, now)], now)[0]


def test_moments_are_the_share_mean_and_deviation_of_what_counted() -> None:
    values, where = torch.tensor([1.0, 2.0, 4.0, 9.0]), torch.tensor([True, True, False, True])
    terms = watched("loss", values, where) | watched("nothing", values, where & ~where)
    found = moments({name: float(each.mean()) for name, each in terms.items()} | {"loss/net/robust": 3.0})
    assert found.pop("watch/loss/std") == pytest.approx(float(values[where].std(correction=0)), rel=1e-5)
    assert found == {
        "watch/loss/share": 0.75,
        "watch/loss/mean": 4.0,
        "watch/nothing/share": 0.0,
        "loss/net/robust": 3.0,
    }


@pytest.mark.parametrize("perturbation", [None, AWP(), RWP(steps=1)], ids=["nothing", "AWP", "RWP"])
def test_what_is_watched_is_no_part_of_the_loss(perturbation: Any, plain: nn.Module, batch: Batch) -> None:
    class Silent(TRADES):
        def loss(self, model: nn.Module, examples: Any, now: Now) -> dict[str, Tensor]:
            return {
                name: values
                for name, values in super().loss(model, examples, now).items()
                if not name.startswith("watch/")
            }

    ends = []
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    for objective in (TRADES(inner=GAUSSIAN), Silent(inner=GAUSSIAN)):
        plain.load_state_dict(before)
        learner = Learner("net", Policy(perturbation=perturbation), plain)
        learner.descend(objective, batch, moment())
        ends.append({name: value.clone() for name, value in learner.weights.items()})
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_trades_watches_the_share_of_collaborative_examples(plain: nn.Module, batch: Batch) -> None:
    objective = TRADES(inner=GAUSSIAN)
    examples = shown(objective, plain, batch, moment().within("net"))
    with torch.no_grad():
        natural, found = (cross_entropy(plain(z), batch.y) for z in (batch.x, examples.x_adv))
    lower = found < natural
    assert 0 < int(lower.sum()) < len(batch)
    metrics = moments(
        {
            name: float(value)
            for name, value in Learner("net", Policy(), plain).descend(objective, batch, moment()).items()
        }
    )
    assert metrics["watch/net/collaborative/share"] == pytest.approx(float(lower.double().mean()))
    assert metrics["watch/net/collaborative/mean"] == pytest.approx(float(found[lower].mean()))
    assert metrics["watch/net/adversarial/std"] == pytest.approx(float(found[~lower].std(correction=0)))
    assert metrics["watch/net/natural/mean"] == pytest.approx(float(natural.mean()))
