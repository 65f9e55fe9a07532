"""Evaluating a run: records, corruptions, galleries."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import shlex
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from poise.attacks import PGD, Attack, AutoAttack
from poise.attacks.autoattack.compact import CompactAttack
from poise.core.distributed import going_on, join
from poise.core.errors import DataError, Interrupted, RunError, SettingsError
from poise.core.files import check_writable, write_bytes
from poise.core.identity import identity
from poise.core.records import EvaluationRecord
from poise.core.settings import to_json
from poise.data import Data, Split
from poise.engine.devices import choose_device
from poise.engine.diagnostics import theory
from poise.engine.progress import Progress
from poise.engine.published import Published
from poise.engine.runs import Run
from poise.engine.signals import stop_requested
from poise.evaluation.columns import Searching, Watch
from poise.evaluation.corruption import evaluate_corruptions
from poise.evaluation.digests import digest_of, digest_of_images
from poise.evaluation.predictions import Advance, device_of, predict
from poise.evaluation.protocol import Protocol, evaluate, gallery

PROBED = 256
"""Images on which a network of other people's code is asked whether it is the one of a record."""
KEPT = "{} is there already, of the same weights, images and attacks; to evaluate anew: poise evaluate --again"


class Shown(Watch):
    """Draws an evaluation as progress; `title` says whose. Once `signals` are there it ends it, saying that `command` goes on."""

    def __init__(self, progress: Progress, title: str, command: str, signals: Sequence[int]) -> None:
        self.progress, self.title, self.command, self.signals = progress, title, command, signals

    def begin(self, name: str, count: int) -> Advance:
        advance = self.progress.begin(f"{self.title}: {name}", count, "images")

        def and_stop(done: int) -> None:
            advance(done)
            self._stop()

        return and_stop

    def note(self, text: str) -> None:
        self.progress.note(text)
        self._stop()

    def say(self, sentence: str) -> None:
        self.progress.say(f"{self.title}: {sentence}")

    def _stop(self) -> None:
        if self.signals:
            raise Interrupted(f"stopped, with what was found kept; to go on: {self.command}")


@contextlib.contextmanager
def shown(progress: Progress, title: str, command: str) -> Iterator[Shown]:
    """The watch of an evaluation that `command` goes on with, options aside, if a signal or another rank's end stops it."""
    hint = f"what was finished is kept, and as many ranks go on with it: {command}, with the same options"
    try:
        with going_on(hint), stop_requested() as signals:
            same = "the same options" if join().size == 1 else "the same options and as many ranks"
            yield Shown(progress, title, f"{command}, with {same}", signals)
    finally:
        progress.end()


@dataclass(frozen=True)
class Measurement:
    """What a record must say to be the record of these weights, images and attacks. One searched in float32 serves for any search."""

    weights: str
    images: str
    attacks: list[dict[str, Any]]
    search: str = "float32"
    answers: tuple[int, ...] = ()
    """What the network says of the first images, where its weights do not tell all of it."""

    @classmethod
    def of(cls, network: nn.Module, split: Split, attacks: tuple[Attack, ...], search: Searching = Searching()) -> Measurement:
        precision = search.on(device_of(network)[0]).precision
        return cls(digest_of(network), digest_of_images(split), [identity(to_json(attack)) for attack in attacks], precision)

    def answering(self, network: nn.Module, split: Split) -> Measurement:
        """The same for a network whose code is not Poise's: another forward of the same weights is another network."""
        return dataclasses.replace(self, answers=tuple(predict(network, split.first(min(PROBED, len(split)))).tolist()))

    def done(self, path: Path) -> EvaluationRecord | None:
        """The record at `path` if it is this measurement's; None for another one, a damaged one or none."""
        try:
            record = EvaluationRecord.read(path)
        except RunError:
            return None
        found = (record.model_digest, record.notes.get("images"), [identity(attack.settings) for attack in record.attacks])
        searched = {attack.notes.get("search", "float32") for attack in record.attacks} <= {"float32", self.search}
        answered = record.natural[: len(self.answers)] == list(self.answers)
        return record if searched and answered and found == (self.weights, self.images, self.attacks) else None

    def place(self, path: Path) -> Path:
        """`path`, or where a record of other attacks or images has taken it, one with a few digits more in its name."""
        try:
            record = EvaluationRecord.read(path)
        except RunError:
            return path
        same = (record.notes.get("images"), [identity(attack.settings) for attack in record.attacks]) == (self.images, self.attacks)
        return path if same else path.with_name(f"{path.stem}-{self.digits}.json")

    def check_free(self, out: Path, again: bool) -> None:
        """Raises: SettingsError where `out`, which a user named, is a record of something else, or none, and not to be replaced."""
        if not again and self.place(out) != out:
            raise SettingsError(f"{out} is a record of other images or attacks; give another --out, or --again to replace it")
        if not again:
            check_record(out)

    @property
    def digits(self) -> str:
        """A few that tell images and attacks apart, for names of files."""
        return hashlib.sha256(json.dumps([self.images, self.attacks], sort_keys=True).encode()).hexdigest()[:6]


