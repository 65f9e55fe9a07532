"""A run in progress: what is fixed, what moves, how it is begun, written down and read back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from poise.attacks import Attack
from poise.core.batches import Now
from poise.core.distributed import ALONE, World
from poise.core.errors import CheckpointError, Interrupted, NotFiniteError, NumericalError, SettingsError
from poise.core.files import digest_of_file
from poise.core.finite import not_finite
from poise.core.progress import Progress
from poise.core.transfers import fetched
from poise.data import Data, Feed, Split, held_out
from poise.data.extra import OpenedPool
from poise.engine.callbacks import Callbacks
from poise.engine.checkpoints import fitting, foreign_weights, load_into
from poise.engine.diagnostics import searching
from poise.engine.experiment import Experiment
from poise.engine.history import History
from poise.engine.placement import Placement, check_pieces, check_shares, placed
from poise.engine.ranks import whole_state
from poise.engine.runs import Run
from poise.engine.teachers import OpenedTeacher
from poise.engine.trial import try_own_objectives
from poise.learners import Learner, Policy
from poise.learners.compiled import compilation
from poise.learners.precision import Precision, PrecisionName, allowed, begun_in, choice, precision
from poise.methods import Method
from poise.models.heads import with_fresh_head

STATE = 2
"""What complete checkpoints hold; another number, and they cannot be gone on with."""


@dataclass
class Meters:
    """Sums over images of the step metrics of the epoch in progress; tensors, so that no step waits for the device."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    """Behind each sum."""

    def add(self, metrics: dict[str, Tensor], totals: Mapping[str, int]) -> None:
        """A step's metrics, each a mean over the images of its learner's batch. totals: images by stream; most learners
        have their own.
        """
        for name, value in metrics.items():
            count = totals.get(name.split("/")[1], next(iter(totals.values())))
            self.images[name] = self.images.get(name, 0) + count
            self.sums[name] = self.sums[name] + count * value if name in self.sums else count * value

    def means(self) -> dict[str, float]:
        """Over images, so that a short last batch counts for no more than its images."""
        names = sorted(self.sums)  # the same order after a resume
        sums = zip(names, fetched([self.sums[name] for name in names]), strict=True)
        return {name: float(total) / self.images[name] for name, total in sums}


@dataclass
class Training:
    """A run in progress: what is fixed (settings, data, feeds) and what moves (this rank's learners, step, meters, best
    epoch).
    """

    experiment: Experiment
    run: Run
    data: Data
    splits: dict[str, Split]
    feeds: dict[str, Feed]
    learners: dict[str, Learner]
    arithmetic: Precision
    progress: Progress
    placement: Placement
    placements: list[dict[str, Any]]
    """Facts of every placement that the run has had, each with the step `from` which it trained so."""
    step: int = 0
    """Steps done."""
    meters: Meters = field(default_factory=Meters)
    history: History = field(default_factory=History)
    callbacks: Callbacks = field(default_factory=Callbacks)
    previous: nn.Module | None = None
    """The deployed network of the last epoch's end, for `overfitting`; None where it is not known."""
    best: dict[str, Any] = field(default_factory=dict)
    """Epoch, criterion's value and monitors of the selected weights; empty before the first monitored epoch."""

    @cached_property
    def method(self) -> Method:
        """The experiment's method; where learners are diagnosed, or kept to be looked at, every one is trained
        throughout.
        """
        method, looked_at = self.experiment.method, self.experiment.diagnosis is not None or self.experiment.keep_epochs
        return method.diagnosed() if looked_at else method

    @property
    def steps_per_epoch(self) -> int:
        return max(feed.steps_per_epoch for feed in self.feeds.values())

    def now(self) -> Now:
        """The moment of the next step."""
        return self._at(self.step)

    @property
    def last(self) -> Now:
        """The moment of the last step that was done."""
        return self._at(max(0, self.step - 1))

    def _at(self, step: int) -> Now:
        per_epoch, experiment = self.steps_per_epoch, self.experiment
        return Now(step // per_epoch + 1, step, experiment.epochs, per_epoch, experiment.seed)

    @cached_property
    def group(self) -> str:
        """The run's, as it was when it was started."""
        return self.run.group if (self.run.path / "run.json").exists() else self.experiment.group

    @property
    def unbounded(self) -> list[str]:
        """Buffers that were infinite from the beginning."""
        return sorted({name for learner in self.learners.values() for name in learner.unbounded})

    def check_finite(self, now: Now) -> None:
        """Raises: NumericalError when anything that changes is not finite. now: the step after which, or in which, it
        was found.
        """
        for learner in self.learners.values():
            learner.check_finite(now)

    @contextlib.contextmanager
    def divergence_told(self, now: Now) -> Iterator[None]:
        """Whatever fails because training diverged is told as that. Raises: NumericalError, with epoch, learners and
        learning rates.
        """
        try:
            yield
        except Interrupted:
            raise
        except Exception as error:
            self.check_finite(now)
            if isinstance(error, NotFiniteError) or (
                isinstance(error, RuntimeError | OverflowError) and "overflow" in str(error)
            ):
                rates = ", ".join(
                    f"{name!r} of {learner.learning_rate(now):g}" for name, learner in self.learners.items()
                )
                reason = "training diverges, or its network cannot be evaluated"
                raise NumericalError(
                    f"epoch {now.epoch}: {reason}, at the learning rate of learner {rates}: {error}"
                ) from None
            raise


def divided(experiment: Experiment, data: Data) -> tuple[Split, Split]:
    """(the images to train on, those that weights are selected by)."""
    if experiment.selection == "held-out":
        return held_out(data.train, experiment.held_out, experiment.seed)
    return data.train, data.test


def prepare(
    experiment: Experiment,
    run: Run,
    data: Data,
    device: torch.device,
    progress: Progress,
    initial: dict[str, Tensor] | None,
    pools: Mapping[str, OpenedPool] | None = None,
    world: World = ALONE,
    begun: PrecisionName | None = None,
    teachers: Mapping[str, OpenedTeacher] | None = None,
) -> Training:
    """Data on the device, learners at their first step.

    begun: the arithmetic that run.json names, for a run that goes on; None for a new one, whose ranks choose together.
    Raises: SettingsError, InputError, CheckpointError for what does not fit."""
    protocol = experiment.protocol
    if protocol.first is not None and protocol.chosen == "first" and protocol.first > len(data.test):
        raise SettingsError(
            f"Protocol.first = {protocol.first}: must be at most {len(data.test)}, the number of test images"
        )
    arithmetic = (
        _chosen(experiment.precision, device, progress, world) if begun is None else begun_in(begun, device, run.path)
    )
    compiling = compilation(experiment.compile, device, progress.say)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not experiment.deterministic
    if device.type == "cuda":
        torch.use_deterministic_algorithms(experiment.deterministic, warn_only=True)
    if device.type == "cuda" and experiment.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first matrix product
        setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010  unknown to its stubs; nothing reads unwritten memory
    training_split, selection_split = divided(experiment, data)
    splits = {"train": training_split, "selection": selection_split, "test": data.test}

    def build(name: str, policy: Policy) -> Learner:
        network = experiment.model.build(data.shape, len(data.classes), experiment.seed)
        if initial is not None:
            weights, fresh = with_fresh_head(fitting(initial, network), network, len(data.classes))
            load_into(network, weights, str(experiment.initial))
            if fresh:
                progress.say(
                    f"{experiment.initial} is of a network with other classes, so {', '.join(fresh)} begin anew"
                )
        teacher_run = (teachers or {}).get(name)
        teacher = None if teacher_run is None else teacher_run.network.to(device, arithmetic.dtype)
        return Learner(
            name,
            policy,
            network.to(device, arithmetic.dtype),
            arithmetic=arithmetic,
            compilation=compiling,
            teacher=teacher,
        )

    method = experiment.method
    placement = placed(experiment.placement, method, world, experiment.diagnosis is not None, experiment.statistics)
    learners = placement.local(method.learners(build))
    method.check_networks(learners)
    attacks = [
        attack
        for attack in (*(monitor.attack for monitor in experiment.monitors), *protocol.attacks)
        if attack is not None
    ]
    for place in (*searching(method.policies()).values(), *attacks):
        place.threat.check_shape(data.shape)
    # of the whole network, of which a learner may train a member
    if any(type(attack).check is not Attack.check for attack in attacks):
        whole = experiment.model.build(data.shape, len(data.classes), experiment.seed)
        for attack in attacks:
            attack.check(whole)
    images = int(training_split.ids.max()) + 1
    for name, learner in learners.items():
        learner.remember_of(method.policies()[name].objective, images, data.shape, method.batch_size)
    extra = {name: pool.split for name, pool in (pools or {}).items()}
    feeds = {}
    for name, stream in method.streams().items():
        group = placement.group_of_stream(name) or ALONE
        part = {"rank": group.rank, "world": group.size, "pool": extra.get(name), "classes": len(data.classes)}
        feeds[name] = Feed(stream, training_split, experiment.seed, device, arithmetic.dtype, **part)
    check_shares(placement, method, feeds)
    check_pieces(placement, method, feeds, learners, data.shape)
    if world.size == 1:
        first = Now(1, 0, experiment.epochs, max(feed.steps_per_epoch for feed in feeds.values()), experiment.seed)
        try_own_objectives(learners, feeds, first)
    placements = [{"from": 0, **placement.facts}]
    return Training(experiment, run, data, splits, feeds, learners, arithmetic, progress, placement, placements)


def _chosen(name: PrecisionName, device: torch.device, progress: Progress, world: World) -> Precision:
    """The arithmetic of a new run, the same on all ranks: bfloat16 only where every one of them has it."""
    arithmetic = allowed(name, device)
    if len(set(world.exchange(arithmetic.name))) > 1:
        arithmetic = precision("float32", device)
    if sentence := choice(name, arithmetic):
        progress.say(sentence)
    return arithmetic


def save(training: Training, step: int, for_good: bool) -> None:
    """Write a complete checkpoint; of several ranks the first one does, once all have found at the epoch's end that
    theirs is finite.

    Raises: NumericalError for one that is not finite; what was saved before stays.
    """
    state = whole_state(training.placement, training.learners)
    if not training.placement.world.leads:
        return
    state = dict(zip(state, fetched(list(state.values())), strict=True))
    # asked of the host's copies, for which a GPU was waited for anyway
    if training.placement.world.size == 1 and not_finite(state):
        training.check_finite(training.last)
    state |= {f"meter/{name}": value for name, value in training.meters.sums.items()}
    experiment = training.experiment
    facts: dict[str, Any] = {
        "placements": training.placements,
        "meter_images": training.meters.images,
        "best": training.best,
        "group": training.group,
        "seed": experiment.seed,
        "state": STATE,
        "unbounded": training.unbounded,
        **training.history.facts(),
    }
    training.run.save_state(step, state, facts, experiment.keep_last, for_good)


def restore(training: Training, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Go on from what `save` wrote. Raises: CheckpointError for what another version wrote."""
    if facts.get("state") != STATE:
        raise CheckpointError(
            f"{training.run.path} was begun by another version of Poise, whose checkpoints this one cannot go on with"
        )
    device = training.arithmetic.device
    for name, learner in training.learners.items():
        prefix = f"learner/{name}/"
        learner.load_state(
            {key.removeprefix(prefix): value.to(device) for key, value in state.items() if key.startswith(prefix)}
        )
    sums: dict[str, Tensor] = {}
    for name, group in training.placement.groups.items():
        for key in (key for key in state if key.startswith((f"meter/loss/{name}/", f"meter/watch/{name}/"))):
            sum_ = state[key].to(device)
            # they are added up over ranks
            sums[key.removeprefix("meter/")] = sum_ if group.leads else torch.zeros_like(sum_)
    images = {name: facts["meter_images"][name] for name in sums}
    training.step, training.meters, training.best = facts["step"], Meters(sums, images), facts["best"]
    now = {**facts["placements"][-1], **training.placement.facts}
    training.history = History.of(facts)
    change = [] if now == facts["placements"][-1] else [{**now, "from": training.step}]
    training.placements = [*facts["placements"], *change]


def initial_weights(experiment: Experiment) -> tuple[dict[str, Tensor] | None, str | None]:
    """The weights that training starts from, None where the network begins by itself, and the digest of whichever file
    it begins with.
    """
    if experiment.initial is None:
        file = experiment.model.beginning()
        return None, None if file is None else digest_of_file(file)
    path = Path(experiment.initial)
    if path.is_dir():
        run = Run.open(path)
        return run.network().state_dict(), run.facts()["sha256"]
    return foreign_weights(path), digest_of_file(path)
