"""What base learners are like while they train (Zipper, Appendix C.1 and Section 3.4)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from poise.attacks import PGD, Ascent, Attack
from poise.core.batches import Batch, Now
from poise.core.errors import SettingsError
from poise.core.settings import Number, PositiveCount, Settings, settings, tag_of, to_json
from poise.data import Split
from poise.engine.regret import regrets
from poise.evaluation.predictions import attacked, device_of, logits_of
from poise.learners import Learner, Policy
from poise.losses import cross_entropy
from poise.objectives.objective import searches_of

GLOBAL = "global"


@settings
class Diagnosis(Settings):
    """Measure every base learner at the end of each monitored epoch; all learners are then trained throughout, none is
    left idle.

    An epoch's end is the last moment before the redistribution that may open the next epoch.
    """

    attack: Attack | None = None
    """Against each learner and the global one; its images are also shown to the others (cross-attack accuracy). None:
    PGD-20 as the robust learner searches (see `against`). Where several learners are robust, one that trains under
    another threat brings this attack
    under its own: all networks meet it, its regret is of it."""
    images: PositiveCount = 256
    """The first so many images of the split on which epochs are selected."""
    geometry: bool = True
    """Distances between learners, and cosines between the gradients of their losses, each at its own weights. Distances
    are taken in every epoch, so that they are known before and after each redistribution; right after it learners lie
    in one place.
    """
    regret: bool = True
    """Regrets and Theorem 1's bound, of `loss`."""
    loss: Literal["clipped_cross_entropy", "zero_one"] = "clipped_cross_entropy"
    """The loss in [0, 1] that regrets are of: min(cross-entropy, 1), or 1 minus accuracy."""
    delta: Number = 0.05
    """The bound holds with probability 1 - delta."""

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise SettingsError(f"Diagnosis.delta = {self.delta}: must be above 0 and below 1")

    def measure(self, learners: Mapping[str, Learner], deployed: nn.Module, split: Split, now: Now) -> dict[str, Any]:
        """Accuracies in [0, 1], distances, cosines; of networks by name, the deployed one being "global". Beside them
        the attack.
        """
        images = split.first(min(self.images, len(split)))
        networks = _networks(learners, deployed)
        attack = self.against(_policies(learners))
        measurements: dict[str, Any] = {"attack": described(attack)}
        measurements |= accuracies(networks, images, attack, now.seed, self.own(learners))
        if self.geometry:
            measurements |= distances(networks) | cosines(learners, images, now)
        return {f"diagnosis/{name}": value for name, value in measurements.items()}

    def apart(self, learners: Mapping[str, Learner], deployed: nn.Module) -> dict[str, float]:
        """The distances alone, for epochs in which nothing else is measured."""
        return {f"diagnosis/{name}": value for name, value in distances(_networks(learners, deployed)).items()}

    def regrets(self, lines: Sequence[Mapping[str, Any]], learners: Mapping[str, Learner]) -> dict[str, float]:
        """From the lines of metrics so far, those of epochs that were diagnosed.

        NT's task is the natural loss, others' the robust one, or that under a threat of their own.
        """
        tasks = {
            name: "robust" if learner.policy.objective.asks_network else "natural" for name, learner in learners.items()
        }
        tasks |= {name: task_of(attack) for name, attack in self.own(learners).items()}
        tasks_judged = sorted({"natural", "robust", *tasks.values()})
        lines_with_regrets = [
            line for line in lines if all(f"diagnosis/{GLOBAL}/{task}" in line for task in tasks_judged)
        ]
        history = [
            {
                name: {task: self._loss_of(line, f"diagnosis/{name}/{task}") for task in tasks_judged}
                for name in (*learners, GLOBAL)
            }
            for line in lines_with_regrets
        ]
        return {f"regret/{name}": value for name, value in regrets(history, tasks, self.delta).items()}

    def against(self, policies: Mapping[str, Policy]) -> Attack:
        """`attack`, or PGD-20 within the threat and by the step size in which the learner named robust searches.

        Without one of that name the first that searches counts; PGD's own defaults, Linf 8/255, where none does.
        """
        if self.attack is not None:
            return self.attack
        searches = searching(policies)
        inner = searches.get("robust", next(iter(searches.values()), None))
        return PGD() if inner is None else PGD(threat=inner.threat, step_size=inner.step_size)

    def own(self, learners: Mapping[str, Learner]) -> dict[str, Attack]:
        """The attack under its own threat, of each learner that has another one; nothing where only one learner is
        robust.
        """
        policies = _policies(learners)
        attack, robust = self.against(policies), searching(policies)
        further = {
            name: ascent for name, ascent in robust.items() if ascent.threat != attack.threat and len(robust) > 1
        }
        return {name: _under(attack, ascent) for name, ascent in further.items()}

    def _loss_of(self, line: Mapping[str, Any], accuracy: str) -> float:
        return 1 - line[accuracy] if self.loss == "zero_one" else line[f"{accuracy} loss"]


