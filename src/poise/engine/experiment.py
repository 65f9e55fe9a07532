"""Experiment: the whole configuration of a run. It is written to the run folder, and what is written can be trained
again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal

from poise.attacks import Attack
from poise.core.code import in_doubt
from poise.core.errors import SettingsError
from poise.core.identity import BENCHMARKS, chosen_on_own_test_images
from poise.core.settings import Count, Name, PositiveCount, Settings, UnitInterval, from_json, newer, settings, to_json
from poise.core.wording import flatten
from poise.data import DataSource, Digits
from poise.engine.diagnostics import Diagnosis, searching
from poise.engine.given import only_one_seed
from poise.engine.overfitting import FallWatch
from poise.engine.placement import PlacementName
from poise.engine.published import Published, belongs, definition, fingerprint, outdated, retitled
from poise.engine.threat import VIEWS, assigned, say_change, short_of, threat_of, threats_apart, within
from poise.evaluation import Protocol
from poise.learners.compiled import CompileName
from poise.learners.precision import PrecisionName
from poise.learners.synchronised import Statistics
from poise.methods import Generalist, Joint, Method
from poise.models import DigitsCNN, Network
from poise.threats import Threat


def beginnings(part: object) -> Iterator[tuple[str, object, int]]:
    """What begins at an epoch of training, in a policy or a part of one: (setting's name, value, last 1-based epoch in
    it).

    GAIRAT, GAIR-RST, AWP, RWP and SWA have `from_epoch`, FAT has `tau_from`; what begins after the last epoch would be
    left out silently.
    """
    if not isinstance(part, Settings) or not dataclasses.is_dataclass(part):
        return
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if field.name in ("from_epoch", "tau_from"):
            yield f"{type(part).__name__}.{field.name}", value, max(value) if isinstance(value, tuple) else value
        else:
            yield from beginnings(value)


@settings
class Monitor(Settings):
    """A quantity measured on the deployed network while training: accuracy on a split, natural or under an attack."""

    name: Name = "natural"
    attack: Attack | None = None
    """None measures natural accuracy."""
    split: Literal["selection", "test", "train"] = "selection"
    """"selection" is the held-out part or the test set, as `Experiment.selection` says."""
    first: PositiveCount | None = None
    """Only the first n images; None takes all."""


@settings
class Experiment(Settings):
    """Everything that determines a training run."""

    views: ClassVar[tuple[str, ...]] = VIEWS
    name: Name = "experiment"
    """Of its folder in runs/, where no other is given; of its group."""
    title: str = ""
    """Name in tables and pages; empty: `name`."""
    data: DataSource = Digits()
    model: Network = DigitsCNN()
    method: Method = Joint()
    epochs: PositiveCount = 45
    seed: Count = 0
    selection: Literal["held-out", "test"] = "held-out"
    """Where the best epoch is chosen. "test" trains on all images and selects on the test set, as the papers did."""
    held_out: UnitInterval = 0.1
    """Share of the training images held out, by class, when `selection` is "held-out"."""
    criterion: Literal["sum", "robust", "last"] = "sum"
    """Best epoch: largest natural + robust accuracy, largest robust accuracy, or simply the last."""
    natural_floor: UnitInterval = 0.0
    """Epochs with less natural accuracy than this are chosen only where none reaches it; not asked with criterion
    "last".
    """
    monitors: tuple[Monitor, ...] = (Monitor(),)
    """The first one without attack is the criterion's natural accuracy, the first one with an attack its robust
    accuracy.
    """
    monitor_every: PositiveCount = 1
    diagnosis: Diagnosis | None = None
    """Measure the base learners too, at the end of every monitored epoch."""
    protocol: Protocol = Protocol()
    """The evaluation on the test set that ends the run."""
    overfitting: FallWatch | None = newer(default=FallWatch())
    """Watch for catastrophic overfitting after every epoch of a run that searches."""
    precision: PrecisionName = "auto"
    compile: CompileName = "auto"
    """Compile crafting and losses, and record crafting as a CUDA graph: "auto" does so on GPUs. What fails is said and
    done without.
    """
    keep_last: PositiveCount = 2
    """Number of complete checkpoints kept to go on from."""
    keep_epochs: tuple[PositiveCount, ...] = ()
    """Epochs whose complete checkpoint is kept for good; all learners are then trained throughout, none is left idle,
    so that each checkpoint holds what every learner had become."""
    save_every: PositiveCount = 1
    """Complete checkpoint every this many epochs; one is also written when training is asked to stop."""
    reestimate: Count = 0
    """Training images on which BatchNorm's running statistics of the deployed network are estimated anew; 0 keeps those
    averaged.
    Training is the same with it: learners that redistribution makes the global one take over the statistics that were
    averaged.
    """
    initial: str | None = None
    """A run folder or weights file to start from (fine-tuning); its digest is recorded."""
    placement: PlacementName = "auto"
    """Under torchrun: all learners on every rank, each with a part of the batch, or every learner on ranks of its own
    (with fewer ranks than learners, some share one)."""
    statistics: Statistics = "averaged"
    """Batch normalisation where several ranks share a learner. "local" and "averaged": over each rank's own part of a
    batch; the running statistics that are evaluated, saved and gone on with from an epoch's end are the first rank's,
    or their mean over the ranks. "synchronised": over the whole batch, with sums over the ranks in every forward, as
    one rank would do it."""
    deterministic: bool = True
    """On GPUs, use deterministic kernels, so that the same seed gives the same bits; an operation of which torch has
    none runs with its warning."""
    published: Published | None = None
    also_published: tuple[Published, ...] = ()
    """Rows of further tables that print the same run. They are shown, and no part of what the run is (see `group`)."""

    def __post_init__(self) -> None:
        names = [monitor.name for monitor in self.monitors]
        if len(set(names)) < len(names):
            raise SettingsError(f"Experiment.monitors = {names}: every monitor must have another name")
        if self.criterion != "last" and not any(monitor.attack is None for monitor in self.monitors):
            raise SettingsError(
                f"Experiment.criterion = {self.criterion!r}: needs a monitor without attack; add"
                " Monitor(name='natural')"
            )
        if self.criterion == "robust" and not any(monitor.attack is not None for monitor in self.monitors):
            raise SettingsError("Experiment.criterion = 'robust': needs a monitor with an attack")
        if any(epoch > self.epochs for epoch in self.keep_epochs):
            raise SettingsError(f"Experiment.keep_epochs = {self.keep_epochs}: must be at most epochs = {self.epochs}")
        self.method.check(self.epochs)
        for name, policy in self.method.policies().items():
            for setting, value, begins in beginnings(policy):
                if begins > self.epochs:
                    rule = f"must be at most epochs = {self.epochs}; begin earlier or set epochs to {begins} or more"
                    raise SettingsError(f"learner {name!r}: {setting} = {value}: {rule}")
        if self.selection == "held-out" and not 0 < self.held_out < 1:
            raise SettingsError(f"Experiment.held_out = {self.held_out}: must be above 0 and below 1")

    @property
    def judges(self) -> list[Attack]:
        """The attacks of the monitors, then those of the protocol."""
        attacks = (monitor.attack for monitor in self.monitors if monitor.attack is not None)
        return [*attacks, *self.protocol.attacks]

    @property
    def threat(self) -> Threat:
        """The run's threat, in every place where it stands: `override(run, {"threat": L2(epsilon=.5)})` assigns it.

        Step sizes keep their share of epsilon; in another norm they become 2.5 epsilon / steps, at most epsilon. Places
        with other threats stay and are logged, as are steps that together are shorter than epsilon.
        Raises: SettingsError where nothing attacks, or learners train within several threats and the first judge in
        none.
        """
        return threat_of(self.method.policies(), self.judges)

    @property
    def epsilon(self) -> float:
        """The size of `threat`, assigned in the same way: `override(run, {"epsilon": 4 / 255})`."""
        return self.threat.epsilon

    def viewed(self, views: Mapping[str, Any]) -> Any:
        """With `threat` or `epsilon` assigned. Raises: SettingsError as `threat`, or for no such threat."""
        old = self.threat
        new = assigned(old, views)
        if new == old:
            return self
        result = within(self, old, new)
        say_change(result, old, new)
        return result

    def hand_on(self, new: Any) -> Any:
        """Once anything differs that defines the experiment it is another one: its title says which, and no published
        row is its own.

        By what else it is evaluated changes neither; the rows then say by what they were measured. On data of one's own
        no epoch is chosen by the test images because a paper did so on its.
        """
        kinds, rows = self._kinds != new._kinds, self.published is not None
        if definition(self) == definition(new):
            return new._measured_by(self.protocol) if new.protocol.attacks != self.protocol.attacks else new
        stale = new.title == self.title and (kinds or rows or outdated(self, new))
        title = retitled(self, new, kinds) if stale else new.title
        row = new.published if new.published != self.published else None
        theirs = type(self.data).__name__ in BENCHMARKS and type(new.data).__name__ not in BENCHMARKS
        selection: Any = "held-out" if theirs else new.selection
        return dataclasses.replace(new, title=title, published=row, also_published=(), selection=selection)

    @property
    def rows(self) -> tuple[Published, ...]:
        """The papers' rows that are this experiment's as it is: none that it carries from before it was changed."""
        return tuple(row for row in (self.published, *self.also_published) if row is not None and belongs(row, self))

    @property
    def label(self) -> str:
        """What tables and pages call it: its title or name, said to be changed where it carries a row that is no longer
        its own.
        """
        papers = [row for row in (self.published, *self.also_published) if row is not None]
        return (self.title or self.name) + (", changed" if papers and not self.rows else "")

    def bound(self) -> Experiment:
        """The same with its rows bound to it, so that they are told from those of whatever it is changed into."""
        digest = fingerprint(self)
        return self._with_rows(lambda row: dataclasses.replace(row, of=digest))

    def small_variant(self) -> Experiment:
        """The same, as what only shows that a recipe runs: no row of a paper is its own, and its title says so."""
        title = f"{self.title}, quick variant" if self.title and self.published is not None else self.title
        return dataclasses.replace(self, title=title, published=None, also_published=())

    def _measured_by(self, protocol: Protocol) -> Experiment:
        return self._with_rows(lambda row: dataclasses.replace(row, protocol=row.protocol or protocol))

    def _with_rows(self, change: Callable[[Published], Published]) -> Experiment:
        also = tuple(map(change, self.also_published))
        return dataclasses.replace(self, published=self.published and change(self.published), also_published=also)

    @property
    def _kinds(self) -> list[type]:
        return [type(self.method), *(type(policy.objective) for policy in self.method.policies().values())]

    @property
    def group(self) -> str:
        """The same for experiments that differ only by their seed: the name and a short digest of all other settings.

        What was printed counts, what is known of how it was measured does not.
        """
        data = to_json(self)
        del data["seed"], data["also_published"]
        for key in ("plus_minus", "protocol", "of"):
            (data["published"] or {}).pop(key, None)
        return f"{self.name}-{hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:8]}"


def remarks(experiment: Experiment) -> list[str]:
    """What is to be said before training: settings that are each right and together leave something out."""
    policies = experiment.method.policies()
    apart = threats_apart(policies, experiment.judges, experiment.diagnosis)
    searches = {f"learner {name!r}": search for name, search in searching(policies).items()}
    alone = [
        f"learner {name!r}: {type(policy.objective).__name__} asks a teacher and the policy names none, so the network"
        " is its own; set teacher=OwnAverage with an average, or teacher=Trained"
        for name, policy in policies.items()
        if policy.objective.asks_teacher and policy.teacher is None
    ]
    doubtful = [f"{doubt}: going on cannot check that it is the same" for doubt in in_doubt(experiment)]
    late = never_redistributed(experiment)
    return [
        *apart,
        *short_of(searches),
        *late,
        *chosen_on_the_test_set(experiment),
        *only_one_seed(experiment.model),
        *alone,
        *doubtful,
    ]


def chosen_on_the_test_set(experiment: Experiment) -> list[str]:
    """A sentence where the test images of one's own data choose the epoch that they then judge."""
    if not chosen_on_own_test_images(to_json(experiment)):
        return []
    return [
        "the epoch is chosen on the test images of your own data, so that accuracy on them flatters: better"
        " selection=held-out"
    ]


