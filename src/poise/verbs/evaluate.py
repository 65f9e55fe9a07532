"""Evaluating: a protocol's attacks on a subject, every prediction written down."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from poise.attacks import PGD, AutoAttack
from poise.attacks.autoattack.compact import CompactAttack
from poise.core.bars import default_progress
from poise.core.bounds import DAMAGE, opened_arrays, read_arrays, sealed_arrays
from poise.core.callers import computed_plainly
from poise.core.distributed import World, join
from poise.core.errors import SettingsError
from poise.core.files import check_writable, write_bytes
from poise.core.progress import Progress
from poise.core.records import EvaluationRecord
from poise.engine.callbacks import Callback, Callbacks, check_callbacks
from poise.evaluation import protocol as measuring
from poise.evaluation.columns import Searching
from poise.evaluation.digests import digest_of
from poise.evaluation.protocol import Protocol, gallery
from poise.threats import Threat
from poise.verbs.images import Images
from poise.verbs.kinds import Asked, subject_of
from poise.verbs.measurement import KEPT, Measurement
from poise.verbs.of_run import OfRun
from poise.verbs.protocols import protocol_asked
from poise.verbs.results import Evaluation
from poise.verbs.stopping import stoppable
from poise.verbs.subject import Subject

Norm = Literal["Linf", "L2", "L1"]
_FORMER = {"split", "split_name", "watch", "journal", "named", "world"}
"""Arguments of `poise.evaluation.evaluate`, which poise.evaluate once was."""


@computed_plainly
def evaluate(
    asked: Asked,
    data: Images | None = None,
    protocol: str | Protocol | None = None,
    *,
    threat: Norm | Threat | Sequence[Norm | Threat] | None = None,
    epsilon: float | str | Sequence[float | str] | None = None,
    step_size: float | str | None = None,
    first: int | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    again: bool = False,
    search: Searching = Searching(),
    batch_size: int = 256,
    progress: Progress | None = None,
    command: str = "",
    callbacks: Sequence[Callback] = (),
    **kind: Any,
) -> Evaluation:
    """Attack a classifier and write down every prediction: what `poise evaluate` does.

    asked, data, kind (network, checkpoint, output, device, data_dir): see `subject_of`; protocol, threat, epsilon,
    step_size, first: see
    `protocol_asked`. seed: of the attacks' draws, by default that of a run's training, else 0. out: the record to
    write; by default a run's lies in its folder, that of weights beside them, and of all others none is written. A
    record that is there already, of the same weights, images and attacks, is kept unless `again`; an evaluation that
    was stopped goes on. Under torchrun all ranks call this and share the work; the first one writes.
    search: how AutoAttack searches; batch_size: of other attacks; command: what goes on with it where a signal stops
    it; callbacks: told of a run's record, and of the end.
    Raises: PoiseError for whatever cannot be evaluated, before work is lost; Interrupted after SIGINT or SIGTERM.
    """
    if names_before := sorted(_FORMER & kind.keys()):
        raise SettingsError(
            f"evaluate has no argument {names_before[0]!r}; it belongs to poise.evaluation.evaluate(model, data,"
            " protocol)"
        )
    check_callbacks(callbacks)
    subject = subject_of(asked, data, **kind)
    protocol_used = protocol_asked(subject, protocol, threat=threat, epsilon=epsilon, step_size=step_size, first=first)
    _check_search(protocol_used, search)
    seed, world = subject.seed if seed is None else seed, join()
    progress = default_progress(progress) if world.leads else Progress()
    suffix = _suffix(subject, protocol_used, seed)
    usual = Path(out) if out is not None else subject.place("record", suffix)
    if usual is not None:
        check_writable(usual)
    split = protocol_used.images(subject.data.test)
    measurement = Measurement.of(subject.network, split, protocol_used.attacks, search, seed, subject.output)
    if subject.own_code:
        measurement = measurement.answering(subject.network, split)
    if out is not None and usual is not None and not again:
        measurement.check_free(usual)
    path = measurement.place(usual) if usual is not None and out is None and suffix else usual
    with stoppable(progress, subject.title, command or _command(subject, out)) as watch:
        record = None if again or path is None else _kept(subject, protocol_used, measurement, path, world, progress)
        if record is not None:
            watch.stage("", "evaluation", 0.0)
        else:
            journal = measurement.journal(usual) if usual is not None else None
            how: dict[str, Any] = {
                "seed": seed,
                "batch_size": batch_size,
                "search": search,
                "progress": watch,
                "world": world,
            }
            about = {
                "named": subject.named,
                "trained_with": subject.seed,
                "journal": journal,
                "out": path,
                **subject.about(),
            }
            record = measuring.evaluate(subject.network, subject.data, protocol_used, **how, **about)
        if subject.folder is not None and protocol_used.attacks and not suffix and out is None:
            world.led(lambda: None if watch.signals else _write_gallery(subject, protocol_used, again))
    evaluation = Evaluation.of(record, path)
    if isinstance(subject, OfRun):
        listeners = Callbacks.of_all(callbacks, progress)
        listeners.evaluation(subject.run, evaluation)
        listeners.end(subject.run)
    return evaluation


def _command(subject: Subject, out: str | Path | None) -> str:
    return subject.going_on("evaluate") + (
        f" --out {out}" if subject.output and subject.spelled and out is not None else ""
    )


def _check_search(protocol: Protocol, search: Searching) -> None:
    """Raises: SettingsError for settings of a search that the protocol has not."""
    if search != Searching() and not any(isinstance(attack, AutoAttack | CompactAttack) for attack in protocol.attacks):
        option = "--search-precision" if search.precision != Searching().precision else "--memory-limit"
        raise SettingsError(
            f"{option} is of AutoAttack and its components, of which protocol {protocol.name!r} has none"
        )


def _suffix(subject: Subject, protocol: Protocol, seed: int) -> str:
    """What is not the subject's own evaluation on its own images, in the name of its file."""
    parts = [
        "" if subject.folder is not None and protocol == subject.protocol else f"-{protocol.name}",
        f"-on-{subject.data.name}" if subject.replaced else "",
        f"-seed{seed}" if seed != subject.seed else "",
    ]
    return "".join(parts)


