"""Which recipe to train for given images, network, device and time: what is known of its accuracy, and from where, and
what it costs here.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from poise.core.errors import SettingsError, did_you_mean
from poise.core.progress import clock
from poise.core.settings import number, registered, spelled
from poise.data import Data, DataSource
from poise.data.downloads import PublishedSource
from poise.engine.devices import choose_device
from poise.engine.experiment import Experiment
from poise.engine.own_weights import data_named
from poise.evaluation.protocol import device_name
from poise.learners.costs import forwards
from poise.models import Network, Shape
from poise.objectives import AT
from poise.recipes import recipes
from poise.recipes.evidence import Evidence, evidence_of
from poise.threats import Threat
from poise.verbs.images import Images, data_of
from poise.verbs.of_run import threat_of
from poise.verbs.results import Answer, Sheet
from poise.verbs.train import experiment_of
from poise.zoo import zoo

SIZES: Mapping[str, tuple[Shape, int, int]] = {
    "CIFAR10": ((3, 32, 32), 10, 50_000),
    "CIFAR100": ((3, 32, 32), 100, 50_000),
    "SVHN": ((3, 32, 32), 10, 73_257),
    "MNIST": ((1, 28, 28), 10, 60_000),
    "TinyImageNet": ((3, 64, 64), 200, 100_000),
}
"""Shape, classes and training images of data sets that need not be here to be asked about."""
SHOWN = 3
_MEASURED = 8
"""Images of the measured step."""
_FEWEST = 5
"""Epochs below which training is not worth advising."""


@dataclass(frozen=True)
class Choice:
    """A recipe for these images. epochs: those that fit into the time; whole: those of the recipe; seconds: of the
    former; evidence: what is known, at `whole` epochs.
    """

    recipe: str
    title: str
    network: str
    epochs: int
    whole: int
    seconds: float
    evidence: Evidence | None
    command: str

    @property
    def fits(self) -> bool:
        return self.epochs == self.whole


@dataclass(frozen=True)
class Advice(Answer):
    """The first choice is what is advised; notes say what it rests on and what nobody knows."""

    choices: tuple[Choice, ...]
    notes: tuple[str, ...]

    @property
    def command(self) -> str:
        return self.choices[0].command

    def sheet(self) -> Sheet:
        heads = ["recipe", "network", "epochs", "natural", "robust", "by", "time here"]
        rows = []
        for choice in self.choices:
            evidence = choice.evidence
            cells = ["?", "?", "no record"]
            if evidence is not None:
                cells = [f"{evidence.natural:.2f}", f"{evidence.robust:.2f}", evidence.column]
            epochs = f"{choice.epochs}" if choice.fits else f"{choice.epochs} of {choice.whole}"
            cost = clock(choice.seconds)
            rows.append([choice.recipe, choice.network, epochs, *cells, cost])
        sources = [
            f"{choice_each.recipe}: {choice_each.evidence.source}"
            for choice_each in self.choices
            if choice_each.evidence is not None
        ]
        return Sheet(heads, rows, [f"advised: {self.command}", *self.notes, *sources])

    def lines(self) -> list[dict[str, Any]]:
        rows = []
        for choice in self.choices:
            evidence = dataclasses.asdict(choice.evidence) if choice.evidence is not None else {}
            rows.append({**dataclasses.asdict(choice), "evidence": None, **evidence})
        return rows


def advise(
    data: Images,
    network: str | None = None,
    *,
    hours: float | None = None,
    threat: str | None = None,
    epsilon: Any = None,
    device: str = "auto",
    data_dir: str | Path | None = None,
) -> Advice:
    """The recipe to train: what `poise advise` says.

    data: a data set's name, or images of one's own (see `data_of`). network: a registered one's name, by default
    whichever is known best. hours: at most, of training on this device; without it the recipe's own epochs. threat,
    epsilon: by default those that most recipes for the data set have. Expected accuracies are records', never guesses:
    where there is none, none is given. Raises: SettingsError, DataError.
    """
    if hours is not None and not hours > 0:
        raise SettingsError(f"hours = {hours:g}: must be more than 0")
    networks = registered(Network)  # type: ignore[type-abstract]
    if network is not None and network not in networks:
        raise SettingsError(f"there is no network {network!r}{did_you_mean(network, networks)}")
    place = choose_device(device)
    pace = _Pace(place)
    limit = None if hours is None else 3600 * hours
    name = data if isinstance(data, str) else type(data).__name__
    candidates = list(_candidates(name, network)) if name in registered(DataSource) else []  # type: ignore[type-abstract]
    if not candidates:
        return _of_own(data, network, limit, threat, epsilon, pace, data_dir)
    candidates_within, within = _within(candidates, threat, epsilon)
    if not candidates_within:
        threats_text = ", ".join(sorted({_said(threat_of(candidate)) for _, candidate, _ in candidates}))
        raise SettingsError(
            f"no recipe for {name} within that threat has a record; there are some within {threats_text}"
        )
    size = _size(candidates_within[0][1], data_dir)
    candidates_within.sort(key=lambda each: (each[2].strong, each[2].robust), reverse=True)
    choices: list[Choice] = []
    for recipe, candidate, evidence in candidates_within:
        choices.append(_choice(recipe, candidate, evidence, size, limit, pace))
        if sum(choice.fits for choice in choices) >= SHOWN:
            break
    choices.sort(key=lambda choice: not choice.fits)  # stable: the best known first
    if not choices[0].fits:
        choices.sort(key=lambda choice: choice.epochs / choice.whole, reverse=True)
    choices_shown = tuple(choices[:SHOWN])
    return Advice(choices_shown, (*_notes(choices_shown, within, hours, pace), *_trained(name, network)))


Candidate = tuple[str, Experiment, Evidence]


@lru_cache(maxsize=1)
def _known(names: tuple[str, ...]) -> list[Candidate]:
    """The recipes of which something is known, made."""
    experiments = {name: recipes()[name].make(False) for name in names}
    return [
        (name, experiment, rows[0])
        for name, experiment in experiments.items()
        if (rows := evidence_of(name, experiment))
    ]


def _candidates(data: str, network: str | None) -> Iterator[Candidate]:
    """Recipes for the data set of which something is known and that need nothing but it."""
    for name, experiment, evidence in _known(tuple(recipes())):
        model = type(experiment.model).__name__
        if type(experiment.data).__name__ != data or (network is not None and model != network):
            continue
        if experiment.initial is None and not any(policy.extra for policy in experiment.method.policies().values()):
            yield name, experiment, evidence


def _within(candidates: list[Candidate], kind: str | None, epsilon: Any) -> tuple[list[Candidate], Threat]:
    """Those under the threat that is asked for, else under the commonest."""
    threats = [threat_of(candidate) for _, candidate, _ in candidates]
    common = Counter(map(_said, threats)).most_common(1)[0][0]
    usual = next(threat for threat in threats if _said(threat) == common)
    if kind is not None and kind not in registered(Threat):  # type: ignore[type-abstract]
        raise SettingsError(f"there is no threat {kind!r}{did_you_mean(kind, registered(Threat))}")  # type: ignore[type-abstract]
    norm = kind or type(usual).__name__
    size: Any = usual.epsilon if epsilon is None and norm == type(usual).__name__ else number(epsilon)
    fitting = [
        each
        for each, threat in zip(candidates, threats, strict=True)
        if type(threat).__name__ == norm and (size is None or abs(threat.epsilon - float(size)) < 1e-3)
    ]
    return fitting, (threat_of(fitting[0][1]) if fitting else usual)


def _said(threat: Threat) -> str:
    return f"{type(threat).__name__} {threat.epsilon:.2g}"


def _size(made: Experiment, data_dir: str | Path | None) -> tuple[Shape, int, int]:
    """(shape, classes, training images), without fetching anything."""
    name = type(made.data).__name__
    if name in SIZES:
        return SIZES[name]
    source: DataSource = made.data
    if isinstance(source, PublishedSource):
        source = dataclasses.replace(source, download=False)
    return _size_of(source.load(Path(data_dir) if data_dir is not None else None))


def _size_of(data: Data) -> tuple[Shape, int, int]:
    return data.shape, len(data.classes), len(data.train)


class _Pace:
    """Seconds of a forward of one image through a network here, measured once for each."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.known = device, dict[Any, float]()

    def seconds(self, made: Experiment, size: tuple[Shape, int, int], epochs: int) -> float:
        """Of all training steps of so many epochs."""
        shape, classes, images = size
        limit = getattr(made.data, "train_images", None)
        count = min(images, limit) if isinstance(limit, int) else images
        count = count if made.selection == "test" else round(count * (1 - made.held_out))
        cost = sum(forwards(policy) for policy in made.method.policies().values())
        return epochs * count * cost * self._forward(made.model, shape, classes)

    def _forward(self, model: Network, shape: Shape, classes: int) -> float:
        key = (repr(model), shape, classes)
        if key not in self.known:
            network = model.build(shape, classes, 0).to(self.device)
            x = torch.rand(_MEASURED, *shape, device=self.device)
            self._step(network, x)
            began = time.perf_counter()
            self._step(network, x)
            self.known[key] = (time.perf_counter() - began) / (3 * _MEASURED)
        return self.known[key]

    def _step(self, network: nn.Module, x: torch.Tensor) -> None:
        """A forward and its backward, which are three."""
        network(x).sum().backward()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _choice(
    name: str, made: Experiment, evidence: Evidence, size: tuple[Shape, int, int], limit: float | None, pace: _Pace
) -> Choice:
    epoch_seconds = pace.seconds(made, size, 1)
    epochs = made.epochs if limit is None else max(0, min(made.epochs, int(limit / epoch_seconds)))
    shorter = "" if epochs == made.epochs else f" epochs={epochs}" if epochs >= _FEWEST else " --quick"
    network = type(made.model).__name__
    return Choice(
        name, made.label, network, epochs, made.epochs, epochs * epoch_seconds, evidence, f"poise train {name}{shorter}"
    )


