"""Training one run of the study: from the beginning, or as a branch from what another run had become."""

from __future__ import annotations

import math
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from experiments.cifar10.design import MIXTURES, Branch, Unit, units
from experiments.cifar10.place import Place
from poise.core.errors import Interrupted
from poise.core.files import write_bytes
from poise.core.progress import Progress
from poise.data import held_out
from poise.engine import Run, finished, resume, train
from poise.engine.checkpoints import facts_file, load_into, load_safetensors, read_tensors, tensors_file
from poise.engine.statistics import reestimate
from poise.zoo.shelf import rounded_weights, widened_weights


class StopAt(Progress):
    """Asks the run to stop after a certain step, as a signal would; lets it say what it says."""

    def __init__(self, step: int, target: int) -> None:
        self.step, self.target = step, target

    @property
    def reached(self) -> bool:
        return self.step >= self.target

    def begin(self, what: str, total: int, unit: str, cost: float = 0.0) -> Callable[[int], None]:
        def advance(done: int) -> None:
            self.step += done
            if self.step == self.target:
                signal.raise_signal(signal.SIGTERM)

        return advance if unit == "steps" else lambda done: None


def steps_of(place: Place, unit: Unit) -> int:
    """Of an epoch."""
    data = place.scale.data.load()
    return math.ceil(len(held_out(data.train, place.scale.held_out, unit.seed)[0]) / place.scale.batch_size)


def step_at(place: Place, unit: Unit, share: float) -> int:
    """The last step before a share of the run is over."""
    return math.floor(share * place.scale.epochs * steps_of(place, unit) + 1e-9)


def advance(place: Place, unit: Unit, target: int) -> None:
    """Train (or go on with) a run until so many steps are done, and leave its complete checkpoint there."""
    run, experiment = place.run(unit), place.experiment(unit)
    begun = (run.path / "experiment.json").exists()
    newest = run.newest_state()[0] if begun else None
    now = newest[1]["step"] if newest is not None else 0
    if now >= target:
        return
    until = StopAt(now, target)
    try:
        (
            resume(run.path, device="cpu", progress=until)
            if begun
            else train(experiment, run.path, device="cpu", progress=until)
        )
    except Interrupted:
        if not until.reached:
            raise


def point(place: Place, unit: Unit, step: int) -> Path:
    """The complete checkpoint of a run after so many steps (without suffix), made where it is not there."""
    kept = place.runs / "points" / f"{unit.name}-{step:09d}"
    if not facts_file(kept).exists():
        advance(place, unit, step)
        made = place.run(unit).path / "checkpoints" / f"step-{step:09d}"
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tensors_file(made), tensors_file(kept))
        shutil.copyfile(facts_file(made), facts_file(kept))
    return kept


def trunk_of(unit: Unit) -> Unit | None:
    """The run that a branch goes on from."""
    branch = unit.row.branch
    return (
        None
        if branch is None
        else next(each for each in units() if each.row.name == branch.of and each.seed == unit.seed)
    )


def branch_off(place: Place, unit: Unit, branch: Branch, trunk: Unit) -> None:
    """Begin a run with all that another one had become at a moment: weights, averages and optimizers, under settings of
    its own.
    """
    state, facts = read_tensors(point(place, trunk, step_at(place, trunk, branch.at)))
    made = Run(place.runs / f".{unit.name}.begun")
    shutil.rmtree(made.path, ignore_errors=True)
    own = {"group", "seed", "settings_sha256"}
    about = {name: fact for name, fact in place.run(trunk).about.items() if name not in own}
    experiment = place.experiment(unit)
    made.create(experiment, {**about, "branched": {"from": trunk.name, "step": facts["step"]}})
    tensors = {name: tensor for name, tensor in state.items() if not name.startswith("meter/")}
    carried = {"placements": facts["placements"], "state": facts["state"], "meter_images": {}, "best": {}}
    made.save_state(
        facts["step"],
        tensors,
        {**carried, "group": made.group, "seed": unit.seed},
        experiment.keep_last,
        for_good=False,
    )
    made.path.rename(place.run(unit).path)


