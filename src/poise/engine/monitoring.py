"""What is measured during training, and which weights are kept for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from poise.core.batches import Now
from poise.core.errors import CheckpointError, SettingsError
from poise.data import Split
from poise.engine.experiment import Experiment, Monitor
from poise.engine.ranks import measured
from poise.engine.statistics import reestimate
from poise.engine.training import Training


def deployed(training: Training) -> nn.Module:
    """What is measured and kept: the method's network, its BatchNorm statistics estimated anew where the settings say
    so.
    """
    network = training.method.deployed(training.learners)
    if training.experiment.reestimate:
        reestimate(network, training.splits["train"], training.experiment.reestimate)
    network.eval()
    return network


def monitor_epoch(training: Training, now: Now) -> tuple[dict[str, Any], nn.Module]:
    """Measure the deployed network, and the learners where they are diagnosed; keep its weights if selected or asked
    for. Returns both.
    """
    experiment, run, epoch = training.experiment, training.run, now.epoch
    network = deployed(training)
    measurements = {f"monitor/{monitor.name}": _measure(training, monitor, network) for monitor in experiment.monitors}
    select(training, epoch, network, measurements)
    if training.placement.world.leads and epoch in experiment.keep_epochs:
        run.save_weights(f"epoch {epoch}", network, facts_of(training, epoch, measurements))
    if experiment.diagnosis is None:
        return measurements, network
    diagnosis = experiment.diagnosis.measure(training.learners, network, training.splits["selection"], now)
    if experiment.diagnosis.regret and training.placement.world.leads:
        diagnosis |= experiment.diagnosis.regrets([*run.metrics(), diagnosis], training.learners)
    return measurements | diagnosis, network


def check_monitors(experiment: Experiment, splits: Mapping[str, Split]) -> None:
    """Raises: SettingsError for one that asks for more images than its split has."""
    for monitor in experiment.monitors:
        count = len(splits[monitor.split])
        if monitor.first is not None and monitor.first > count:
            raise SettingsError(
                f"monitor {monitor.name!r}: first = {monitor.first:,} is more than the {count:,} images of the"
                f" {monitor.split} split; give fewer, or None for all"
            )


def monitored(experiment: Experiment, epoch: int) -> bool:
    """Whether the network is measured after this epoch."""
    return epoch == experiment.epochs or epoch % experiment.monitor_every == 0 or epoch in experiment.keep_epochs


def monitoring_forwards(training: Training) -> float:
    """About what the monitors of an epoch cost (see `Progress`)."""
    cost = 0.0
    for monitor in training.experiment.monitors:
        count = len(training.splits[monitor.split])
        images = count if monitor.first is None else min(count, monitor.first)
        cost += images * (1 if monitor.attack is None else monitor.attack.forwards())
    return cost


def _measure(training: Training, monitor: Monitor, network: nn.Module) -> float:
    split = training.splits[monitor.split]
    if monitor.first is not None:
        split = split.first(min(monitor.first, len(split)))
    arithmetic = training.arithmetic
    # as it trains; what is decided is decided in float32
    narrow = arithmetic.autocast and arithmetic.device.type == "cuda"
    return measured(training.placement.world, network, split, monitor, training.experiment.seed, narrow=narrow)


def keep_last(training: Training, network: nn.Module) -> None:
    """Keep the trained weights: the last thing that a run does, from which it is known to be finished."""
    run, epochs = training.run, training.experiment.epochs

    def write() -> None:
        line = next((line for line in reversed(run.metrics()) if line.get("epoch") == epochs), {})
        measurements = {name: value for name, value in line.items() if name.startswith("monitor/")}
        run.save_weights("last", network, facts_of(training, epochs, measurements))

    training.placement.world.led(write)


def select(training: Training, epoch: int, network: nn.Module, measured: dict[str, float]) -> None:
    """Keep these weights if the criterion says so; ties go to the later epoch."""
    score = judged(training.experiment, epoch, measured)
    if not training.best or (score["allowed"], score["value"]) >= (training.best["allowed"], training.best["value"]):
        training.best = score
        if training.placement.world.leads:
            training.run.save_weights("selected", network, facts_of(training, epoch, measured))


def selected_before(training: Training) -> dict[str, Any]:
    """The best epoch that a run which goes on starts from: of the weights in its folder, which may be later than its
    checkpoint.
    """
    try:
        facts = training.run.facts("selected")
    except CheckpointError:
        return training.best
    return (
        training.best
        if facts["epoch"] <= training.best.get("epoch", 0)
        else judged(training.experiment, facts["epoch"], facts["monitors"])
    )


def judged(experiment: Experiment, epoch: int, measured: dict[str, float]) -> dict[str, Any]:
    """What is compared between epochs."""
    natural = next(
        (measured[f"monitor/{monitor.name}"] for monitor in experiment.monitors if monitor.attack is None), 0.0
    )
    robust = next(
        (measured[f"monitor/{monitor.name}"] for monitor in experiment.monitors if monitor.attack is not None), 0.0
    )
    value = {"sum": natural + robust, "robust": robust, "last": float(epoch)}[experiment.criterion]
    eligible = natural >= experiment.natural_floor or experiment.criterion == "last"
    return {"epoch": epoch, "value": value, "allowed": eligible, "monitors": measured}


def facts_of(training: Training, epoch: int, measured: dict[str, float]) -> dict[str, Any]:
    """What is written beside deployed weights."""
    data, experiment, placement = training.data, training.experiment, training.placement
    return {
        "epoch": epoch,
        "monitors": measured,
        "experiment": experiment.name,
        "seed": experiment.seed,
        "group": training.group,
        "shape": list(data.shape),
        "classes": list(data.classes),
        "unbounded": training.unbounded,
        **training.history.facts(),
        **({"placement": placement.facts} if placement.world.size > 1 else {}),
        **({"placements": training.placements} if len(training.placements) > 1 else {}),
    }
