"""A run as a subject."""

from __future__ import annotations

import shlex
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from poise.attacks import Attack
from poise.core.errors import DataError
from poise.data import Data, Split
from poise.engine.blueprint import Blueprint
from poise.engine.diagnostics import theory
from poise.engine.experiment import Experiment
from poise.engine.runs import Run
from poise.engine.training import divided
from poise.evaluation import Protocol
from poise.threats import Linf, Threat
from poise.verbs.images import ARRAYS, Images
from poise.verbs.subject import Question, Subject


class OfRun(Subject):
    """The weights `checkpoint` of a run: "selected", "last" or "epoch N".

    Raises: RunError where its settings were changed since it was started.
    """

    own_code = False

    def __init__(
        self,
        run: Run,
        checkpoint: str = "selected",
        data: Images | None = None,
        device: str = "auto",
        data_dir: str | Path | None = None,
    ) -> None:
        super().__init__(data, device, data_dir)
        run.check_unchanged()
        self.run, self.checkpoint = run, checkpoint

    @cached_property
    def experiment(self) -> Experiment:
        return self.run.experiment

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What is known of the weights (see `Run.facts`)."""
        return self.run.facts(self.checkpoint)

    @cached_property
    def begun(self) -> dict[str, Any]:
        """What the run was started with that is no setting (see `Run.about`)."""
        return self.run.about

    @property
    def title(self) -> str:
        return f"{self.experiment.name}, seed {self.experiment.seed} ({self.checkpoint})"

    @property
    def named(self) -> str:
        return self.experiment.label

    @property
    def spelled(self) -> str:
        checkpoint_option = "" if self.checkpoint == "selected" else f" --checkpoint {shlex.quote(self.checkpoint)}"
        return f"{self.run.path}{checkpoint_option}"

    @property
    def replaced(self) -> bool:
        return self.given is not None

    def build(self) -> nn.Module:
        return self.run.network(self.checkpoint)

    def own_data(self) -> Data:
        data = self.experiment.data.load(self.data_dir)
        self.run.check_unchanged(data=data)
        return data

    def fitting(self, data: Data) -> Data:
        """Raises: DataError unless they have the shape and the classes that the run was trained on."""
        shape, classes = self.shape, list(self.classes)
        if data.name == ARRAYS and data.shape == shape and len(data.classes) <= len(classes):
            # labels alone, which name no classes
            return Data(data.name, data.train, data.test, tuple(classes), data.notes)
        if set(data.classes) == set(classes) and list(data.classes) != classes:
            order = ", ".join(classes[:3])
            raise DataError(
                f"{data.name}: its classes are those of {self.run.name} in another order, must be in the order"
                f" {order}, ..."
            )
        if data.shape != shape or len(data.classes) != len(classes):
            shape_text = f"{list(shape)} and {len(classes)} classes, as {self.run.name} was trained on"
            raise DataError(
                f"{data.name}: images are {list(data.shape)} of {len(data.classes)} classes, must be {shape_text}"
            )
        return data

    @property
    def seed(self) -> int:
        return self.experiment.seed

    @property
    def run_name(self) -> str:
        return self.run.name

    @property
    def digest(self) -> str:
        return self.facts["sha256"]

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.facts["shape"]
        return channels, height, width

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.facts["classes"])

    def facts_to_export(self) -> dict[str, Any]:
        return {name: self.facts[name] for name in ("experiment", "epoch", "seed", "shape", "classes", "monitors")}

    def blueprint(self) -> Blueprint | None:
        settings, fact_values = self.experiment, {"name": self.experiment.name, "seed": self.experiment.seed}
        return Blueprint.of(
            settings.model, self.network, self.shape, self.classes, settings.data, settings.protocol, **fact_values
        )

    def training_images(self) -> Split:
        return self.data.train if self.replaced else divided(self.experiment, self.data)[0]

    def about(self) -> dict[str, Any]:
        """With papers' rows, but only on the run's own images."""
        experiment, facts = self.experiment, self.facts
        notes: dict[str, Any] = {"epoch": facts["epoch"], "selection": experiment.selection}
        notes |= {name: facts[name] for name in ("placement", "placements") if name in facts}
        if arithmetic := self.begun.get("precision"):
            notes["trained_in"] = arithmetic
        if experiment.diagnosis is not None and (
            bound := theory(self.run.metrics(), facts["epoch"], experiment.diagnosis)
        ):
            notes["theory"] = bound
        if self.given is not None and not self.data.has(self.begun.get("data_digest")):
            notes["tested_on"] = self.data.name
        elif rows := [row.told(experiment.protocol) for row in experiment.rows]:
            notes["published"] = rows[0]
            if rows[1:]:
                notes["also_published"] = rows[1:]
        notes["data"] = list(self.data.notes)
        group = str(self.begun.get("group") or experiment.group)
        return {
            "checkpoint": self.checkpoint,
            "run": self.run.name,
            "group": group,
            "notes": notes,
            **self.run.trained(),
        }

    def member(self) -> dict[str, Any]:
        about = {"run": self.run.name, "group": self.run.group, "seed": self.experiment.seed}
        return {**about, "sha256": self.facts["sha256"]}

    @property
    def protocol(self) -> Protocol:
        return self.experiment.protocol

    @property
    def threat(self) -> Threat:
        return threat_of(self.experiment)

    def place(self, question: Question, suffix: str = "") -> Path:
        checkpoint_name = self.checkpoint.replace(" ", "_")
        names = {
            "record": f"{checkpoint_name}{suffix}.json",
            "corruptions": f"{checkpoint_name}-corruptions{suffix}.json",
            "sanity": f"sanity{'' if checkpoint_name == 'selected' else f'-{checkpoint_name}'}{suffix}.json",
        }
        if question == "adversarial":
            return self.run.path / "adversarial" / f"{suffix}.safetensors"
        return self.run.path / "records" / names[question]

    @property
    def folder(self) -> Path:
        return self.run.path


def threat_of(experiment: Experiment) -> Threat:
    """The first threat that the experiment's protocol, else its monitors, else nobody names: Linf 8/255."""
    attacks: list[Attack | None] = [*experiment.protocol.attacks, *(monitor.attack for monitor in experiment.monitors)]
    return next((attack.threat for attack in attacks if attack is not None), Linf())
