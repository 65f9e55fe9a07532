"""Subject: the network that a question is about, with its images, what a record says of it, and where its records
lie.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from torch import nn

from poise.core.distributed import join
from poise.data import Data, Split
from poise.engine.blueprint import Blueprint
from poise.engine.devices import choose_device
from poise.evaluation import NamedProtocol, Protocol
from poise.evaluation.digests import digest_of
from poise.threats import Threat
from poise.verbs.images import Images, data_of
from poise.verbs.threats import scaled

Question = Literal["record", "corruptions", "sanity", "adversarial"]
"""What is asked of a subject and answered in a file of its own."""


class Subject(ABC):
    """A network that is asked something. Each kind of subject fills in what is abstract here.

    Network and images are read once, when they are first needed, by several ranks one after the other; a run's are
    refused where they are not those that it was started with.
    """

    checkpoint: str = ""
    """Which weights, as records say it."""
    output: str = ""
    """How the members of an ensemble answer as one."""
    own_code: bool = True
    """Whether the weights do not tell all of the network, because its code is not Poise's."""

    def __init__(self, data: Images | None = None, device: str = "auto", data_dir: str | Path | None = None) -> None:
        self.given, self.device = data, device
        self.data_dir = Path(data_dir) if data_dir is not None else None

    @staticmethod
    def of(asked: Any, data: Images | None = None, **kind: Any) -> Subject:
        """The subject that is meant: see `poise.verbs.subject_of`."""
        from poise.verbs.kinds import subject_of  # which knows every kind, and so stands above this file

        return subject_of(asked, data, **kind)

    @property
    @abstractmethod
    def title(self) -> str:
        """What it is called while it is asked."""

    @property
    @abstractmethod
    def named(self) -> str:
        """Its name in records."""

    @property
    def spelled(self) -> str:
        """How the command names it, as in `poise evaluate SPELLED`; empty for what only Python has."""
        return ""

    @property
    def located(self) -> str:
        """Which weights, for a reader who looks for them."""
        return self.checkpoint

    def going_on(self, verb: str) -> str:
        """What goes on with a question that was stopped."""
        return f"poise {verb} {self.spelled}" if self.spelled else f"the same call of poise.{verb}"

    @property
    def replaced(self) -> bool:
        """Whether other images stand in for its own."""
        return False

    def on(self, test: Split) -> Self:
        """The same, asked on a part of its test images."""
        part = copy(self)
        part.data = dataclasses.replace(self.data, test=test)
        return part

    @abstractmethod
    def build(self) -> nn.Module:
        """The network, images [B, C, H, W] in [0, 1] to logits, wherever it is read to."""

    @abstractmethod
    def own_data(self) -> Data:
        """The data set that it was trained on. Raises: SettingsError where nobody knows it."""

    @cached_property
    def network(self) -> nn.Module:
        """What `build` gives, on its device. Raises: CheckpointError, SettingsError."""
        return self.build().to(choose_device(self.device))

    @cached_property
    def data(self) -> Data:
        """The images that were given, else its own. Raises: DataError, SettingsError, InputError, RunError."""
        return join().in_turn(self.read_data)

    def read_data(self) -> Data:
        """`data`, read anew."""
        return self.own_data() if self.given is None else self.fitting(data_of(self.given, self.data_dir))

    def fitting(self, data: Data) -> Data:
        """The data, given in place of its own. Raises: DataError where they cannot be those of this network."""
        return data

    @property
    def seed(self) -> int:
        """The seed that it was trained with; 0 where nobody knows it."""
        return 0

    @property
    def run_name(self) -> str:
        """Of the run folder; empty where it is no run."""
        return ""

    @property
    def digest(self) -> str:
        """What tells its weights apart."""
        return digest_of(self.network)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that it takes."""
        return self.data.shape

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes."""
        return self.data.classes

    def facts_to_export(self) -> dict[str, Any]:
        """What is written beside exported weights."""
        return {"model": self.named, "shape": list(self.shape), "classes": list(self.classes)}

    def blueprint(self) -> Blueprint | None:
        """What builds its network elsewhere; None for code that is not Poise's."""
        return None

    def training_images(self) -> Split:
        """The images that it was trained on, or that stand in for them; none that were held out."""
        return self.data.train

    def about(self) -> dict[str, Any]:
        """Fields of a record: checkpoint, run, group, notes."""
        return {"checkpoint": self.checkpoint, "notes": {"data": list(self.data.notes)}}

    def member(self) -> dict[str, Any]:
        """What the record of an ensemble says of it."""
        return {"model": self.named}

    @property
    def protocol(self) -> Protocol | None:
        """What it is evaluated by where nothing is asked for; None: standard."""
        return None

    @property
    def threat(self) -> Threat | None:
        """What it is evaluated under; None where nobody knows it."""
        return None

    def within(self, chosen: NamedProtocol, kind: str | None, epsilon: Any, step_size: Any) -> Protocol:
        """The named protocol under the threat that is asked for, else, where the protocol is general, under the
        subject's own.
        """
        return scaled(chosen, self.threat, kind, epsilon, step_size)

    def place(self, question: Question, suffix: str = "") -> Path | None:
        """The file of the answer where the user names none, None for no file; suffix: tells answers apart in one
        folder.
        """
        return None

    @property
    def folder(self) -> Path | None:
        """The run folder, where it is a run: what is found of it is kept there."""
        return None