def _notes(shown: tuple[Choice, ...], within: Threat, hours: float | None, pace: _Pace) -> Iterator[str]:
    first = shown[0]
    norm, size = type(within).__name__, spelled(within.epsilon)
    yield (
        f"Accuracies in percent under attack within {norm} {size}, as their source has them; time is estimated from a"
        f" measured step of {_MEASURED} images on this machine ({device_name(pace.device)}), evaluation apart."
    )
    if hours is not None and first.epochs < _FEWEST:
        yield (
            f"{hours:g} h are enough for {first.epochs} of {first.whole} epochs, which teach next to nothing: take a"
            " smaller network or fewer images, another device, or more time."
        )
    elif not first.fits:
        yield (
            f"The accuracies are of {first.whole} epochs, of which {hours:g} h allow {first.epochs}: expect less; how"
            " much, nobody measured."
        )
    if not all(choice.evidence is not None and choice.evidence.strong for choice in shown):
        yield "Robust accuracy that is not AutoAttack's is an upper bound of it."


def _trained(data: str, network: str | None) -> Iterator[str]:
    """Networks that come trained on the data set, with what their records say."""
    for name, entry in zoo().items():
        experiment, record = entry.experiment, entry.record
        if type(experiment.data).__name__ == data and network in (None, type(experiment.model).__name__):
            natural, robust = 100 * record.natural_accuracy, 100 * record.worst_case_accuracy
            yield (
                f"zoo:{name} is trained already: natural {natural:.2f}, worst case {robust:.2f} on {record.count}"
                f" images (poise show zoo:{name})."
            )


