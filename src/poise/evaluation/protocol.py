"""A protocol: a named list of attacks with exact settings, run on every image of a split and written as a record."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from poise.attacks import Attack
from poise.core.callers import computed_plainly
from poise.core.distributed import ALONE, World
from poise.core.errors import InputError, PoiseError, SettingsError, did_you_mean
from poise.core.hardware import Hardware, hardware_of, joined
from poise.core.identity import identity
from poise.core.progress import Progress
from poise.core.records import EvaluationRecord
from poise.core.settings import Name, PositiveCount, Settings, settings, tag_of, to_json
from poise.core.version import __version__
from poise.data.dataset import Data, Split
from poise.evaluation.columns import Searching, columns_of, covered, foretold
from poise.evaluation.digests import digest_of, digest_of_images
from poise.evaluation.experts import natural_notes
from poise.evaluation.journal import Journal
from poise.evaluation.predictions import attacked, check_answers, device_of, predict
from poise.evaluation.subsets import WHOLE, published_subset
from poise.threats import Threat


@settings
class Protocol(Settings):
    """Attacks that are run one by one on every image; the worst case over all of them is taken per example.

    Wherever a protocol is expected its name may stand (`poise list protocols`): `protocol=zipper-linf`.
    """

    named: ClassVar[dict[str, Callable[..., Protocol]]] = {}
    """The named protocols, each under its paper's threat."""

    name: Name = "standard"
    attacks: tuple[Attack, ...] = ()
    first: PositiveCount | None = None
    """Only n images of the split; None takes all."""
    chosen: Literal["first", "dverge"] = "first"
    """Which n: the first ones, or those of 10,000 that DVERGE and Synergy-of-Experts take (`published_subset`).

    Of a split of another length "dverge" takes the first n, or all where it has fewer; the record says so.
    """
    note: str = ""
    """What a reader of its numbers must know; the record says it."""

    @classmethod
    def coerce(cls, value: object) -> object:
        """The protocol of that name. Raises: SettingsError for an unknown one."""
        if not isinstance(value, str) or value == cls.__name__:
            return value
        if value not in cls.named:
            raise SettingsError(f"there is no protocol {value!r}{did_you_mean(value, cls.named)}")
        return cls.named[value]()

    def __post_init__(self) -> None:
        if len(set(self.columns)) < len(self.columns):
            raise SettingsError(
                f"Protocol.attacks = {self.columns}: every attack must have another name, norm or epsilon"
            )

    @property
    def columns(self) -> list[str]:
        """What each attack is called in records: its name; where several have it with their norm, if there are several,
        and epsilon.
        """
        names = [attack.name for attack in self.attacks]
        norms = {name: {type(rival.threat) for rival in self.attacks if rival.name == name} for name in names}
        return [
            f"{name} at {within(attack.threat, norm=len(norms[name]) > 1)}" if names.count(name) > 1 else name
            for name, attack in zip(names, self.attacks, strict=True)
        ]

    def images(self, split: Split) -> Split:
        """The images that are evaluated. Raises: InputError for more than there are."""
        if self.first is None:
            return split
        if self.chosen == "first" and self.first > len(split):
            raise InputError(
                f"{self.name} takes the first {self.first:,} images, but there are {len(split):,}; give fewer with"
                " --first"
            )
        if self.chosen == "first":
            return split.first(self.first)
        return published_subset(split, self.first) if len(split) == WHOLE else split.first(min(self.first, len(split)))

    def forwards(self, images: int) -> float:
        """About what an evaluation of so many images costs, of which no more than `first` are taken."""
        count = images if self.first is None else min(self.first, images)
        return count * (1 + sum(attack.forwards() for attack in self.attacks if attack not in covered(self.attacks)))

    def instead(self, split: Split) -> str:
        """A sentence where `images` cannot be those that the protocol's paper chose; else empty."""
        if self.first is None or self.chosen == "first" or len(split) == WHOLE:
            return ""
        count = min(self.first, len(split))
        images_text = f"all {count:,}" if count == len(split) else f"the first {count:,} of {len(split):,}"
        return f"the published images are chosen from {WHOLE:,} test images; here {images_text} are evaluated"


def within(threat: Threat, *, norm: bool) -> str:
    """Epsilon in four digits, after the norm where that is to be said."""
    return f"{tag_of(threat)} {threat.epsilon:.4g}" if norm else f"{threat.epsilon:.4g}"


LONG = 60.0
"""Seconds from which on an evaluation says before it begins how long it will take."""


