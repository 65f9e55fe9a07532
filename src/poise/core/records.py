"""The evaluation record: everything a claim about accuracy rests on, as JSON, without torch.

Per example it keeps the label, the prediction on the natural image and the prediction after each attack, so that any
accuracy, worst case, per-class figure or paired comparison can be computed from it later.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from poise.core.documents import opened, read_document, sealed, typed
from poise.core.errors import RunError
from poise.core.files import write_text
from poise.core.hardware import Hardware
from poise.core.measures import check_notes

FORMAT = 2
"""1 had no digest, and nothing on training's time and processors."""


@dataclass(frozen=True)
class AttackRecord:
    """One attack of a protocol: `predicted` is the label predicted on each example's adversarial image."""

    name: str
    settings: dict[str, Any]
    predicted: list[int]
    seconds: float
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationRecord:
    """What was evaluated, on what, how, when, and what came out (module docstring)."""

    model: str
    """Display name, such as the recipe's or the checkpoint's."""
    checkpoint: str
    """Which weights: "selected", "last", "epoch 80", or "file" for a user's own weights."""
    model_digest: str
    run: str
    """Name of the run folder, or empty."""
    group: str
    """Runs that differ only by their seed share this key."""
    seed: int
    """Seed of the training run."""
    evaluation_seed: int
    dataset: str
    split: str
    classes: list[str]
    protocol: str
    labels: list[int]
    natural: list[int]
    """Label predicted on each natural image."""
    attacks: list[AttackRecord]
    seconds: float
    started: str
    """UTC, ISO 8601."""
    device: str
    versions: dict[str, str]
    notes: dict[str, Any] = field(default_factory=dict)
    training_seconds: float | None = field(default=None, compare=False)
    """Time in steps of training, over all stretches of the run and all its ranks; None where it is not known."""
    trained_on: list[Hardware] = field(default_factory=list, compare=False)
    """Every processor or device that the training has seen, with its arithmetic and threads; empty where it is not
    known.
    """
    evaluated_on: list[Hardware] = field(default_factory=list, compare=False)
    """The same of the evaluation."""
    format: int = field(default=FORMAT, compare=False)

    @property
    def lacking(self) -> list[str]:
        """What is not known of it, in words: of records that were made before it was kept, and of weights of other
        programs.
        """
        facts = {
            "the time of training": self.training_seconds is not None,
            "the processors of training": bool(self.trained_on),
            "the processors of the evaluation": bool(self.evaluated_on),
            "a digest": self.format > 1,
        }
        return [fact for fact, there in facts.items() if not there]

    @property
    def count(self) -> int:
        return len(self.labels)

    @property
    def natural_accuracy(self) -> float:
        """Share of natural images classified correctly, in [0, 1]."""
        return _share(self.natural_correct())

    @property
    def attack_names(self) -> list[str]:
        return [attack.name for attack in self.attacks]

    def natural_correct(self) -> list[bool]:
        return self._right(self.natural)

    def correct_under(self, name: str) -> list[bool]:
        """Per example: correct on the image that attack `name` made. Raises KeyError for an unknown attack."""
        attack = next((attack for attack in self.attacks if attack.name == name), None)
        if attack is None:
            raise KeyError(f"the record has no attack {name!r}; it has {', '.join(self.attack_names)}")
        return self._right(attack.predicted)

    def _right(self, predicted: list[int]) -> list[bool]:
        if len(predicted) != len(self.labels):
            raise ValueError(f"{len(predicted)} predictions for {len(self.labels)} labels")
        return list(map(operator.eq, predicted, self.labels))

    def accuracy(self, name: str) -> float:
        """Robust accuracy under attack `name`, in [0, 1]."""
        return _share(self.correct_under(name))

    def worst_case(self) -> list[bool]:
        """Per example: correct on the natural image and after every attack."""
        # two may have one name
        columns = [
            self.natural_correct(),
            *(self._right(attack.predicted) for attack in self.attacks),
        ]
        return list(functools.reduce(lambda sofar, column: map(operator.and_, sofar, column), columns))

    @property
    def worst_case_accuracy(self) -> float:
        return _share(self.worst_case())

    @property
    def corruption_accuracy(self) -> float | None:
        """Mean accuracy over 15 common corruptions of 5 severities in [0, 1], where it was measured."""
        found = self.notes.get("corruptions")
        return float(found["mean"]) if found else None

    def write(self, path: str | Path) -> Path:
        """Write as JSON with its digest, atomically. Raises: StorageError."""
        return write_text(path, json.dumps(sealed(dataclasses.asdict(self) | {"format": FORMAT}), indent=1))

    @classmethod
    def read(cls, path: str | Path) -> EvaluationRecord:
        """Raises: RunError when the file is missing, damaged or not a record."""
        path = Path(path)
        data = read_document(path, "evaluation record")
        version = data.get("format") if isinstance(data, dict) else None
        if type(version) is not int or version not in (1, FORMAT):
            raise RunError(f"{path} is not an evaluation record of format 1 or {FORMAT}")
        try:
            record: EvaluationRecord = typed(cls, opened(data) if version == FORMAT else data)
            record.check()
        except ValueError as error:
            raise RunError(f"{path} is not a complete evaluation record, or was damaged: {error}") from None
        return record

    def check(self) -> None:
        """Raises: ValueError for labels and predictions that do not fit one another or the classes, and for notes of
        other types.
        """
        check_notes(self.notes, [attack.notes for attack in self.attacks])
        columns = {"labels": self.labels, "natural": self.natural}
        columns |= {f"attacks[{place}].predicted": attack.predicted for place, attack in enumerate(self.attacks)}
        for name, column in columns.items():
            if len(column) != self.count:
                raise ValueError(f"{name} has {len(column)} entries for {self.count} labels")
            if column and not (min(column) >= -1 and max(column) < len(self.classes)):
                raise ValueError(
                    f"{name} holds {min(column)} to {max(column)}, must lie in -1 to {len(self.classes) - 1}"
                )


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else float("nan")
