"""The training loop, readable from top to bottom: `train` makes a run, `resume` goes on with one, `_epochs` is the
loop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from poise.core.batches import Now
from poise.core.callers import computed_plainly
from poise.core.distributed import World, first_to_say, going_on, join
from poise.core.errors import CheckpointError, DataError, Interrupted, NumericalError, RunError, SettingsError
from poise.core.measures import FELL_FROM, MEASURED
from poise.core.processors import processor
from poise.core.progress import Progress, Unbroken
from poise.core.settings import whole
from poise.core.version import __version__
from poise.data import open_pools
from poise.engine import overfitting
from poise.engine.callbacks import Callback, Callbacks, check_callbacks
from poise.engine.checkpoints import facts_file, read_facts
from poise.engine.devices import choose_device
from poise.engine.experiment import Experiment, check_readable, first_difference, remarks
from poise.engine.given import as_begun, check_first_weights, first_weights, keep_first_weights
from poise.engine.history import processors_of
from poise.engine.mending import mend_selected
from poise.engine.monitoring import (
    check_monitors,
    deployed,
    facts_of,
    keep_last,
    monitor_epoch,
    monitored,
    monitoring_forwards,
    selected_before,
)
from poise.engine.placement import described, shares_changed
from poise.engine.ranks import epoch_facts
from poise.engine.runs import Run
from poise.engine.signals import stop_requested
from poise.engine.teachers import open_teachers
from poise.engine.training import STATE, Meters, Training, initial_weights, prepare, restore, save
from poise.evaluation.protocol import device_name
from poise.learners import Policy
from poise.learners.costs import forwards
from poise.learners.precision import PrecisionName
from poise.objectives.watch import moments


@computed_plainly
def train(
    experiment: Experiment,
    out: str | Path,
    *,
    device: str = "auto",
    data_dir: str | Path | None = None,
    imports: dict[str, str] | None = None,
    progress: Progress | None = None,
    until: int | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train a new run into the folder `out`, which must be empty or absent.

    imports: digest by path of the user's files that registered classes (recorded, never imported again by themselves).
    until: the last epoch that is trained now; what is left is gone on with by `resume`, to the bits of an unbroken run.
    callbacks: told of every epoch (their `end` is the caller's to call).
    Raises: RunError, DataError, SettingsError before any work; Interrupted after SIGINT or SIGTERM, with everything
    saved.
    """
    check_until(experiment, until)
    check_callbacks(callbacks)
    world, device_chosen = join(), choose_device(device)
    run = world.led(lambda: Run.to_be(Path(out))) or Run(Path(out))
    check_first_weights(experiment.model)
    check_readable(experiment)
    data = world.in_turn(lambda: experiment.data.load(data_dir))
    initial, digest = initial_weights(experiment)
    pools = world.in_turn(lambda: open_pools(experiment.method.streams(), data, data_dir))
    teachers = world.in_turn(lambda: open_teachers(experiment, data))
    # refuses what does not fit before the folder exists
    training = prepare(
        experiment, run, data, device_chosen, _drawn(progress, world), initial, pools, world, teachers=teachers
    )
    check_monitors(experiment, training.splits)
    about = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"poise": __version__, "torch": torch.__version__, **data.versions},
        "device": device_name(device_chosen),
        "processor": str(processor()),
        "precision": training.arithmetic.name,
        "imports": imports or {},
        "data_digest": data.digest,
        "data_notes": [*data.notes, *dict.fromkeys(pool.note for pool in pools.values())],
        "pool_digests": {name: pool.digest for name, pool in pools.items()},
        "initial_digest": digest,
        **({"teacher_digests": {name: teacher.digest for name, teacher in teachers.items()}} if teachers else {}),
        "ranks": world.size,
        **({"placement": training.placement.facts} if world.size > 1 else {}),
    }
    with _alone(run, world):
        world.led(lambda: run.create(experiment, about))
        world.led(lambda: keep_first_weights(run.path, experiment.model))
        _begin_stretch(training)
        training.callbacks = Callbacks.of_all(callbacks, training.progress)
        for sentence in (*remarks(experiment), *filter(None, [data.remark])):
            training.progress.say(sentence)
        _epochs(training, until)
    return run


