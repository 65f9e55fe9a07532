"""Accuracy under common corruptions: the mean over 15 corruptions of 5 severities each (Hendrycks & Dietterich 2019;
NROB).
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from poise.core.distributed import ALONE, World
from poise.core.errors import DataError
from poise.core.measures import CorruptionAccuracy
from poise.core.progress import Progress
from poise.core.records import EvaluationRecord
from poise.core.version import __version__
from poise.data.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from poise.data.dataset import Data, Split
from poise.evaluation.digests import digest_of, digest_of_images
from poise.evaluation.journal import Journal
from poise.evaluation.predictions import accuracy, check_answers, predict
from poise.evaluation.protocol import about_record, finish, processors_of


def evaluate_corruptions(
    model: nn.Module,
    data: Data,
    folder: Path | str,
    *,
    first: int | None = None,
    batch_size: int = 256,
    progress: Progress | None = None,
    journal: Path | None = None,
    out: Path | None = None,
    named: str = "",
    world: World = ALONE,
    **about: Any,
) -> EvaluationRecord:
    """A record whose note "corruptions" is the `CorruptionAccuracy` on an unpacked CIFAR-10-C, CIFAR-100-C or
    Tiny-ImageNet-C.

    Its predictions are those on the natural test images, of which `data` must be the uncorrupted form. first: only so
    many images, of each severity too. progress, journal, out, named, world, about: as in `evaluate`, but that parts are
    corruptions.
    Raises: DataError for a missing or malformed part, before anything is computed where a corruption is missing;
    InputError.
    """
    clock, root = time.perf_counter(), Path(folder).expanduser()
    check_whole(root)
    split = data.test if first is None else data.test.first(first)
    check_answers(model, data)
    progress = progress or Progress()
    digest, images = digest_of(model), digest_of_images(split)
    record = about_record(model, data, split, digest, batch_size, about, world)
    facts = {"model": digest, "images": images, "corruptions": str(root.resolve()), "poise": __version__}
    processors = processors_of(model, world)
    journal_kept = world.in_turn(lambda: Journal(journal, facts, processors))
    rows: dict[str, list[float]] = {}
    progress.stage("", "evaluation", float(len(CORRUPTIONS) * len(SEVERITIES) * len(split)))
    for corruption in CORRUPTIONS:
        row = json.loads(
            world.exchange(json.dumps(journal_kept.get(corruption, list[float]) if world.leads else None))[0]
        )
        if row is None:
            count = len(split) * len(SEVERITIES)
            advance = progress.begin(corruption, count, "images", count)
            row = []
            for severity in SEVERITIES:
                part = _part(root, corruption, severity, data, split)
                row.append(accuracy(predict(model, part, batch_size, world), part))
                advance(len(part))
            if world.leads:
                journal_kept.keep(corruption, row)
        else:
            progress.spare(len(split) * len(SEVERITIES))
        rows[corruption] = row
    for sentence in journal_kept.damaged:
        progress.say(sentence)
    every = [value for row in rows.values() for value in row]
    accuracy_table = CorruptionAccuracy(rows, len(split), root.name, sum(every) / len(every))
    record["notes"] |= {"images": images, "corruptions": asdict(accuracy_table)}
    seconds, model_name = time.perf_counter() - clock, named or type(model).__name__
    evaluation = EvaluationRecord(
        **record,
        model=model_name,
        evaluation_seed=0,
        split="test",
        protocol="corruptions",
        attacks=[],
        seconds=seconds,
        evaluated_on=journal_kept.processors,
    )
    finish(evaluation, out, journal_kept, world)
    return evaluation


def check_whole(root: Path) -> None:
    """Raises: DataError where the folder, or one of the 15 corruptions in it, is missing."""
    if not root.is_dir():
        raise DataError(f"there is no folder {root} of corrupted images")
    missing = [name for name in CORRUPTIONS if not (root / f"{name}.npy").is_file() and not (root / name).is_dir()]
    if missing:
        raise DataError(f"{root} lacks {len(missing)} of the {len(CORRUPTIONS)} corruptions: {', '.join(missing)}")


def _part(root: Path, corruption: str, severity: int, data: Data, split: Split) -> Split:
    """As many images as `split` has. Raises: DataError unless their labels are those of the natural images."""
    part = corrupted(root, corruption, severity, data)
    if len(part) < len(split):
        raise DataError(
            f"{root}: {corruption} of severity {severity} has {len(part)} images, the natural test set {len(split)}"
        )
    whole, part = len(part) == len(split), part.first(len(split))
    labels_part, labels_expected = part.labels.tolist(), split.labels.tolist()
    # folders are read class by class, so only all of their labels can be compared
    in_order = (root / f"{corruption}.npy").is_file()
    if labels_part != labels_expected and (in_order or (whole and sorted(labels_part) != sorted(labels_expected))):
        raise DataError(f"{root}: the labels of {corruption} are not those of {data.name}'s test images")
    return part
