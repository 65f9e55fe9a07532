"""Where records lie: what a record must say to be the record of an evaluation, which place is free, where the
unfinished is kept.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from poise.attacks import Attack
from poise.core.documents import parse
from poise.core.errors import RunError, SettingsError
from poise.core.files import read_text
from poise.core.identity import identity
from poise.core.records import EvaluationRecord
from poise.core.settings import to_json
from poise.data import Split
from poise.evaluation.columns import Searching
from poise.evaluation.digests import digest_of, digest_of_images
from poise.evaluation.predictions import device_of, predict

PROBED = 256
"""Images on which a network of other people's code is asked whether it is the one of a record."""
KEPT = "{} is there already, of the same weights, images and attacks; to evaluate anew: poise evaluate --again"


@dataclass(frozen=True)
class Measurement:
    """What a record must say to be the record of these weights, images and attacks. One searched in float32 serves for
    any search.
    """

    weights: str
    images: str
    attacks: list[dict[str, Any]]
    search: str = "float32"
    seed: int = 0
    """Of the evaluation's draws."""
    output: str = ""
    """How an ensemble's members answer as one, which their weights do not tell."""
    answers: tuple[int, ...] = ()
    """What the network says of the first images, where its weights do not tell all of it."""

    @classmethod
    def of(
        cls,
        network: nn.Module,
        split: Split,
        attacks: tuple[Attack, ...],
        search: Searching = Searching(),
        seed: int = 0,
        output: str = "",
    ) -> Measurement:
        precision = search.on(device_of(network)[0]).precision
        settings = [identity(to_json(attack)) for attack in attacks]
        return cls(digest_of(network), digest_of_images(split), settings, precision, seed, output)

    def answering(self, network: nn.Module, split: Split) -> Measurement:
        """The same for a network whose code is not Poise's: another forward of the same weights is another network."""
        return dataclasses.replace(self, answers=tuple(predict(network, split.first(min(PROBED, len(split)))).tolist()))

    def done(self, path: Path) -> EvaluationRecord | None:
        """The record at `path` if it is this measurement's; None for another one, a damaged one or none."""
        try:
            record = EvaluationRecord.read(path)
        except RunError:
            return None
        same = (
            record.model_digest == self.weights
            and self._alike(record)
            and {attack.notes.get("search", "float32") for attack in record.attacks} <= {"float32", self.search}
            and record.notes.get("ensemble", {}).get("output", "") == self.output
            and record.natural[: len(self.answers)] == list(self.answers)
        )
        return record if same else None

    def place(self, path: Path) -> Path:
        """`path`, or where a record of other attacks or images has taken it, one with a few digits more in its name."""
        try:
            record = EvaluationRecord.read(path)
        except RunError:
            return path
        return path if self._alike(record) else path.with_name(f"{path.stem}-{self.digits}.json")

    def check_free(self, out: Path) -> None:
        """Raises: SettingsError where `out`, which a user named, is a record of something else, or none."""
        if self.place(out) != out:
            raise SettingsError(
                f"{out} is a record of other images or attacks; give another --out, or --again to replace it"
            )
        check_record(out)

    def journal(self, path: Path) -> Path:
        """Where the evaluation whose record will be `path`, or `place(path)`, keeps what it has finished: each has a
        folder of its own.
        """
        return journal_of(path.with_stem(f"{path.stem}-{self.output}") if self.output else path, self.digits)

    @property
    def digits(self) -> str:
        """A few that tell images, attacks and seeds apart, for names of files."""
        parts = [self.images, self.attacks, *([self.seed] if self.seed else [])]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:6]

    def _alike(self, record: EvaluationRecord) -> bool:
        """Whether the record is of the same images, attacks and draws, of whatever weights."""
        settings = [identity(attack.settings) for attack in record.attacks]
        return (record.notes.get("images"), settings, record.evaluation_seed) == (self.images, self.attacks, self.seed)


def check_record(out: Path) -> None:
    """Raises: SettingsError for a file that is no record, such as the weights that are to be evaluated."""
    try:
        there = not out.is_file() or "attacks" in parse(read_text(out))  # a damaged record may be replaced
    except (OSError, ValueError):  # OSError: too large for a record
        with out.open("rb") as file:
            there = file.read(1) == b"{"
    if not there:
        raise SettingsError(f"{out} is there and is no record; give another --out, or --again to replace it")


def journal_of(path: Path, digits: str = "") -> Path:
    """The folder beside a record to be that keeps what its evaluation has finished."""
    return path.with_name(f".{path.stem}{f'-{digits}' if digits else ''}.unfinished")
