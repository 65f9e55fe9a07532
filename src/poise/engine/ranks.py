"""What the ranks of a run tell each other between steps: metrics, accuracies, checkpoints. A single rank tells
itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import safetensors.torch
import torch
from torch import Tensor, nn

from poise.core.batches import Now
from poise.core.distributed import World
from poise.core.errors import NumericalError
from poise.core.finite import not_finite
from poise.core.transfers import fetched
from poise.data import Split
from poise.engine.checkpoints import load_safetensors
from poise.engine.experiment import Monitor
from poise.engine.placement import Placement
from poise.evaluation.predictions import predict, predict_under
from poise.learners import Learner


def epoch_facts(
    world: World, learners: Mapping[str, Learner], means: Mapping[str, float], stop: bool, now: Now
) -> tuple[dict[str, float], bool]:
    """The epoch's mean metrics over all ranks, and whether any rank was asked to stop.

    A rank's metrics are its part of each sum, so that they add up. now: the last step.
    Raises: NumericalError on every rank when anything that a learner of one holds is not finite.
    """
    problem = ""
    state = {f"{name}/{key}": tensor for name, learner in learners.items() for key, tensor in learner.state().items()}
    try:
        # asked of all first, so that a GPU is waited for once
        for learner in learners.values() if not_finite(state) else ():
            learner.check_finite(now)
    except NumericalError as error:
        problem = str(error)
    facts = [
        json.loads(text)
        for text in world.exchange(json.dumps({"means": dict(means), "stop": stop, "problem": problem}))
    ]
    problems = [facts_of_rank["problem"] for facts_of_rank in facts if facts_of_rank["problem"]]
    if problems:
        raise NumericalError(problems[0])
    sums: dict[str, float] = {}
    for facts_of_rank in facts:
        for name, value in facts_of_rank["means"].items():
            sums[name] = sums[name] + value if name in sums else value
    return sums, any(facts_of_rank["stop"] for facts_of_rank in facts)


def measured(
    world: World,
    network: nn.Module,
    split: Split,
    monitor: Monitor,
    seed: int,
    batch_size: int = 256,
    narrow: bool = False,
) -> float:
    """The monitor's accuracy in [0, 1]. The ranks, which hold the same network, take whole batches each. narrow: see
    `attacked`.
    """
    part = world.share(math.ceil(len(split) / batch_size))
    part_of_rank = split.subset(slice(part.start * batch_size, part.stop * batch_size))
    right = torch.zeros(1, dtype=torch.float64)
    if len(part_of_rank) and monitor.attack is None:
        right += (predict(network, part_of_rank, batch_size) == part_of_rank.labels.cpu()).sum()
    elif len(part_of_rank) and monitor.attack is not None:
        predictions = predict_under(
            network, part_of_rank, monitor.attack, seed=seed, batch_size=batch_size, narrow=narrow
        )
        right += (predictions == part_of_rank.labels.cpu()).sum()
    world.sum_([right])
    return float(right) / len(split)


def whole_state(placement: Placement, learners: Mapping[str, Learner]) -> dict[str, Tensor]:
    """The state of all learners of the run, on the first rank; of the ranks that share a learner the first one gives
    it.
    """
    learners_here = {name: learner for name, learner in learners.items() if placement.groups[name].leads}
    state = {
        f"learner/{name}/{key}": tensor
        for name, learner in learners_here.items()
        for key, tensor in learner.state().items()
    }
    if not placement.spread:
        return state
    plain = dict(zip(state, fetched(list(state.values())), strict=True))
    parts = placement.world.gather(safetensors.torch.save(plain) if plain else b"")
    return {
        name: tensor
        for part in parts
        if part
        for name, tensor in load_safetensors(part, "another rank's state").items()
    }
