"""Catastrophic overfitting: one-step training may lose its robustness to attacks of several steps within an epoch.

After every epoch of a run that searches, PGD-10 is made on a few held-out images against the trained weights
themselves. Nothing is drawn and nothing else is changed by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from poise.attacks import PGD
from poise.attacks.ascent import ascent
from poise.attacks.pgd import score_of
from poise.core.exact import exact
from poise.core.measures import FELL_FROM, MEASURED
from poise.core.modes import crafting
from poise.core.settings import PositiveCount, Settings, UnitInterval, settings
from poise.engine.diagnostics import searching
from poise.learners import Policy

if TYPE_CHECKING:
    from poise.engine.training import Training

_FEWEST = 16
"""Images of which a fall says anything, and which must be lost to it: chance moves fewer."""
_LOST = 6


@settings
class FallWatch(Settings):
    """Tell a sudden fall of the accuracy under PGD-10, and keep the weights of the epoch before."""

    images: PositiveCount = 64
    """The first so many of the images on which epochs are selected; of fewer than 16 nothing is measured."""
    least: UnitInterval = 0.5
    """The share of the epoch before below which an accuracy has fallen."""

    def fell(self, before: float | None, now: float | None, count: int) -> bool:
        """Whether the accuracy of one epoch to the next is a sudden fall, on so many images."""
        if before is None or now is None or count < _FEWEST:
            return False
        return now < self.least * before and (before - now) * count >= _LOST


def attack_of(policies: dict[str, Policy]) -> tuple[str, PGD] | None:
    """The learner that is watched, named robust or else the first that searches, and PGD-10 within its threat."""
    searches = searching(policies)
    if not searches:
        return None
    name = "robust" if "robust" in searches else next(iter(searches))
    threat = searches[name].threat
    return (name, PGD(threat=threat, steps=10, step_size=threat.epsilon / 4, start="zero")) if threat.epsilon else None


def watched(training: Training) -> tuple[str, PGD] | None:
    """What `attack_of` says where there is something to watch and enough images to do so; else None."""
    watch, images = training.experiment.overfitting, training.splits["selection"]
    if watch is None or min(watch.images, len(images)) < _FEWEST:
        return None
    return attack_of(training.experiment.method.policies())


def measured(training: Training) -> dict[str, float]:
    """The accuracy by its name, on the rank that leads those of the learner watched; empty on others."""
    watch, images = training.experiment.overfitting, training.splits["selection"]
    splits = watched(training)
    if watch is None or splits is None:
        return {}
    name, attack = splits
    learner, group = training.learners.get(name), training.placement.groups.get(name)
    if learner is None or group is None or not group.leads:
        return {}
    part = images.first(min(watch.images, len(images)))
    x = part.pixels(dtype=training.arithmetic.dtype).to(training.arithmetic.device)
    return {MEASURED: accuracy(learner.network, x, part.labels.to(x.device), attack)}


def accuracy(network: nn.Module, x: torch.Tensor, y: torch.Tensor, attack: PGD) -> float:
    """Under the attack from the images themselves, which draws nothing; in [0, 1]."""
    with crafting(network, "evaluating"), exact(x.device):
        score = score_of("cross_entropy", network, x, y)
        z = ascent(score, x, x, threat=attack.threat, step_size=attack.step_size, steps=attack.steps)
        with torch.no_grad():
            return float((network(z).argmax(1) == y).double().mean())


def told(training: Training, epoch: int, line: dict[str, Any]) -> dict[str, float]:
    """What the line of metrics says besides, where this epoch fell; it is said, too. Asked of the first rank."""
    watch = training.experiment.overfitting
    if watch is None or MEASURED not in line:
        return {}
    lines = training.run.metrics()
    before = next((metrics.get(MEASURED) for metrics in reversed(lines) if metrics.get("epoch") == epoch - 1), None)
    count = min(watch.images, len(training.splits["selection"]))
    if before is None or not watch.fell(before, line[MEASURED], count):
        return {}
    sentence = (
        "its weights were not kept" if training.previous is None else f"its weights are kept as 'epoch {epoch - 1}'"
    )
    training.progress.say(
        f"epoch {epoch}: accuracy under PGD-10 on {count} images fell from {100 * before:.1f} % to"
        f" {100 * line[MEASURED]:.1f} % since the epoch before (catastrophic overfitting); {sentence}"
    )
    return {FELL_FROM: before}
