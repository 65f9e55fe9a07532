"""Deployed weights that are damaged or gone are made again, as far as complete checkpoints go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from poise.core.errors import CheckpointError
from poise.engine.monitoring import deployed, facts_of, judged
from poise.engine.training import STATE, Training, restore

State = tuple[dict[str, Tensor], dict[str, Any]]


def mend_selected(training: Training, newest: State) -> list[str]:
    """Select the best epoch again among the complete checkpoints where the selected weights are damaged, gone or not
    finite.

    Without one at the end of a measured epoch the next epochs are selected from. All ranks call this together, with the
    checkpoint that the training is at, where it stands again afterwards. Returns what is to be said.
    """
    world, run, best = training.placement.world, training.run, training.best
    why = world.exchange(run.whole("selected") if world.leads and best else "")[0]
    if not why:
        return []
    reason = f"the selected weights, of epoch {best['epoch']}, cannot be used ({why})"
    candidates = [(judged(training.experiment, epoch, monitors), path) for path, epoch, monitors in _measured(training)]
    if not candidates:
        training.best = {}
        return [f"{reason}; no complete checkpoint has them, so that weights are selected again from here on"]
    choice, path = max(
        candidates, key=lambda candidate: (candidate[0]["allowed"], candidate[0]["value"], candidate[0]["epoch"])
    )
    restore(training, *run.state(path))
    network = deployed(training)
    if world.leads:
        run.save_weights("selected", network, facts_of(training, choice["epoch"], choice["monitors"]))
    restore(training, *newest)
    training.best = choice
    among = (
        "which has them" if choice["epoch"] == best["epoch"] else f"the best of the {len(candidates)} that there are"
    )
    return [f"{reason}; made again from the complete checkpoint of epoch {choice['epoch']}, {among}"]


def _measured(training: Training) -> Iterator[tuple[Path, int, dict[str, float]]]:
    """Complete checkpoints at the end of an epoch that was measured: (path, epoch, monitors)."""
    lines = {line.get("step"): line for line in training.run.metrics()}
    for path in training.run.states():
        try:
            _, facts = training.run.state(path)
        except CheckpointError:
            continue
        line = lines.get(facts["step"], {})
        monitors = {name: value for name, value in line.items() if name.startswith("monitor/")}
        if monitors and facts.get("state") == STATE and facts["step"] % training.steps_per_epoch == 0:
            yield path, line["epoch"], monitors
