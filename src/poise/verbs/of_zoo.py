"""A zoo network as a subject."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from poise.core.files import write_bytes
from poise.data import Data
from poise.engine.blueprint import Blueprint
from poise.engine.experiment import Experiment
from poise.evaluation import Protocol
from poise.threats import Threat
from poise.verbs.images import Images, check_fit
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
        return check_fit(data, self.shape, self.classes, self.spelled)

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.card.shape
        return channels, height, width

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.card.classes)

    def blueprint(self) -> Blueprint | None:
        settings, facts = self.experiment, {"name": self.entry.name, "seed": self.experiment.seed}
        return Blueprint.of(
            settings.model, self.network, self.shape, self.classes, settings.data, self.protocol, **facts
        )

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