def _kept(
    subject: Subject, protocol: Protocol, wanted: Measurement, path: Path, world: World, progress: Progress
) -> EvaluationRecord | None:
    """The record of this measurement that is at `path`, or was copied there from another one in the folder of the
    subject's records.
    """
    if world.decided(wanted.done(path) is not None):
        progress.say(KEPT.format(path))
        return world.in_turn(lambda: EvaluationRecord.read(path))
    beside = sorted(path.parent.glob("*.json")) if subject.folder is not None else []
    same = next(filter(None, map(wanted.done, beside)), None)
    if not world.decided(same is not None):
        return None

    def copy() -> None:
        assert same is not None
        dataclasses.replace(same, checkpoint=subject.checkpoint, protocol=protocol.name).write(path)

    world.led(copy)
    return world.in_turn(lambda: EvaluationRecord.read(path))


def _write_gallery(subject: Subject, protocol: Protocol, again: bool) -> None:
    """Images for the page, of these weights; those that are there are kept unless `again`."""
    assert subject.folder is not None
    network, weights = subject.network, digest_of(subject.network)
    path = subject.folder / "records" / f"gallery-{subject.checkpoint.replace(' ', '_')}.npz"
    if not again and path.exists() and _weights_in(path) == weights:
        return
    quick = [attack for attack in protocol.attacks if not isinstance(attack, CompactAttack | AutoAttack)]
    threat = protocol.attacks[0].threat
    attack = quick[0] if quick else PGD(threat=threat, step_size=threat.epsilon / 4)
    buffer = io.BytesIO()
    arrays = {"weights": np.array(weights), **gallery(network, subject.data.test, attack)}
    np.savez_compressed(buffer, **sealed_arrays(arrays))  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


def _weights_in(path: Path) -> str | None:
    try:
        return str(opened_arrays(read_arrays(path))["weights"])
    except DAMAGE:
        return None