def evaluate_run(
    run: Run,
    which: str = "selected",
    *,
    device: str = "auto",
    data_dir: Path | None = None,
    protocol: Protocol | None = None,
    progress: Progress | None = None,
    data: Data | None = None,
    other: Data | None = None,
    again: bool = False,
    search: Searching = Searching(),
    command: str = "",
) -> Path:
    """Run the experiment's protocol (or another) on the weights `which`; returns the path of the record.

    A record that is there already is kept unless `again`, and one of the same weights, images and attacks is copied; an evaluation
    that was stopped goes on. Under torchrun all ranks call this and share the work; the first one writes.
    data: the run's own, if it is at hand; other: other images to test on, of the same shape and classes; command: what goes on with it
    where a signal stops it, by default poise evaluate.
    Raises: RunError, CheckpointError, SettingsError, DataError, InputError, StorageError; Interrupted after SIGINT or SIGTERM.
    """
    world, experiment, protocol = join(), run.experiment, protocol or run.experiment.protocol
    progress = progress if progress is not None and world.leads else Progress()
    suffix = ("" if protocol == experiment.protocol else f"-{protocol.name}") + ("" if other is None else f"-on-{other.name}")
    path = run.path / "records" / f"{which.replace(' ', '_')}{suffix}.json"
    check_writable(path)
    network, about = run.network(which).to(choose_device(device)), _about(run, which, other)
    data = _fitting(run, which, other) if other is not None else data or world.in_turn(lambda: experiment.data.load(data_dir))
    about["notes"]["data"] = list(data.notes)
    wanted = Measurement.of(network, protocol.images(data.test), protocol.attacks, search)
    journal = journal_of(path, wanted)
    path = wanted.place(path) if suffix else path
    command = command or f"poise evaluate {run.path}{f' --checkpoint {shlex.quote(which)}' if which != 'selected' else ''}"
    with shown(progress, f"{experiment.name}, seed {experiment.seed} ({which})", command) as watch:
        same = None if again else next(filter(None, map(wanted.done, sorted(path.parent.glob("*.json")))), None)
        if world.decided(not again and wanted.done(path) is not None):
            progress.say(KEPT.format(path))
        elif world.decided(same is not None):
            made = same and dataclasses.replace(same, checkpoint=which, protocol=protocol.name)
            world.led(lambda: made and made.write(path))
        else:
            about |= {"watch": watch, "named": experiment.label}
            evaluate(network, data, protocol, journal=journal, out=path, world=world, search=search, **about)
        if protocol.attacks and not suffix:
            world.led(lambda: None if watch.signals else _write_gallery(run, which, network, data, protocol, again))
    return path