def trained(place: Place, unit: Unit) -> None:
    """Train the run to its end, through the moments that branches go on from, and keep its readouts. Raises:
    Interrupted.
    """
    branch, trunk, run = unit.row.branch, trunk_of(unit), place.run(unit)
    if branch is not None and trunk is not None:
        if not run.path.exists():
            branch_off(place, unit, branch, trunk)
        if branch.epochs is not None:
            end = step_at(place, unit, branch.at) + branch.epochs * steps_of(place, unit)
            advance(place, unit, min(end, place.scale.epochs * steps_of(place, unit)))
            keep_line(place, unit, trunk)
            return
    else:
        for other in units():
            if other.row.branch is not None and trunk_of(other) == unit:
                point(place, unit, step_at(place, unit, other.row.branch.at))
    begun = (run.path / "experiment.json").exists()
    if not begun or not finished(run):
        resume(run.path, device="cpu") if begun else train(place.experiment(unit), run.path, device="cpu")
    keep(place, unit)


def keep(place: Place, unit: Unit) -> None:
    """Lay a finished run's rounded weights, curves and facts among the results."""
    run, kept = place.run(unit), place.kept(unit)
    for readout in ("last", "selected"):
        ship(kept / f"{readout}.safetensors", run.network(readout).state_dict())
    if unit.row.name == "at":
        state, prefix = read_tensors(run.states()[0])[0], "learner/joint/network/"
        ship(
            kept / "raw.safetensors",
            {name.removeprefix(prefix): part for name, part in state.items() if name.startswith(prefix)},
        )
    write_bytes(kept / "metrics.jsonl", (run.path / "metrics.jsonl").read_bytes())
    finish(place, unit, {"selected_epoch": run.facts("selected")["epoch"]})


def keep_line(place: Place, unit: Unit, trunk: Unit) -> None:
    """Mix the averages at both ends of the weight line; BatchNorm's statistics are estimated anew on training
    images.
    """
    assert unit.row.branch is not None
    states = (
        read_tensors(point(place, trunk, step_at(place, trunk, unit.row.branch.at)))[0],
        read_tensors(place.run(unit).states()[0])[0],
    )
    prefix = "learner/joint/average/"
    robust, natural = (
        {name.removeprefix(prefix): part for name, part in state.items() if name.startswith(prefix)} for state in states
    )
    data = place.scale.data.load()
    images = held_out(data.train, place.scale.held_out, unit.seed)[0]
    for share in MIXTURES:
        network = place.scale.model.build(data.shape, len(data.classes), unit.seed)
        mixed = {
            name: torch.lerp(part, natural[name], share) if part.is_floating_point() else part
            for name, part in robust.items()
        }
        load_into(network, mixed, unit.name)
        reestimate(network, images, place.scale.estimated)
        ship(place.kept(unit) / f"mixture-{share:g}.safetensors", network.state_dict())
    finish(place, unit, {})


def finish(place: Place, unit: Unit, more: dict[str, Any]) -> None:
    """Write run.json, the last of a run's results, from which it is known to be trained."""
    run = place.run(unit)
    last = next((line for line in reversed(run.metrics()) if "monitor/natural" in line), {})
    held = {name.removeprefix("monitor/"): value for name, value in last.items() if name.startswith("monitor/")}
    about = {name: run.about[name] for name in ("precision", "device", "versions", "group", "seed", "data_digest")}
    facts = {"name": unit.name, "title": unit.row.title, **about, "held_out": held, **more, "commit": place.commit}
    write_bytes(place.kept(unit) / "experiment.json", (run.path / "experiment.json").read_bytes())
    place.decide(
        f"rows/{unit.name}/run",
        {**facts, "processors": place.processors(unit.name), "branched": run.about.get("branched")},
    )


def ship(path: Path, weights: dict[str, Tensor]) -> None:
    """Write weights as they are evaluated and shipped."""
    write_bytes(path, safetensors.torch.save(rounded_weights(weights)))


def shipped(place: Place, unit: Unit, readout: str) -> torch.nn.Module:
    """The network of a readout as it lies among the results, in float32."""
    data = place.scale.data.load()
    path = place.kept(unit) / f"{readout}.safetensors"
    network = place.scale.model.build(data.shape, len(data.classes), unit.seed)
    load_into(network, widened_weights(load_safetensors(path.read_bytes(), str(path))), str(path))
    return network.eval()