def check_readable(experiment: Experiment) -> None:
    """Raises: SettingsError for settings that could not be read again, such as those of a class that nobody
    registered.
    """
    try:
        from_json(Experiment, to_json(experiment))
    except SettingsError as error:
        advice = "a class of your own is registered by @poise.configurable"
        raise SettingsError(f"the settings could not be read again: {error}; {advice}") from None


def first_difference(begun: Experiment, other: Experiment) -> str:
    """The first setting, in the order of JSON, that is another one in `other`: its path and both values."""
    before, after = flatten(to_json(begun)), flatten(to_json(other))
    other_paths = [path for path in (*before, *after) if before.get(path) != after.get(path)]
    path = min(other_paths, key=lambda path: path == "title")  # the first, but a title follows from what else is other
    return f"{path} is {before.get(path, 'not there')} there and {after.get(path, 'not there')} here"


def never_redistributed(experiment: Experiment) -> list[str]:
    """A sentence where Generalist's learners would become the global one in an epoch that the run does not have."""
    method, epochs = experiment.method, experiment.epochs
    if not isinstance(method, Generalist) or method.redistribute == "never" or method.redistribution_epochs(epochs):
        return []
    value_text = (
        f"method.redistribute_every = {method.redistribute_every} and redistribute_from = {method.redistribute_from:g}"
    )
    advice = "lower one of them, or set method.redistribute=never"
    return [
        f"{value_text} leave no redistribution within epochs = {epochs}, so the base learners never become the global"
        f" one: {advice}"
    ]
