"""The training loop, readable from top to bottom: `train` makes or resumes a run, `_epochs` is the loop."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from poise.core.batches import Now
from poise.core.distributed import ALONE, World, join, local_rank
from poise.core.errors import Interrupted, RunError, SettingsError
from poise.core.version import __version__
from poise.data import Data, Feed, Split, held_out, open_pools
from poise.data.extra import OpenedPool
from poise.engine.checkpoints import facts_file, foreign_weights, load_into
from poise.engine.experiment import Experiment, Monitor
from poise.engine.placement import Placement, check_shares, placed, shares_changed
from poise.engine.progress import Progress
from poise.engine.ranks import epoch_facts, measured, whole_state
from poise.engine.runs import Run
from poise.engine.signals import stop_requested
from poise.engine.statistics import reestimate
from poise.evaluation.protocol import device_name
from poise.learners import Learner, Policy
from poise.learners.precision import Precision, precision
from poise.methods import Method
from poise.objectives.watch import moments


@dataclass
class Meters:
    """Sums of the step metrics of the epoch in progress; tensors, so that no step waits for the device."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0

    def add(self, metrics: dict[str, Tensor]) -> None:
        self.steps += 1
        for name, value in metrics.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def means(self) -> dict[str, float]:
        return {name: float(value) / self.steps for name, value in self.sums.items()}


@dataclass
class Training:
    """A run in progress: what is fixed (settings, data, feeds) and what moves (this rank's learners, step, meters, best epoch)."""

    experiment: Experiment
    run: Run
    data: Data
    splits: dict[str, Split]
    feeds: dict[str, Feed]
    learners: dict[str, Learner]
    arithmetic: Precision
    progress: Progress
    placement: Placement
    step: int = 0
    """Steps done."""
    meters: Meters = field(default_factory=Meters)
    best: dict[str, Any] = field(default_factory=dict)
    """Epoch, criterion's value and monitors of the selected weights; empty before the first monitored epoch."""

    @cached_property
    def method(self) -> Method:
        """The experiment's method; with a diagnosis every learner is trained throughout."""
        method = self.experiment.method
        return method if self.experiment.diagnosis is None else method.diagnosed()

    @property
    def steps_per_epoch(self) -> int:
        return max(feed.steps_per_epoch for feed in self.feeds.values())

    def now(self) -> Now:
        """The moment of the next step."""
        per_epoch, experiment = self.steps_per_epoch, self.experiment
        return Now(self.step // per_epoch + 1, self.step, experiment.epochs, per_epoch, experiment.seed)


def train(
    experiment: Experiment,
    out: str | Path,
    *,
    device: str = "auto",
    data_dir: str | Path | None = None,
    imports: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> Run:
    """Train a new run into the folder `out`, which must be empty or absent.

    imports: digest by path of the user's files that registered classes (recorded, never imported again by themselves).
    Raises: RunError, DataError, SettingsError before any work; Interrupted after SIGINT or SIGTERM, with everything saved.
    """
    world, chosen = join(), choose_device(device)
    run = world.led(lambda: Run.to_be(Path(out))) or Run(Path(out))
    data = world.in_turn(lambda: experiment.data.load(data_dir))
    initial, digest = _initial(experiment)
    pools = open_pools(experiment.method.streams(), data, data_dir)
    # refuses what does not fit before the folder exists
    training = _prepare(experiment, run, data, chosen, _drawn(progress, world), initial, pools, world)
    about = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"poise": __version__, "torch": torch.__version__},
        "device": device_name(chosen),
        "imports": imports or {},
        "data_notes": [*data.notes, *dict.fromkeys(pool.note for pool in pools.values())],
        "pool_digests": {name: pool.digest for name, pool in pools.items()},
        "initial_digest": digest,
        "ranks": world.size,
    }
    world.led(lambda: run.create(experiment, about))
    _epochs(training)
    return run


