"""What base learners are like while they train (Zipper, Appendix C.1 and Section 3.4)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from poise.attacks import PGD, Attack
from poise.core.batches import Batch, Now
from poise.core.errors import SettingsError
from poise.core.modes import evaluating
from poise.core.settings import Number, PositiveCount, Settings, settings
from poise.data import Split
from poise.engine.regret import regrets
from poise.evaluation.predictions import attacked, device_of, predict
from poise.learners import Learner
from poise.objectives import NT

GLOBAL = "global"


@settings
class Diagnosis(Settings):
    """Measure every base learner at the end of each monitored epoch; all learners are then trained throughout, none is left idle.

    An epoch's end is the last moment before the redistribution that may open the next epoch.
    """

    attack: Attack = PGD()
    """Against each learner and the global one; its images are also shown to the others (cross-attack accuracy)."""
    images: PositiveCount = 256
    """The first so many images of the split on which epochs are selected."""
    geometry: bool = True
    """Distances between learners, and cosines between the gradients of their losses, each at its own weights."""
    regret: bool = True
    """Regrets and Theorem 1's bound, of 0-1 losses."""
    delta: Number = 0.05
    """The bound holds with probability 1 - delta."""

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise SettingsError(f"Diagnosis.delta = {self.delta}: must be above 0 and below 1")

    def measure(self, learners: Mapping[str, Learner], deployed: nn.Module, split: Split, now: Now) -> dict[str, float]:
        """Accuracies in [0, 1], distances, cosines; of networks by name, the deployed one being "global"."""
        images = split.first(min(self.images, len(split)))
        networks = {**{name: learner.network for name, learner in learners.items()}, GLOBAL: deployed}
        found = accuracies(networks, images, self.attack, now.seed)
        if self.geometry:
            found |= distances(networks) | cosines(learners, images, now)
        return {f"diagnosis/{name}": value for name, value in found.items()}

    def regrets(self, lines: Sequence[Mapping[str, Any]], learners: Mapping[str, Learner]) -> dict[str, float]:
        """From the lines of metrics so far, those of epochs that were diagnosed. NT's task is natural accuracy, others' robust accuracy."""
        tasks = {name: "natural" if isinstance(learner.policy.objective, NT) else "robust" for name, learner in learners.items()}
        diagnosed = [line for line in lines if f"diagnosis/{GLOBAL}/natural" in line]
        history = [
            {name: {task: 1 - line[f"diagnosis/{name}/{task}"] for task in ("natural", "robust")} for name in (*learners, GLOBAL)}
            for line in diagnosed
        ]
        return {f"regret/{name}": value for name, value in regrets(history, tasks, self.delta).items()}


def accuracies(networks: Mapping[str, nn.Module], split: Split, attack: Attack, seed: int) -> dict[str, float]:
    """For each network `a` "a/natural", "a/robust" (images made against itself) and, for every other b, "a/on images of b"."""
    found = {}
    for name, network in networks.items():
        found[f"{name}/natural"] = _share(predict(network, split), split)
        batches = list(attacked(network, split, attack, seed=seed))
        x_adv, predicted = (torch.cat(column) for column in zip(*batches, strict=True))
        found[f"{name}/robust"] = _share(predicted.cpu(), split)
        for other, judge in networks.items():
            if other != name:
                with evaluating(judge), torch.no_grad():
                    labels = torch.cat([judge(part).argmax(1) for part in x_adv.split(256)])
                found[f"{other}/on images of {name}"] = _share(labels.cpu(), split)
    return found


def distances(networks: Mapping[str, nn.Module]) -> dict[str, float]:
    """Euclidean distance between the parameters of each two networks: "distance/a-b"."""
    flat = {name: _flat([parameter.detach() for parameter in network.parameters()]) for name, network in networks.items()}
    return {f"distance/{a}-{b}": float((flat[a] - flat[b]).norm()) for a, b in itertools.combinations(flat, 2)}


def cosines(learners: Mapping[str, Learner], split: Split, now: Now) -> dict[str, float]:
    """Cosine between the gradients of each two learners' losses, on the same images, each at its own weights: "cosine/a-b"."""
    gradients = {}
    for name, learner in learners.items():
        device, dtype = device_of(learner.network)
        batch = Batch.of(split.pixels(dtype=dtype).to(device), split.labels.to(device))
        gradients[name] = _flat(learner.gradient(learner.policy.objective, batch, now))
    pairs = itertools.combinations(gradients, 2)
    return {f"cosine/{a}-{b}": float(torch.nn.functional.cosine_similarity(gradients[a], gradients[b], dim=0)) for a, b in pairs}


def _share(predicted: Tensor, split: Split) -> float:
    return float((predicted == split.labels.cpu()).sum()) / len(split)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