@computed_plainly
def evaluate(
    model: nn.Module,
    data: Data,
    protocol: Protocol,
    *,
    split: Split | None = None,
    split_name: str = "test",
    seed: int = 0,
    batch_size: int = 256,
    progress: Progress | None = None,
    journal: Path | None = None,
    out: Path | None = None,
    named: str = "",
    trained_with: int = 0,
    world: World = ALONE,
    search: Searching = Searching(),
    **about: Any,
) -> EvaluationRecord:
    """Run the protocol on `data.test` (or `split`) and write down every prediction.

    batch_size: of attacks other than AutoAttack and its components, which go by `search`. progress: is told how far
    it is, each rank's of its own share; one that raises Interrupted stops the evaluation at once, with what AutoAttack
    has found until then kept too. journal: a folder that keeps what is finished, so that an evaluation killed and
    started again goes on; it is removed once the record is written to `out`.
    world: ranks that call this together (`poise.core.distributed.join()`) share the work, and each returns the record
    that one rank
    alone would: of AutoAttack and its components they take images, of everything else whole batches.
    seed: of the attacks' draws. named: the record's display name; trained_with: the seed of the training run; about:
    the record's other
    fields that say what was evaluated: checkpoint, run, group, notes.
    Raises: InputError for a network or images that do not fit, before the first column; StorageError where `journal`
    cannot be written.
    """
    clock = time.perf_counter()
    whole, progress = split if split is not None else data.test, progress or Progress()
    search = search.on(device_of(model)[0])
    classes = check_answers(model, data)
    if data.remark:
        progress.say(data.remark)
    for attack in protocol.attacks:
        attack.check(model)
        attack.check_classes(classes)
        attack.threat.check_shape(data.shape)
    split, instead = protocol.images(whole), protocol.instead(whole)
    if instead:
        progress.say(instead)
    progress.stage("", "evaluation", protocol.forwards(len(split)) / world.size)
    settings_asked = [identity(to_json(attack)) for attack in protocol.attacks]
    facts = {"model": digest_of(model), "images": digest_of_images(split), "attacks": settings_asked, "seed": seed}
    progress.begin("natural images", 0, "", len(split) / world.size)
    record = about_record(model, data, split, facts["model"], batch_size, {**about, "seed": trained_with}, world)
    progress.end()
    seconds = _seconds_of_forward(model, split, batch_size)
    if protocol.forwards(len(split)) * seconds / world.size >= LONG:
        progress.say(foretold(protocol.attacks, len(split), seconds / world.size))
    # equal weights may be used by another forward
    answers = hashlib.sha256(json.dumps(record["natural"]).encode()).hexdigest()
    of = {**facts, "natural": answers, "search": search.precision, "poise": __version__}
    processors = processors_of(model, world)
    journal_kept = world.in_turn(lambda: Journal(journal, of, processors))
    if journal_kept.dropped:
        progress.say(
            "what was kept here of an unfinished evaluation is of other weights, images, attacks or versions; it begins"
            " anew"
        )
    options: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "world": world, "search": search}
    try:
        attacks = columns_of(model, split, protocol.attacks, journal=journal_kept, progress=progress, **options)
    except PoiseError:
        if world.leads:
            journal_kept.drop_if_empty()
        raise
    for sentence in journal_kept.damaged:
        progress.say(sentence)
    note = "; ".join(filter(None, (protocol.note, instead)))
    record["notes"] |= {"images": facts["images"], **({"protocol": note} if note else {})}
    record |= {
        "model": named or type(model).__name__,
        "evaluation_seed": seed,
        "split": split_name,
        "protocol": protocol.name,
    }
    attacks = [
        dataclasses.replace(column, name=name, notes=column.notes | attack.facts(model))
        for name, column, attack in zip(protocol.columns, attacks, protocol.attacks, strict=True)
    ]
    # some may be of an earlier session
    seconds = max(time.perf_counter() - clock, sum(column.seconds for column in attacks))
    result = EvaluationRecord(**record, attacks=attacks, seconds=seconds, evaluated_on=journal_kept.processors)
    finish(result, out, journal_kept, world)
    return result


def _seconds_of_forward(model: nn.Module, split: Split, batch_size: int) -> float:
    """Of one image, asked with as many others as the attacks do, the second time."""
    part = split.first(min(len(split), batch_size))
    clock = time.perf_counter()
    predict(model, part, batch_size)
    return (time.perf_counter() - clock) / len(part)


def finish(made: EvaluationRecord, out: Path | None, kept: Journal, world: World) -> None:
    """Write the record, then remove what it was made of: whatever ends the process before loses nothing."""
    world.exchange("")  # no rank reads the journal any more

    def write() -> None:
        if out is not None:
            made.write(out)
        kept.close()

    world.led(write)


def about_record(
    model: nn.Module,
    data: Data,
    split: Split,
    digest: str,
    batch_size: int,
    about: dict[str, Any],
    world: World = ALONE,
) -> dict[str, Any]:
    """The fields of a record that do not depend on attacks, with the predictions on the natural images; `about` goes
    first.
    """
    device, _ = device_of(model)
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "model_digest": digest,
        "dataset": data.name,
        "classes": list(data.classes),
        "labels": split.labels.tolist(),
        "natural": predict(model, split, batch_size, world).tolist(),
        "device": device_name(device),
        "versions": {
            "poise": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            **data.versions,
        },
        "checkpoint": "",
        "run": "",
        "group": "",
        "seed": 0,
        **about,
        "notes": {**about.get("notes", {}), **natural_notes(model, split, batch_size, world)},
    }


def processors_of(model: nn.Module, world: World) -> list[Hardware]:
    """What the network is evaluated on, by all ranks."""
    device, dtype = device_of(model)
    processor = dataclasses.asdict(hardware_of(device, str(dtype).removeprefix("torch.")))
    return joined(Hardware(**json.loads(text)) for text in world.exchange(json.dumps(processor)))


def gallery(model: nn.Module, split: Split, attack: Attack, *, seed: int = 0, count: int = 12) -> dict[str, np.ndarray]:
    """Images, adversarial images and both predictions for the first `count` examples, for the report."""
    part = split.first(min(count, len(split)))
    ((x_adv, adversarial),) = attacked(model, part, attack, seed=seed, batch_size=len(part))

    def plain(tensor: Tensor) -> np.ndarray:
        return tensor.detach().cpu().numpy()

    return {
        "x": plain(part.images),
        "x_adv": plain(x_adv.float()),
        "label": plain(part.labels),
        "natural": plain(predict(model, part)),
        "adversarial": plain(adversarial),
        "attack": np.array(attack.name),
    }


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"
