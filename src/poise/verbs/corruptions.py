"""Accuracy under common corruptions, as a record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from poise.core.bars import default_progress
from poise.core.callers import computed_plainly
from poise.core.distributed import join
from poise.core.errors import RunError, SettingsError
from poise.core.files import check_writable
from poise.core.progress import Progress
from poise.core.records import EvaluationRecord
from poise.evaluation.corruption import evaluate_corruptions
from poise.verbs.images import Images
from poise.verbs.kinds import Asked, subject_of
from poise.verbs.measurement import check_record, journal_of
from poise.verbs.results import Evaluation
from poise.verbs.stopping import stoppable


@computed_plainly
def corruptions(
    asked: Asked,
    folder: str | Path,
    data: Images | None = None,
    *,
    first: int | None = None,
    out: str | Path | None = None,
    again: bool = False,
    progress: Progress | None = None,
    **kind: Any,
) -> Evaluation:
    """Mean accuracy over the common corruptions in `folder` (see `evaluate_corruptions`): `poise evaluate
    --corruptions`.

    It is always measured anew. asked, data, kind: see `subject_of`; first: only so many images; out: the record to
    write, by default as for `evaluate`. Under torchrun all ranks call this and share the work.
    Raises: SettingsError where the record is of anything but this subject under these corruptions and not `again`;
    RunError, CheckpointError, DataError, StorageError; Interrupted after SIGINT or SIGTERM.
    """
    subject, folder, world = subject_of(asked, data, **kind), Path(folder), join()
    progress = default_progress(progress) if world.leads else Progress()
    path = Path(out) if out is not None else subject.place("corruptions", "" if first is None else f"-first{first}")
    if path is not None:
        check_writable(path)
    about: dict[str, Any] = {"named": subject.named, "journal": None if path is None else journal_of(path), "out": path}
    network, data_set = subject.network, subject.data
    about |= {**subject.about(), "seed": subject.seed}
    if path is not None and not again and (out is not None or subject.folder is None):
        world.led(lambda: _check_free(path, str(about["group"]), folder))
    command = (
        f"{subject.going_on('evaluate')} --corruptions {folder}" if subject.spelled else subject.going_on("corruptions")
    )
    with stoppable(progress, subject.title, command) as watch:
        record = evaluate_corruptions(network, data_set, folder, first=first, progress=watch, world=world, **about)
    return Evaluation.of(record, path)


def _check_free(out: Path, group: str, folder: Path) -> None:
    """Raises: SettingsError for a record of other weights, or of these under anything but these corruptions."""
    check_record(out)
    try:
        there = EvaluationRecord.read(out)
    except RunError:  # none, or damaged
        return
    if (there.group, (there.notes.get("corruptions") or {}).get("folder")) != (group, folder.name):
        raise SettingsError(
            f"{out} is a record of other weights or images; give another --out, or --again to replace it"
        )