def _of_own(
    data: Images,
    network: str | None,
    limit: float | None,
    kind: str | None,
    epsilon: Any,
    pace: _Pace,
    data_dir: str | Path | None,
) -> Advice:
    """Adversarial training on images of which there are no records."""
    where = Path(data_dir) if data_dir is not None else None
    data_read = data_named(data, where) if isinstance(data, str) else data_of(data, where)
    size = _size_of(data_read)
    network_used = network or ("SmallCNN" if max(size[0][1:]) <= 28 else "ResNet18")
    own_settings: dict[str, Any] = {} if epsilon is None else {"epsilon": epsilon}
    if kind is not None:
        own_settings["threat"] = kind
    experiment = experiment_of(
        None, data=data, network=network_used, objective=AT, settings=own_settings, data_dir=where
    )
    epoch_seconds = pace.seconds(experiment, size, 1)
    epochs = experiment.epochs if limit is None else max(0, min(experiment.epochs, int(limit / epoch_seconds)))
    data_words = data if isinstance(data, str | Path) else "YOUR_DATA"
    words = [
        f"poise train --data {data_words} --model {network_used}",
        *(f"{name}={value}" for name, value in own_settings.items()),
    ]
    words += [f"epochs={max(epochs, 1)}"] if epochs != experiment.epochs else []
    choice = Choice("own", "AT", network_used, epochs, experiment.epochs, epochs * epoch_seconds, None, " ".join(words))
    within = threat_of(experiment)
    notes = [
        f"Nobody has a record of such images ({list(size[0])}, {size[1]} classes, {size[2]:,} to train on), so no"
        " accuracy is promised; AT is what every other method is compared with.",
        f"Within {type(within).__name__} {spelled(within.epsilon)}: choose the largest change that leaves your classes"
        " plain to you (epsilon=).",
        *list(_notes((choice,), within, None if limit is None else limit / 3600, pace))[1:-1],
    ]
    return Advice((choice,), tuple(notes))