def resume(
    out: str | Path,
    *,
    device: str = "auto",
    data_dir: str | Path | None = None,
    imports: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> Run:
    """Go on with a run from its newest readable checkpoint, to the same weights that it would have had unbroken.

    imports: as for `train`; a file that was changed since is said. Raises: RunError when experiment.json or the initial weights
    were changed, CheckpointError when every checkpoint is damaged.
    """
    run, world = Run.open(out), join()
    experiment, about, progress = run.experiment, run.about, _drawn(progress, world)
    run.check_unchanged(about)
    for path, digest in about.get("imports", {}).items():
        if digest not in (imports or {}).values():
            progress.say(f"{path} is not the file that the run was started with (its SHA-256 was {digest[:12]}...)")
    world.led(run.sweep)
    found, warnings = run.newest_state()
    for warning in warnings:
        progress.say(warning)
    initial, digest = _initial(experiment) if found is None else (None, about.get("initial_digest"))
    if digest != about.get("initial_digest"):
        raise RunError(f"Experiment.initial = {experiment.initial!r} was changed since the run was started; start a new run instead")
    data = world.in_turn(lambda: experiment.data.load(data_dir))
    pools = open_pools(experiment.method.streams(), data, data_dir)
    for name, pool in pools.items():
        if pool.digest != about.get("pool_digests", {}).get(name):
            raise RunError(f"the extra images {pool.origin} were changed since the run was started; start a new run instead")
    training = _prepare(experiment, run, data, choose_device(device), progress, initial, pools, world)
    if found is not None:
        state, facts = found
        run.check_unchanged(facts)
        _restore(training, state, facts)
        if changed := shares_changed(facts.get("shares"), training.placement, training.learners):
            progress.say(changed)
    world.led(lambda: run.truncate_metrics(training.step))
    _epochs(training)
    return run


def _drawn(progress: Progress | None, world: World) -> Progress:
    """Only the first rank speaks."""
    return progress if progress is not None and world.leads else Progress()


def finished(run: Run) -> bool:
    """Whether the run has trained all its epochs."""
    return facts_file(run.weights_path("last")).exists()


def _prepare(
    experiment: Experiment,
    run: Run,
    data: Data,
    device: torch.device,
    progress: Progress,
    initial: dict[str, Tensor] | None,
    pools: Mapping[str, OpenedPool] | None = None,
    world: World = ALONE,
) -> Training:
    """Data on the device, learners at their first step. Raises: SettingsError, InputError, CheckpointError for what does not fit."""
    if experiment.protocol.first is not None and experiment.protocol.first > len(data.test):
        raise SettingsError(f"Protocol.first = {experiment.protocol.first}: must be at most {len(data.test)}, the number of test images")
    arithmetic = precision(experiment.precision, device)
    if device.type == "cuda" and experiment.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
    if experiment.selection == "held-out":
        training_split, selection_split = held_out(data.train, experiment.held_out, experiment.seed)
    else:
        training_split, selection_split = data.train, data.test
    splits = {"train": training_split, "selection": selection_split, "test": data.test}

    def build(name: str, policy: Policy) -> Learner:
        network = experiment.model.build(data.shape, len(data.classes), experiment.seed)
        if initial is not None:
            load_into(network, initial, str(experiment.initial))
        return Learner(name, policy, network.to(device, arithmetic.dtype), arithmetic=arithmetic)

    method = experiment.method
    placement = placed(experiment.placement, method, world, experiment.diagnosis is not None)
    learners = placement.local(method.learners(build))
    extra = {name: pool.split for name, pool in (pools or {}).items()}
    feeds = {}
    for name, stream in method.streams().items():
        group = placement.group_of_stream(name) or ALONE
        part = {"rank": group.rank, "world": group.size, "pool": extra.get(name)}
        feeds[name] = Feed(stream, training_split, experiment.seed, device, arithmetic.dtype, **part)
    check_shares(placement, method, feeds)
    return Training(experiment, run, data, splits, feeds, learners, arithmetic, progress, placement)


def _epochs(training: Training) -> None:
    """The loop: steps; monitors, selection, one line of metrics and a checkpoint at the end of every epoch."""
    experiment, run, progress, placement = training.experiment, training.run, training.progress, training.placement
    total = experiment.epochs * training.steps_per_epoch
    with stop_requested() as stop:
        while training.step < total:
            epoch, clock, images = training.now().epoch, time.perf_counter(), 0
            end = epoch * training.steps_per_epoch
            advance = progress.begin(f"{experiment.name} epoch {epoch}/{experiment.epochs}", end - training.step, "steps")
            while training.step < end:
                now = training.now()
                batches = {name: feed.batch(now) for name, feed in training.feeds.items() if placement.group_of_stream(name)}
                training.meters.add(training.method.step(training.learners, batches, now))
                training.step += 1
                images += next(iter(batches.values())).total
                advance(1)
                if stop and placement.world.size == 1 and training.step < end:  # several ranks end the epoch and stop together
                    progress.end()
                    _save(training, training.step, for_good=False)
                    raise Interrupted(f"stopped at step {training.step} of {total}; to go on: poise train --resume {run.path}")
            progress.end()
            stopping = _end_epoch(training, epoch, images / (time.perf_counter() - clock), bool(stop))
            if stopping and training.step < total:
                raise Interrupted(f"stopped at step {training.step} of {total}; to go on: poise train --resume {run.path}")
    if "no" in placement.world.exchange("yes" if finished(run) else "no")[:1]:
        network = _deployed(training)
        if placement.world.leads:
            run.save_weights("last", network, _facts(training, experiment.epochs, {}))
    if stop:
        raise Interrupted(f"stopped when all {total} steps were done; to evaluate the run: poise evaluate {run.path}")


def _deployed(training: Training) -> nn.Module:
    """What is measured and kept: the method's network, its BatchNorm statistics estimated anew where the settings say so."""
    network = training.method.deployed(training.learners)
    if training.experiment.reestimate:
        reestimate(network, training.splits["train"], training.experiment.reestimate)
    return network.eval()


def _end_epoch(training: Training, epoch: int, images_per_second: float, stop: bool) -> bool:
    """Returns whether any rank was asked to stop."""
    experiment, run, world = training.experiment, training.run, training.placement.world
    means, stopping = epoch_facts(world, training.learners, training.meters.means(), stop)
    for learner in training.learners.values():
        learner.agree()
    line: dict[str, Any] = {"kind": "epoch", "epoch": epoch, "step": training.step}
    last = Now(epoch, training.step - 1, experiment.epochs, training.steps_per_epoch, experiment.seed)
    for name, policy in experiment.method.policies().items():
        line[f"learning_rate/{name}"] = policy.optimizer.learning_rate * policy.schedule.value(last)
    line |= moments(means)
    training.meters = Meters()
    clock = time.perf_counter()
    final = epoch == experiment.epochs
    if final or epoch % experiment.monitor_every == 0 or epoch in experiment.keep_epochs:
        line |= _monitor(training, last)
    line |= {"images_per_second": images_per_second, "monitor_seconds": time.perf_counter() - clock}
    if world.leads:
        run.append_metrics(line)
    training.progress.epoch(epoch, experiment.epochs, {key: value for key, value in line.items() if isinstance(value, int | float)})
    for_good = epoch in experiment.keep_epochs
    if final or for_good or stopping or epoch % experiment.save_every == 0:
        _save(training, training.step, for_good)
    return stopping


def _monitor(training: Training, now: Now) -> dict[str, float]:
    """Measure the deployed network, and the learners where they are diagnosed; keep its weights where that is due."""
    experiment, run, epoch = training.experiment, training.run, now.epoch
    network = _deployed(training)
    found = {f"monitor/{monitor.name}": _measure(training, monitor, network) for monitor in experiment.monitors}
    _select(training, epoch, network, found)
    if training.placement.world.leads:
        kept = [*(["last"] if epoch == experiment.epochs else []), *([f"epoch {epoch}"] if epoch in experiment.keep_epochs else [])]
        for which in kept:
            run.save_weights(which, network, _facts(training, epoch, found))
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


def _select(training: Training, epoch: int, network: nn.Module, measured: dict[str, float]) -> None:
    """Keep these weights if the criterion says so; ties go to the later epoch."""
    experiment = training.experiment
    natural = next((measured[f"monitor/{monitor.name}"] for monitor in experiment.monitors if monitor.attack is None), 0.0)
    robust = next((measured[f"monitor/{monitor.name}"] for monitor in experiment.monitors if monitor.attack is not None), 0.0)
    value = {"sum": natural + robust, "robust": robust, "last": float(epoch)}[experiment.criterion]
    allowed = natural >= experiment.natural_floor or experiment.criterion == "last"
    if not training.best or (allowed, value) >= (training.best["allowed"], training.best["value"]):
        training.best = {"epoch": epoch, "value": value, "allowed": allowed, "monitors": measured}
        if training.placement.world.leads:
            training.run.save_weights("selected", network, _facts(training, epoch, measured))


def _facts(training: Training, epoch: int, measured: dict[str, float]) -> dict[str, Any]:
    """What is written beside deployed weights."""
    data, experiment = training.data, training.experiment
    return {
        "epoch": epoch,
        "monitors": measured,
        "experiment": experiment.name,
        "seed": experiment.seed,
        "shape": list(data.shape),
        "classes": list(data.classes),
    }


def _save(training: Training, step: int, for_good: bool) -> None:
    state = whole_state(training.placement, training.learners)
    if not training.placement.world.leads:
        return
    state |= {f"meter/{name}": value for name, value in training.meters.sums.items()}
    experiment = training.experiment
    facts: dict[str, Any] = {
        "shares": dict(training.placement.shares),
        "meter_steps": training.meters.steps,
        "best": training.best,
        "group": experiment.group,
        "seed": experiment.seed,
    }
    training.run.save_state(step, state, facts, experiment.keep_last, for_good)


def _restore(training: Training, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
    device = training.arithmetic.device
    for name, learner in training.learners.items():
        prefix = f"learner/{name}/"
        learner.load_state({key.removeprefix(prefix): value.to(device) for key, value in state.items() if key.startswith(prefix)})
    leading = {f"/{name}/" for name, group in training.placement.groups.items() if group.leads}  # sums are added up over ranks
    mine = [key for key in state if key.startswith("meter/") and any(name in key for name in leading)]
    sums = {key.removeprefix("meter/"): state[key].to(device) for key in mine}
    training.step, training.meters, training.best = facts["step"], Meters(sums, facts["meter_steps"]), facts["best"]


def choose_device(name: str) -> torch.device:
    """ "auto" is the first GPU, else the CPU. Raises: SettingsError for a device that is not there."""
    if name == "auto":
        here = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return torch.device("cuda", local_rank() % here) if here and local_rank() else torch.device("cuda" if here else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise SettingsError(f"device = {name!r} is not available here ({first}); must be 'auto', 'cpu' or one that is there") from None
    return device


def _initial(experiment: Experiment) -> tuple[dict[str, Tensor] | None, str | None]:
    """The weights that training starts from and their digest; (None, None) where it starts anew."""
    if experiment.initial is None:
        return None, None
    path = Path(experiment.initial)
    if path.is_dir():
        run = Run.open(path)
        return run.network().state_dict(), run.facts()["sha256"]
    return foreign_weights(path), hashlib.sha256(path.read_bytes()).hexdigest()