def searching(policies: Mapping[str, Policy]) -> dict[str, Ascent]:
    """The inner maximisation of each learner that has one."""
    searches = {name: searches_of(policy.objective) for name, policy in policies.items()}
    return {name: searches_found[0] for name, searches_found in searches.items() if searches_found}


def _networks(learners: Mapping[str, Learner], deployed: nn.Module) -> dict[str, nn.Module]:
    return {**{name: learner.network for name, learner in learners.items()}, GLOBAL: deployed}


def _policies(learners: Mapping[str, Learner]) -> dict[str, Policy]:
    return {name: learner.policy for name, learner in learners.items()}


def described(attack: Attack) -> dict[str, Any]:
    """An attack as lines of metrics and figures tell it."""
    return {"name": attack.name, "settings": to_json(attack)}


def task_of(attack: Attack) -> str:
    """A task beyond "natural" and "robust", such as "robust L2 0.5"."""
    return f"robust {tag_of(attack.threat)} {attack.threat.epsilon:g}"


def _under(attack: Attack, inner: Ascent) -> Attack:
    """The same attack under the threat of an inner maximisation, with its step size if it has one."""
    changes: dict[str, Any] = {
        "threat": inner.threat,
        **({"step_size": inner.step_size} if hasattr(attack, "step_size") else {}),
    }
    return dataclasses.replace(attack, **changes)  # pyright: ignore[reportArgumentType]


def accuracies(
    networks: Mapping[str, nn.Module], split: Split, attack: Attack, seed: int, own: Mapping[str, Attack] | None = None
) -> dict[str, float]:
    """For each network `a` "a/natural", "a/robust" (images made against itself) and, for every other b, "a/on images of
    b".

    Beside the first two "a/natural loss" and "a/robust loss", the mean of min(cross-entropy, 1). All are in [0, 1].
    own: networks whose images are made by another attack than `attack`; each such attack is a task of all networks (see
    `task_of`).
    """
    result, own = {}, own or {}
    attacks = {"robust": attack, **{task_of(attack_of_task): attack_of_task for attack_of_task in own.values()}}
    for name, network in networks.items():
        device, dtype = device_of(network)
        labels = split.labels.to(device)
        adversarial = {
            task: torch.cat([x for x, _ in attacked(network, split, attack_each, seed=seed)])
            for task, attack_each in attacks.items()
        }
        for task, images in {"natural": split.pixels(dtype=dtype).to(device), **adversarial}.items():
            logits = logits_of(network, images)
            result[f"{name}/{task}"] = _accuracy(logits, labels)
            result[f"{name}/{task} loss"] = float(cross_entropy(logits, labels).clamp(max=1).double().mean())
        x_adv = adversarial[task_of(own[name]) if name in own else "robust"]
        for attack_of_task, judge in networks.items():
            if attack_of_task != name:
                result[f"{attack_of_task}/on images of {name}"] = _accuracy(logits_of(judge, x_adv), labels)
    return result


def distances(networks: Mapping[str, nn.Module]) -> dict[str, float]:
    """Euclidean distance between the parameters of each two networks: "distance/a-b"."""
    flat = {
        name: _flat([parameter.detach() for parameter in network.parameters()]) for name, network in networks.items()
    }
    return {f"distance/{a}-{b}": float((flat[a] - flat[b]).norm()) for a, b in itertools.combinations(flat, 2)}


def cosines(learners: Mapping[str, Learner], split: Split, now: Now) -> dict[str, float]:
    """Cosine between the gradients of each two learners' losses, on the same images, each at its own weights:
    "cosine/a-b".
    """
    gradients = {}
    for name, learner in learners.items():
        device, dtype = device_of(learner.network)
        batch = Batch.of(split.pixels(dtype=dtype).to(device), split.labels.to(device))
        gradients[name] = _flat(learner.gradient(learner.policy.objective, batch, now))
    pairs = itertools.combinations(gradients, 2)
    return {
        f"cosine/{a}-{b}": float(torch.nn.functional.cosine_similarity(gradients[a], gradients[b], dim=0))
        for a, b in pairs
    }


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).sum()) / len(labels)


def theory(lines: Sequence[Mapping[str, Any]], epoch: int, diagnosis: Diagnosis) -> dict[str, Any]:
    """What a record says of the theory: regrets and bound as they stood at this epoch, of which loss and with which
    delta; or nothing.
    """
    lines_before = [line for line in lines if line.get("epoch", 0) <= epoch and "regret/tradeoff" in line]
    if not lines_before:
        return {}
    rounds = sum(f"diagnosis/{GLOBAL}/natural" in line for line in lines if line.get("epoch", 0) <= epoch)
    numbers = {
        name.removeprefix("regret/"): value for name, value in lines_before[-1].items() if name.startswith("regret/")
    }
    return {
        "epoch": lines_before[-1]["epoch"],
        "rounds": rounds,
        "loss": diagnosis.loss,
        "delta": diagnosis.delta,
        **numbers,
    }


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
