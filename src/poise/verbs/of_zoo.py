"""A zoo network as a subject."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from poise.core.errors import DataError
from poise.core.files import write_bytes
from poise.data import Data
from poise.engine.experiment import Experiment
from poise.evaluation import Protocol
from poise.threats import Threat
from poise.verbs.images import Images
from poise.verbs.of_run import threat_of
from poise.verbs.subject import Question, Subject
from poise.zoo.shelf import PREFIX, RECORD, Card, ZooNetwork

FOLDER = Path("runs") / "zoo"
"""Where what is found of zoo networks is written, from the working folder on: the package's own files are never
changed.
"""


class OfZoo(Subject):
    """A network that comes with Poise, on the data that it was trained for."""

    checkpoint = "zoo"
    own_code = False

    def __init__(
        self, entry: ZooNetwork, data: Images | None = None, device: str = "auto", data_dir: str | Path | None = None
    ) -> None:
        super().__init__(data, device, data_dir)
        self.entry = entry

    @cached_property
    def card(self) -> Card:
        return self.entry.card

    @cached_property
    def experiment(self) -> Experiment:
        return self.entry.experiment

    @property
    def title(self) -> str:
        return self.spelled

    @property
    def named(self) -> str:
        return self.spelled

    @property
    def spelled(self) -> str:
        return f"{PREFIX}{self.entry.name}"

    @property
    def replaced(self) -> bool:
        return self.given is not None

    def build(self) -> nn.Module:
        return self.entry.network()

    def own_data(self) -> Data:
        return self.experiment.data.load(self.data_dir)

    def fitting(self, data: Data) -> Data:
        """Raises: DataError unless they have the shape and the number of classes that it was trained on."""
        shape, classes = tuple(self.card.shape), len(self.card.classes)
        if (
            data.shape != shape
            or len(data.classes) > classes
            or (data.name != "arrays" and len(data.classes) != classes)
        ):
            trained = f"{list(shape)} and {classes} classes, as {self.spelled} was trained on"
            raise DataError(
                f"{data.name}: images are {list(data.shape)} of {len(data.classes)} classes, must be {trained}"
            )
        return data

    @property
    def seed(self) -> int:
        return self.experiment.seed

    def about(self) -> dict[str, Any]:
        notes = {"data": list(self.data.notes), "trained_in": self.experiment.precision}
        return {"checkpoint": self.checkpoint, "run": self.spelled, "group": self.spelled, "notes": notes}

    @property
    def protocol(self) -> Protocol:
        return self.entry.protocol

    @property
    def threat(self) -> Threat:
        return threat_of(self.experiment)

    def place(self, question: Question, suffix: str = "") -> Path:
        """In runs/zoo; the record that was shipped is laid there first, so that it is kept, or replaced where one says
        so.
        """
        path = FOLDER / self.entry.name / f"{question}{suffix}.json"
        if question == "record" and suffix == f"-{self.protocol.name}" and not path.exists():
            write_bytes(path, self.entry.file(RECORD))
        return path