@computed_plainly
def resume(
    out: str | Path,
    *,
    device: str = "auto",
    data_dir: str | Path | None = None,
    imports: dict[str, str] | None = None,
    progress: Progress | None = None,
    until: int | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Go on with a run from its newest readable checkpoint, to the same weights that it would have had unbroken.

    A finished run whose checkpoints were deleted, or are another version's, is left as it is. imports: as for `train`;
    a file that was changed since is said. until: as for `train`; a run that has trained as far is left as it is.
    Raises: RunError when experiment.json, the data or the initial weights were changed or another process trains the
    run, CheckpointError when every checkpoint is damaged or another version's.
    """
    run, world = Run.open(out), join()
    check_callbacks(callbacks)
    check_until(run.experiment, until)
    if world.decided(finished(run) and not any(map(_ours, run.states()))):  # nothing is left to do
        for checkpoint in ("selected", "last"):
            if why := run.whole(checkpoint):
                reason = f"the {checkpoint} weights cannot be used ({why})"
                _drawn(progress, world).say(f"{reason}, and no complete checkpoint is left to make them of")
        return run
    with _alone(run, world):
        training = _again(run, world, device, data_dir, imports or {}, _drawn(progress, world))
        training.callbacks = Callbacks.of_all(callbacks, training.progress)
        _epochs(training, until)
    return run


def train_or_resume(
    experiment: Experiment,
    out: str | Path,
    *,
    device: str = "auto",
    data_dir: str | Path | None = None,
    imports: dict[str, str] | None = None,
    progress: Progress | None = None,
    until: int | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """The experiment's run in `out`: begun where none lies there, gone on with where one was broken off, a finished one
    as it is.

    Raises: RunError naming the first difference where `out` holds a run of other settings or data, and what `train` and
    `resume` raise.
    """
    how: dict[str, Any] = {
        "device": device,
        "data_dir": data_dir,
        "imports": imports,
        "progress": progress,
        "until": until,
        "callbacks": callbacks,
    }
    world = join()
    if not world.decided((Path(out) / "experiment.json").exists()):
        return train(experiment, out, **how)
    run = Run.open(out)
    experiment_before = run.experiment
    experiment = dataclasses.replace(experiment, model=as_begun(experiment.model, experiment_before.model))
    if experiment_before != experiment:
        owner = (
            f"was started with other settings ({experiment_before.name}, seed {experiment_before.seed}):"
            f" {first_difference(experiment_before, experiment)}"
        )
        raise RunError(f"{out} {owner}; take another folder, or go on with it: poise train --resume {out}")
    complete = finished(run) and not any(run.whole(checkpoint) for checkpoint in ("selected", "last"))
    if not world.decided(complete):
        return resume(out, **how)
    with contextlib.suppress(DataError):  # what is finished stands without its images
        run.check_unchanged(data=world.in_turn(lambda: experiment.data.load(data_dir)))
    return run


def _again(
    run: Run, world: World, device: str, data_dir: str | Path | None, imports: dict[str, str], progress: Progress
) -> Training:
    """The training as its newest readable checkpoint left it."""
    experiment, about = run.experiment, run.about
    run.check_unchanged()
    for path, digest in about.get("imports", {}).items():
        if digest not in imports.values():
            progress.say(f"{path} is not the file that the run was started with (its SHA-256 was {digest[:12]}...)")
    world.led(run.sweep)
    newest, warnings = run.newest_state()
    for warning in warnings:
        progress.say(warning)
    initial, digest = initial_weights(experiment) if newest is None else (None, about.get("initial_digest"))
    initial = first_weights(run.path) if initial is None and newest is None else initial
    beginning = f"Experiment.initial = {experiment.initial!r}" if experiment.initial else "what the network begins with"
    _same(beginning, digest, about.get("initial_digest"))
    data = world.in_turn(lambda: experiment.data.load(data_dir))
    run.check_unchanged(data=data)
    if data.remark:
        progress.say(data.remark)
    pools = world.in_turn(lambda: open_pools(experiment.method.streams(), data, data_dir))
    for name, pool in pools.items():
        _same(f"the file of extra images {pool.origin}", pool.digest, about.get("pool_digests", {}).get(name))
    teachers = world.in_turn(lambda: open_teachers(experiment, data))
    for name, teacher in teachers.items():
        _same(f"the teacher {teacher.origin}", teacher.digest, about.get("teacher_digests", {}).get(name))
    device_chosen = choose_device(device)
    precision_before = about.get("precision", _unsaid(experiment, device_chosen))
    training = prepare(
        experiment, run, data, device_chosen, progress, initial, pools, world, precision_before, teachers
    )
    if newest is not None:
        state, facts = newest
        run.check_unchanged(facts)
        restore(training, state, facts)
        training.best = world.in_turn(lambda: selected_before(training))
        if training.step % training.steps_per_epoch == 0 and overfitting.watched(training):
            training.previous = deployed(training)
        if change := shares_changed(facts["placements"][-1]["shares"], training.placement, training.learners):
            progress.say(change)
    for sentence in world.led(lambda: run.truncate_metrics(training.step)) or []:
        progress.say(sentence)
    for sentence in mend_selected(training, newest) if newest is not None else ():
        progress.say(sentence)
    _begin_stretch(training)
    return training


def _unsaid(experiment: Experiment, device: torch.device) -> PrecisionName | None:
    """The arithmetic of a run whose run.json is older than the question: then "auto" was float32 on CPUs."""
    if experiment.precision != "auto":
        return experiment.precision
    return "float32" if device.type == "cpu" else None


def _begin_stretch(training: Training) -> None:
    """Note what is trained on from here, and say where that is not what it was."""
    placement = training.placement
    if change := training.history.begin(training.step, processors_of(placement.world, training.arithmetic)):
        training.progress.say(change)
    if placement.world.size > 1:
        training.progress.say(described(placement, training.method, training.learners))


def _same(what: str, digest: str | None, recorded: str | None) -> None:
    if digest != recorded:
        raise RunError(f"{what} was changed since the run was started; start a new run instead")


@contextlib.contextmanager
def _alone(run: Run, world: World) -> Iterator[None]:
    """Hold the run folder's lock: two processes that train one run would write over each other."""
    lock = world.led(run.lock)
    try:
        with going_on(
            f"what was saved is whole, and any number of ranks can go on from it: poise train --resume {run.path}"
        ):
            yield
    finally:
        if lock is not None:
            lock.release()


def _drawn(progress: Progress | None, world: World) -> Progress:
    """Only the first rank speaks."""
    return Unbroken(progress) if progress is not None and world.leads else Progress()


def _ours(checkpoint: Path) -> bool:
    """Whether a complete checkpoint is this version's; a damaged one may be."""
    try:
        return read_facts(checkpoint).get("state") == STATE
    except CheckpointError:
        return True


def finished(run: Run) -> bool:
    """Whether the run has trained all its epochs."""
    return facts_file(run.weights_path("last")).exists()


def check_until(experiment: Experiment, until: int | None) -> None:
    """Raises: SettingsError for an epoch that the run does not have."""
    if until is not None and not (whole(until) and 1 <= until <= experiment.epochs):
        raise SettingsError(f"until = {until!r}: must be an epoch of the run, 1 to {experiment.epochs}")


def _epochs(training: Training, until: int | None = None) -> None:
    """The loop: steps; monitors, selection, one line of metrics and a checkpoint at the end of every epoch."""
    experiment, run, progress, placement = training.experiment, training.run, training.progress, training.placement
    total = experiment.epochs * training.steps_per_epoch
    pause = total if until is None else until * training.steps_per_epoch
    announced, network = False, None
    step = _foretell(training, pause)
    with stop_requested() as stop:
        while training.step < pause:
            epoch, clock, images = training.now().epoch, time.perf_counter(), 0
            training.history.start_clock()
            end = epoch * training.steps_per_epoch
            count = end - training.step
            advance = progress.begin(f"epoch {epoch}/{experiment.epochs}", count, "steps", count * step)
            while training.step < end:
                now = training.now()
                batches = {
                    name: feed.batch(now) for name, feed in training.feeds.items() if placement.group_of_stream(name)
                }
                with training.divergence_told(now):
                    metrics = training.method.step(training.learners, batches, now)
                training.meters.add(metrics, {name: batch.total for name, batch in batches.items()})
                training.step += 1
                images += next(iter(batches.values())).total
                advance(1)
                if stop and placement.world.size > 1 and training.step < end and not announced:
                    announced = True
                    _say_when_ranks_stop(training, end)
                if stop and placement.world.size == 1 and training.step < end:
                    progress.end()
                    _save_and_stop(training, total)
            progress.end()
            with training.divergence_told(training.last):
                speed = images / (time.perf_counter() - clock)
                stopping, network = _end_epoch(training, epoch, speed, bool(stop), pausing=end == pause)
            if stopping and training.step < total:
                raise Interrupted(
                    f"stopped at step {training.step} of {total}; to go on: poise train --resume {run.path}"
                )
    if training.step < total:
        return
    if not placement.world.decided(finished(run) and not run.whole("last")):
        keep_last(training, deployed(training) if network is None else network)
    if any(placement.world.exchange("stop" if stop else "")):
        raise Interrupted(f"stopped when all {total} steps were done; to evaluate the run: poise evaluate {run.path}")


def _foretell(training: Training, end: int) -> float:
    """Say what is to come until step `end`, and of a whole run its evaluations; returns the cost of a step (see
    `Progress`).
    """
    experiment, progress = training.experiment, training.progress
    run_name = f"{experiment.name}, seed {experiment.seed}"
    last_epoch = end // training.steps_per_epoch
    for checkpoint in progress.evaluations:
        # of a paused run none; where the selected weights are the last ones, one
        if last_epoch < experiment.epochs or (checkpoint == "last" and experiment.criterion == "last"):
            continue
        progress.expect(
            f"{run_name} ({checkpoint})", "evaluation", experiment.protocol.forwards(len(training.data.test))
        )
    epochs = range(training.step // training.steps_per_epoch + 1, last_epoch + 1)
    monitoring = sum(monitored(experiment, epoch) for epoch in epochs) * monitoring_forwards(training)
    forwards_of_image = sum(map(_forwards, experiment.method.policies().values()))
    step = forwards_of_image * len(training.splits["train"]) / training.steps_per_epoch
    progress.stage(run_name, "training", (end - training.step) * step + monitoring)
    return step


def _forwards(policy: Policy) -> int:
    """An objective of the user's own that does not say what it costs is taken for PGD training in ten steps."""
    try:
        return forwards(policy)
    except SettingsError:
        return 23


def _save_and_stop(training: Training, total: int) -> NoReturn:
    """Raises: Interrupted; what is not finite is not saved, and then the last checkpoint before it stays the newest."""
    training.history.add(training.history.elapsed())
    going_on = f"to go on: poise train --resume {training.run.path}"
    try:
        save(training, training.step, for_good=False)
    except NumericalError as error:
        epoch_saved = next((path.name.removeprefix("step-").lstrip("0") for path in training.run.states()), None)
        where = (
            f"the last checkpoint, of step {epoch_saved}, stays" if epoch_saved else "no checkpoint was there before"
        )
        raise Interrupted(
            f"stopped at step {training.step} of {total}, which was not saved: {error}; {where}; {going_on}"
        ) from None
    raise Interrupted(f"stopped at step {training.step} of {total}; {going_on}")


def _say_when_ranks_stop(training: Training, end: int) -> None:
    """What torchrun has ended 30 s from now would otherwise end without a word; the first rank, which draws, may be
    gone already.
    """
    if first_to_say("when it stops"):
        sentence = (
            f"asked to stop at step {training.step}: ranks stop together at the end of their epoch, step {end}; where"
            " the job is ended before, what was saved is whole, and any number of ranks can go on from it: poise train"
            f" --resume {training.run.path}"
        )
        if type(training.progress) is Progress:  # says nothing
            with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
                print(f"poise: {sentence}", file=sys.stderr, flush=True)
        else:
            training.progress.say(sentence)


def _end_epoch(
    training: Training, epoch: int, images_per_second: float, stop: bool, pausing: bool
) -> tuple[bool, nn.Module | None]:
    """Returns whether any rank was asked to stop, and after the last epoch the deployed network."""
    experiment, run, world = training.experiment, training.run, training.placement.world
    means = training.meters.means()  # waits for the device
    means |= {"training_seconds": training.history.elapsed(), **overfitting.measured(training)}
    means, stopping = epoch_facts(world, training.learners, means, stop, training.last)
    training.history.add(means["training_seconds"])
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
    network = None
    if monitored(experiment, epoch):
        training.progress.begin(f"monitors of epoch {epoch}/{experiment.epochs}", 0, "", monitoring_forwards(training))
        measurements, network = monitor_epoch(training, last)
        training.progress.end()
        line |= measurements
    elif experiment.diagnosis is not None and experiment.diagnosis.geometry:
        line |= experiment.diagnosis.apart(training.learners, experiment.method.deployed(training.learners))
    line |= {"images_per_second": images_per_second, "monitor_seconds": time.perf_counter() - clock}
    if world.leads:
        line |= overfitting.told(training, epoch, line)
        if FELL_FROM in line and training.previous is not None:
            run.save_weights(f"epoch {epoch - 1}", training.previous, facts_of(training, epoch - 1, {}))
        run.append_metrics(line)
    if MEASURED in line:
        # where the network is spread over ranks, making it is an exchange of its own
        training.previous = deployed(training) if network is None and world.size == 1 else network
    training.progress.epoch(
        epoch, experiment.epochs, {key: value for key, value in line.items() if isinstance(value, int | float)}
    )
    for_good = epoch in experiment.keep_epochs
    if final or for_good or stopping or pausing or epoch % experiment.save_every == 0:
        save(training, training.step, for_good)
    training.callbacks.epoch(run, line)
    return stopping, network if final else None
