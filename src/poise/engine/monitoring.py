"""What is measured during training, and which weights are kept for it."""

from __future__ import annotations

from typing import Any

from torch import nn

from poise.core.batches import Now
from poise.engine.experiment import Monitor
from poise.engine.ranks import measured
from poise.engine.statistics import reestimate
from poise.engine.training import Training


def deployed(training: Training) -> nn.Module:
    """What is measured and kept: the method's network, its BatchNorm statistics estimated anew where the settings say so."""
    network = training.method.deployed(training.learners)
    if training.experiment.reestimate:
        reestimate(network, training.splits["train"], training.experiment.reestimate)
    return network.eval()


def monitor_epoch(training: Training, now: Now) -> dict[str, Any]:
    """Measure the deployed network, and the learners where they are diagnosed; keep its weights where that is due."""
    experiment, run, epoch = training.experiment, training.run, now.epoch
    network = deployed(training)
    found = {f"monitor/{monitor.name}": _measure(training, monitor, network) for monitor in experiment.monitors}
    select(training, epoch, network, found)
    if training.placement.world.leads:
        kept = [*(["last"] if epoch == experiment.epochs else []), *([f"epoch {epoch}"] if epoch in experiment.keep_epochs else [])]
        for which in kept:
            run.save_weights(which, network, facts_of(training, epoch, found))
    if experiment.diagnosis is None:
        return found
    told = experiment.diagnosis.measure(training.learners, network, training.splits["selection"], now)
    if experiment.diagnosis.regret and training.placement.world.leads:
        told |= experiment.diagnosis.regrets([*run.metrics(), told], training.learners)
    return found | told


def _measure(training: Training, monitor: Monitor, network: nn.Module) -> float:
    split = training.splits[monitor.split]
    if monitor.first is not None:
        split = split.first(min(monitor.first, len(split)))
    return measured(training.placement.world, network, split, monitor, training.experiment.seed)


def select(training: Training, epoch: int, network: nn.Module, measured: dict[str, float]) -> None:
    """Keep these weights if the criterion says so; ties go to the later epoch."""
    experiment = training.experiment
    natural = next((measured[f"monitor/{monitor.name}"] for monitor in experiment.monitors if monitor.attack is None), 0.0)
    robust = next((measured[f"monitor/{monitor.name}"] for monitor in experiment.monitors if monitor.attack is not None), 0.0)
    value = {"sum": natural + robust, "robust": robust, "last": float(epoch)}[experiment.criterion]
    allowed = natural >= experiment.natural_floor or experiment.criterion == "last"
    if not training.best or (allowed, value) >= (training.best["allowed"], training.best["value"]):
        training.best = {"epoch": epoch, "value": value, "allowed": allowed, "monitors": measured}
        if training.placement.world.leads:
            training.run.save_weights("selected", network, facts_of(training, epoch, measured))


def facts_of(training: Training, epoch: int, measured: dict[str, float]) -> dict[str, Any]:
    """What is written beside deployed weights."""
    data, experiment, placement = training.data, training.experiment, training.placement
    return {
        "epoch": epoch,
        "monitors": measured,
        "experiment": experiment.name,
        "seed": experiment.seed,
        "shape": list(data.shape),
        "classes": list(data.classes),
        **({"placement": placement.facts} if placement.world.size > 1 else {}),
        **({"placements": training.placements} if len(training.placements) > 1 else {}),
    }
