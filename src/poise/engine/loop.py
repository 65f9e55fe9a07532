"""The training loop, readable from top to bottom: `train` makes or resumes a run, `_epochs` is the loop."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from poise.core.batches import Now
from poise.core.errors import Interrupted, RunError, SettingsError
from poise.core.version import __version__
from poise.data import Data, Feed, Split, held_out
from poise.engine.checkpoints import facts_file, foreign_weights, load_into
from poise.engine.experiment import Experiment, Monitor
from poise.engine.progress import Progress
from poise.engine.runs import Run
from poise.engine.signals import stop_requested
from poise.evaluation.predictions import accuracy, predict, predict_under
from poise.evaluation.protocol import device_name
from poise.learners import Learner, Policy
from poise.learners.precision import Precision, precision
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
    """A run in progress: what is fixed (settings, data, feeds) and what moves (learners, step, meters, best epoch)."""

    experiment: Experiment
    run: Run
    data: Data
    splits: dict[str, Split]
    feeds: dict[str, Feed]
    learners: dict[str, Learner]
    arithmetic: Precision
    progress: Progress
    step: int = 0
    """Steps done."""
    meters: Meters = field(default_factory=Meters)
    best: dict[str, Any] = field(default_factory=dict)
    """Epoch, criterion's value and monitors of the selected weights; empty before the first monitored epoch."""

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
    chosen, run = choose_device(device), Run.to_be(Path(out))
    data = experiment.data.load(data_dir)
    initial, digest = _initial(experiment)
    training = _prepare(
        experiment, run, data, chosen, progress or Progress(), initial
    )  # refuses what does not fit before the folder exists
    about = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"poise": __version__, "torch": torch.__version__},
        "device": device_name(chosen),
        "imports": imports or {},
        "data_notes": list(data.notes),
        "initial_digest": digest,
    }
    run.create(experiment, about)
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
    run = Run.open(out)
    experiment, about, progress = run.experiment, run.about, progress or Progress()
    run.check_unchanged(about)
    for path, digest in about.get("imports", {}).items():
        if digest not in (imports or {}).values():
            progress.say(f"{path} is not the file that the run was started with (its SHA-256 was {digest[:12]}...)")
    run.sweep()
    found = run.newest_state()
    initial, digest = _initial(experiment) if found is None else (None, about.get("initial_digest"))
    if digest != about.get("initial_digest"):
        raise RunError(f"Experiment.initial = {experiment.initial!r} was changed since the run was started; start a new run instead")
    training = _prepare(experiment, run, experiment.data.load(data_dir), choose_device(device), progress, initial)
    if found is not None:
        state, facts, warnings = found
        for warning in warnings:
            progress.say(warning)
        run.check_unchanged(facts)
        _restore(training, state, facts)
    run.truncate_metrics(training.step)
    _epochs(training)
    return run


def finished(run: Run) -> bool:
    """Whether the run has trained all its epochs."""
    return facts_file(run.weights_path("last")).exists()