def corrupt_run(
    run: Run,
    folder: Path,
    which: str = "selected",
    *,
    device: str = "auto",
    data_dir: Path | None = None,
    first: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Mean accuracy over the common corruptions in `folder` (see `evaluate_corruptions`), as a record of the run.

    Under torchrun all ranks call this and share the work.
    Raises: RunError, CheckpointError, SettingsError, DataError, StorageError; Interrupted after SIGINT or SIGTERM.
    """
    world, experiment = join(), run.experiment
    progress = progress if progress is not None and world.leads else Progress()
    path = run.path / "records" / f"{which.replace(' ', '_')}-corruptions{f'-first{first}' if first is not None else ''}.json"
    check_writable(path)
    network = run.network(which).to(choose_device(device))
    data = world.in_turn(lambda: experiment.data.load(data_dir))
    about: dict[str, Any] = {"named": experiment.label, "journal": journal_of(path), **_about(run, which, None)}
    with shown(
        progress, f"{experiment.name}, seed {experiment.seed} ({which})", f"poise evaluate {run.path} --corruptions {folder}"
    ) as watch:
        evaluate_corruptions(network, data, folder, first=first, watch=watch, world=world, out=path, **about)
    return path


def _about(run: Run, which: str, other: Data | None) -> dict[str, Any]:
    """What a record says of the run; papers' rows only on the run's own images."""
    experiment, facts = run.experiment, run.facts(which)
    notes: dict[str, Any] = {"epoch": facts["epoch"], "selection": experiment.selection}
    notes |= {name: facts[name] for name in ("placement", "placements") if name in facts}
    if arithmetic := run.about.get("precision"):
        notes["trained_in"] = arithmetic
    if experiment.diagnosis is not None and (told := theory(run.metrics(), facts["epoch"], experiment.diagnosis)):
        notes["theory"] = told
    if other is not None and not other.has(run.about.get("data_digest")):
        notes["tested_on"] = other.name
    elif rows := [_printed(row, experiment.protocol) for row in experiment.rows]:
        notes["published"] = rows[0]
        if rows[1:]:
            notes["also_published"] = rows[1:]
    return {"checkpoint": which, "run": run.name, "group": run.group, "seed": experiment.seed, "notes": notes, **run.trained()}


def _printed(row: Published, protocol: Protocol) -> dict[str, Any]:
    """A row as records have it. protocol: the experiment's own."""
    columns = {name: value for name, value in zip(row.columns, row.values, strict=True) if value is not None}
    spread = dict(zip(row.columns, row.spread, strict=False))
    about = {"table": row.table, "row": row.row, "runs": row.runs, "note": row.note, "plus_minus": row.plus_minus}
    return {**about, "columns": columns, "spread": spread, "measured": row.measured(protocol)}


def _fitting(run: Run, which: str, data: Data) -> Data:
    """The data. Raises: DataError unless they have the shape and the number of classes that the run was trained on."""
    facts = run.facts(which)
    if set(data.classes) == set(facts["classes"]) and list(data.classes) != list(facts["classes"]):
        order = ", ".join(facts["classes"][:3])
        raise DataError(f"{data.name}: its classes are those of {run.name} in another order, must be in the order {order}, ...")
    if data.shape != tuple(facts["shape"]) or len(data.classes) != len(facts["classes"]):
        trained = f"{list(facts['shape'])} and {len(facts['classes'])} classes, as {run.name} was trained on"
        raise DataError(f"{data.name}: images are {list(data.shape)} of {len(data.classes)} classes, must be {trained}")
    return data


def check_record(out: Path) -> None:
    """Raises: SettingsError for a file that is no record, such as the weights that are to be evaluated."""
    try:
        there = not out.is_file() or "attacks" in json.loads(out.read_text())  # a damaged record may be replaced
    except ValueError:
        there = out.read_bytes()[:1] == b"{"
    if not there:
        raise SettingsError(f"{out} is there and is no record; give another --out, or --again to replace it")


def journal_of(path: Path, wanted: Measurement | None = None) -> Path:
    """Where the evaluation whose record will be `path`, or `wanted.place(path)`, keeps what it has finished: one for each measurement."""
    return path.with_name(f".{path.stem}{f'-{wanted.digits}' if wanted is not None else ''}.unfinished")


def _write_gallery(run: Run, which: str, network: nn.Module, data: Data, protocol: Protocol, again: bool) -> None:
    """Images for the page, of these weights; those that are there are kept unless `again`."""
    path, weights = run.path / "records" / f"gallery-{which.replace(' ', '_')}.npz", digest_of(network)
    if not again and path.exists() and _weights_in(path) == weights:
        return
    quick = [attack for attack in protocol.attacks if not isinstance(attack, CompactAttack | AutoAttack)]
    threat = protocol.attacks[0].threat
    attack = quick[0] if quick else PGD(threat=threat, step_size=threat.epsilon / 4)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, weights=np.array(weights), **gallery(network, data.test, attack))  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


def _weights_in(path: Path) -> str | None:
    try:
        with np.load(path) as found:
            return str(found["weights"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
