"""A quick estimate of robust accuracy with its interval: APGD-T on as many images, drawn from all, as the interval
needs.

APGD-T alone decides most of AutoAttack's verdicts; what it leaves standing is an upper bound of what AutoAttack would.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from poise.attacks import APGD, AutoAttack
from poise.core.bars import default_progress
from poise.core.distributed import join
from poise.core.errors import SettingsError
from poise.core.files import check_writable
from poise.core.progress import Progress
from poise.core.records import AttackRecord, EvaluationRecord
from poise.core.seeds import key_of
from poise.core.settings import to_json
from poise.data import Split
from poise.evaluation.digests import digest_of_images
from poise.evaluation.protocol import Protocol, evaluate
from poise.reports.statistics import summary
from poise.threats import Linf, Threat
from poise.verbs.images import Images
from poise.verbs.kinds import Asked, subject_of
from poise.verbs.results import Answer, Sheet
from poise.verbs.stopping import stoppable
from poise.verbs.subject import Subject
from poise.verbs.threats import positive, threat_typed

NAME = "fast"
COLUMN = "APGD-T (estimate)"
"""What the attack is called in its record, as it is on a part of the images."""
ATTACK = APGD(loss="targeted_dlr")
HALF_WIDTH = 0.025
LEAST = 30
"""Images below which no interval is worth its name."""
FIRST = 16
"""Images by which the pace is measured."""


@dataclass(frozen=True)
class Estimate(Answer):
    """Natural and robust accuracy, each with its 95 % interval (Wilson's), of all images and of every class.

    record: every prediction; asked: images that were to be had; why: what ended it.
    """

    record: EvaluationRecord
    threat: str
    asked: int
    why: str
    written: Path | None = None  # type: ignore[assignment]

    @property
    def natural(self) -> tuple[float, float, float]:
        """(accuracy, low, high) in [0, 1]."""
        return _interval(self.record.natural_correct())

    @property
    def robust(self) -> tuple[float, float, float]:
        return _interval(self.record.worst_case())

    def classes(self) -> dict[str, tuple[int, tuple[float, float, float], tuple[float, float, float]]]:
        """{class: (images, natural, robust)}, of those that have images."""
        natural, robust = self.record.natural_correct(), self.record.worst_case()
        rows = {}
        for number, name in enumerate(self.record.classes):
            places = [place for place, label in enumerate(self.record.labels) if label == number]
            if places:
                rows[name] = (
                    len(places),
                    _interval([natural[place] for place in places]),
                    _interval([robust[place] for place in places]),
                )
        return rows

    def sheet(self) -> Sheet:
        rows = [("all", self.record.count, self.natural, self.robust)]
        rows += [(name, count, natural, robust) for name, (count, natural, robust) in self.classes().items()]
        heads = ["class", "images", "natural", f"robust ({self.threat})"]
        rows_shown = [[name, str(count), _told(natural), _told(robust)] for name, count, natural, robust in rows]
        return Sheet(heads, rows_shown, self.notes())

    def notes(self) -> list[str]:
        count = self.record.count
        share = f"{count:,} of {self.asked:,} images" if count < self.asked else f"all {count:,} images"
        return [
            f"An estimate by APGD-T on {share} ({self.why}), with 95 % intervals; on the same images AutoAttack"
            " would leave no more standing. For a number to print: --protocol autoattack.",
        ]

    def lines(self) -> list[dict[str, Any]]:
        rows = {"all": (self.record.count, self.natural, self.robust), **self.classes()}
        return [
            {"class": name, "images": count}
            | {f"natural{end}": value for end, value in zip(("", "_low", "_high"), natural, strict=True)}
            | {f"robust{end}": value for end, value in zip(("", "_low", "_high"), robust, strict=True)}
            for name, (count, natural, robust) in rows.items()
        ]


def estimate(
    asked: Asked,
    data: Images | None = None,
    *,
    threat: str | Threat | None = None,
    epsilon: Any = None,
    half_width: float = HALF_WIDTH,
    seconds: float = 120.0,
    seed: int = 0,
    out: str | Path | None = None,
    progress: Progress | None = None,
    **kind: Any,
) -> Estimate:
    """Robust accuracy within about half_width (95 %), or as near as `seconds` allow: what `poise evaluate --fast` does.

    Images are drawn from all test images by `seed`, so that sorted ones do no harm; those that are misclassified as
    they are count as lost. The record lies apart from those of evaluations (a run's in RUN/fast), and neither tables
    nor pages read it. asked, data, kind: see `subject_of`.
    Raises: SettingsError, what the subject refuses; Interrupted after a signal.
    """
    if not 0.005 <= half_width < 0.5 or not seconds > 0:
        raise SettingsError(f"half_width = {half_width:g}, seconds = {seconds:g}: must be 0.005 to 0.5, and above 0")
    if join().size > 1:
        raise SettingsError("--fast is of one process; leave torchrun out")
    subject, progress = subject_of(asked, data, **kind), default_progress(progress)
    threats = [subject.threat or Linf()]
    within = positive(threat, epsilon) if isinstance(threat, Threat) else threat_typed(threat, epsilon, threats)
    place = Path(out) if out is not None else _place(subject)
    if place is not None:
        check_writable(place)
    attack = AutoAttack(threat=within, version="custom", attacks=(ATTACK,))
    test = subject.data.test
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(key_of(seed, NAME) % 2**63))
    records: list[EvaluationRecord] = []
    began, images_done, why = time.monotonic(), 0, ""
    command = subject.going_on("evaluate") + " --fast"
    with stoppable(progress, f"{subject.title}, estimate", command) as watch:
        while not why:
            seconds_left, pace = seconds - (time.monotonic() - began), (time.monotonic() - began) / max(images_done, 1)
            room = FIRST if not images_done else int(seconds_left / pace * 0.8)
            count = min(
                max(room, FIRST if images_done < LEAST else 1), len(test) - images_done, max(FIRST, images_done)
            )
            part = test.subset(order[images_done : images_done + count])
            protocol = Protocol(name=NAME, attacks=(attack,))
            about = {**subject.about(), "named": subject.named, "trained_with": subject.seed}
            how: dict[str, Any] = {"split": part, "seed": seed, "progress": watch}
            records.append(evaluate(subject.network, subject.data, protocol, **how, **about))
            images_done += count
            low, high = _interval([right for record in records for right in record.worst_case()])[1:]
            why = _ended(
                images_done, len(test), (high - low) / 2, half_width, seconds - (time.monotonic() - began), began
            )
    record = _together(records, test.subset(order[:images_done]), attack)
    if place is not None:
        record.write(place)
    return Estimate(record, f"{type(within).__name__} {within.epsilon:.4g}", len(test), why, place)


def _ended(done: int, all_: int, half: float, wanted: float, left: float, began: float) -> str:
    """Why no further images are needed; empty where they are."""
    if done == all_:
        return "all there are"
    if done >= LEAST and half <= wanted:
        return f"enough for an interval of +-{100 * wanted:g} points"
    pace = (time.monotonic() - began) / done
    if done >= LEAST and left < pace:
        return f"the time was over at +-{100 * half:.1f} points"
    return ""


def _place(subject: Subject) -> Path | None:
    """Apart from the records of evaluations."""
    usual = subject.place("record")
    if usual is None:
        return None
    if subject.folder is not None:
        return subject.folder / NAME / f"{subject.checkpoint.replace(' ', '_')}.json"
    return usual.with_name(f"{NAME}-{usual.name}")


def _together(records: Sequence[EvaluationRecord], images: Split, attack: AutoAttack) -> EvaluationRecord:
    """The parts as one record, which says that it is an estimate."""
    first = records[0]
    predictions = [guess for record in records for guess in record.attacks[0].predicted]
    seconds = sum(record.seconds for record in records)
    column = AttackRecord(COLUMN, to_json(attack), predictions, sum(record.attacks[0].seconds for record in records))
    return dataclasses.replace(
        first,
        protocol=NAME,
        labels=[label for record in records for label in record.labels],
        natural=[guess for record in records for guess in record.natural],
        attacks=[column],
        seconds=seconds,
        notes={
            **first.notes,
            "images": digest_of_images(images),
            "estimate": {"images": len(images), "column": COLUMN},
        },
    )


def _interval(right: Sequence[bool]) -> tuple[float, float, float]:
    share = summary([sum(right) / len(right)], len(right))
    return share.mean, share.low, share.high


def _told(interval: tuple[float, float, float]) -> str:
    share, low, high = (100 * value for value in interval)
    return f"{share:.1f} ({low:.1f} to {high:.1f})"