def _prepare(
    experiment: Experiment, run: Run, data: Data, device: torch.device, progress: Progress, initial: dict[str, Tensor] | None
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
    learners = method.learners(build)
    feeds = {name: Feed(stream, training_split, experiment.seed, device, arithmetic.dtype) for name, stream in method.streams().items()}
    return Training(experiment, run, data, splits, feeds, learners, arithmetic, progress)


def _epochs(training: Training) -> None:
    """The loop: steps; monitors, selection, one line of metrics and a checkpoint at the end of every epoch."""
    experiment, run, progress = training.experiment, training.run, training.progress
    total = experiment.epochs * training.steps_per_epoch
    with stop_requested() as stop:
        while training.step < total:
            epoch, clock, images = training.now().epoch, time.perf_counter(), 0
            end = epoch * training.steps_per_epoch
            advance = progress.begin(f"{experiment.name} epoch {epoch}/{experiment.epochs}", end - training.step, "steps")
            while training.step < end:
                now = training.now()
                batches = {name: feed.batch(now) for name, feed in training.feeds.items()}
                training.meters.add(experiment.method.step(training.learners, batches, now))
                training.step += 1
                images += next(iter(batches.values())).total
                advance(1)
                if stop and training.step < end:  # after its last step the epoch is ended first
                    progress.end()
                    _save(training, training.step, for_good=False)
                    raise Interrupted(f"stopped at step {training.step} of {total}; to go on: poise train --resume {run.path}")
            progress.end()
            _end_epoch(training, epoch, images / (time.perf_counter() - clock))
    if not finished(run):
        network = experiment.method.deployed(training.learners)
        run.save_weights("last", network, _facts(training, experiment.epochs, {}))
    if stop:
        raise Interrupted(f"stopped when all {total} steps were done; to evaluate the run: poise evaluate {run.path}")


def _end_epoch(training: Training, epoch: int, images_per_second: float) -> None:
    experiment, run = training.experiment, training.run
    for learner in training.learners.values():
        learner.check_finite()
    line: dict[str, Any] = {"kind": "epoch", "epoch": epoch, "step": training.step}
    last = Now(epoch, training.step - 1, experiment.epochs, training.steps_per_epoch, experiment.seed)
    for name, learner in training.learners.items():
        line[f"learning_rate/{name}"] = learner.policy.optimizer.learning_rate * learner.policy.schedule.value(last)
    line |= moments(training.meters.means())
    training.meters = Meters()
    clock = time.perf_counter()
    final = epoch == experiment.epochs
    if final or epoch % experiment.monitor_every == 0 or epoch in experiment.keep_epochs:
        network = experiment.method.deployed(training.learners).eval()
        measured = {f"monitor/{monitor.name}": _measure(training, monitor, network) for monitor in experiment.monitors}
        line |= measured
        _select(training, epoch, network, measured)
        if final:
            run.save_weights("last", network, _facts(training, epoch, measured))
        if epoch in experiment.keep_epochs:
            run.save_weights(f"epoch {epoch}", network, _facts(training, epoch, measured))
    line |= {"images_per_second": images_per_second, "monitor_seconds": time.perf_counter() - clock}
    run.append_metrics(line)
    training.progress.epoch(epoch, experiment.epochs, {key: value for key, value in line.items() if isinstance(value, int | float)})
    for_good = epoch in experiment.keep_epochs
    if final or for_good or epoch % experiment.save_every == 0:
        _save(training, training.step, for_good)


def _measure(training: Training, monitor: Monitor, network: nn.Module) -> float:
    split = training.splits[monitor.split]
    if monitor.first is not None:
        split = split.first(min(monitor.first, len(split)))
    if monitor.attack is None:
        return accuracy(predict(network, split), split)
    return accuracy(predict_under(network, split, monitor.attack, seed=training.experiment.seed), split)


def _select(training: Training, epoch: int, network: nn.Module, measured: dict[str, float]) -> None:
    """Keep these weights if the criterion says so; ties go to the later epoch."""
    experiment = training.experiment
    natural = next((measured[f"monitor/{monitor.name}"] for monitor in experiment.monitors if monitor.attack is None), 0.0)
    robust = next((measured[f"monitor/{monitor.name}"] for monitor in experiment.monitors if monitor.attack is not None), 0.0)
    value = {"sum": natural + robust, "robust": robust, "last": float(epoch)}[experiment.criterion]
    allowed = natural >= experiment.natural_floor or experiment.criterion == "last"
    if not training.best or (allowed, value) >= (training.best["allowed"], training.best["value"]):
        training.best = {"epoch": epoch, "value": value, "allowed": allowed, "monitors": measured}
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
    state = {f"learner/{name}/{key}": tensor for name, learner in training.learners.items() for key, tensor in learner.state().items()}
    state |= {f"meter/{name}": value for name, value in training.meters.sums.items()}
    experiment = training.experiment
    facts = {"meter_steps": training.meters.steps, "best": training.best, "group": experiment.group, "seed": experiment.seed}
    training.run.save_state(step, state, facts, experiment.keep_last, for_good)


def _restore(training: Training, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
    device = training.arithmetic.device
    for name, learner in training.learners.items():
        prefix = f"learner/{name}/"
        learner.load_state({key.removeprefix(prefix): value.to(device) for key, value in state.items() if key.startswith(prefix)})
    sums = {key.removeprefix("meter/"): value.to(device) for key, value in state.items() if key.startswith("meter/")}
    training.step, training.meters, training.best = facts["step"], Meters(sums, facts["meter_steps"]), facts["best"]


def choose_device(name: str) -> torch.device:
    """ "auto" is the first GPU, else the CPU. Raises: SettingsError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
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
