"""A network that carries its blueprint as a subject: an exported file, a folder that was pushed, a repository of the
hub.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from poise.core.errors import CheckpointError, RunError, SettingsError
from poise.core.records import EvaluationRecord
from poise.core.verdicts import Verdict
from poise.data import Data
from poise.engine.blueprint import Blueprint
from poise.engine.checkpoints import load_safetensors
from poise.evaluation import Protocol
from poise.interop.hub.files import CONFIG, RECORD, VERDICT, WEIGHTS
from poise.threats import Threat
from poise.verbs.images import Images, check_fit
from poise.verbs.subject import Question, Subject

FOLDER = Path("runs") / "hub"
"""Where what is found of networks from elsewhere is written, from the working folder on."""


class OfBlueprint(Subject):
    """Weights in a safetensors file, with the blueprint that tells their network.

    spelled: how the command names it; beside: where the published record and verdict lie, if any.
    """

    checkpoint = "file"
    own_code = False

    def __init__(
        self,
        weights: Path,
        blueprint: Blueprint,
        spelled: str,
        beside: Path | None = None,
        data: Images | None = None,
        device: str = "auto",
        data_dir: str | Path | None = None,
    ) -> None:
        super().__init__(data, device, data_dir)
        self.weights, self.plan, self._spelled, self.beside = weights, blueprint, spelled, beside

    @property
    def title(self) -> str:
        return self._spelled

    @property
    def named(self) -> str:
        return self.plan.name or self._spelled

    @property
    def spelled(self) -> str:
        return self._spelled

    @property
    def located(self) -> str:
        return str(self.weights)

    @property
    def replaced(self) -> bool:
        return self.given is not None

    def build(self) -> nn.Module:
        try:
            content = self.weights.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{self.weights} cannot be read: {error.strerror or error}") from None
        return self.plan.build(load_safetensors(content, str(self.weights)), str(self.weights))

    def own_data(self) -> Data:
        source = self.plan.source()
        if source is None:
            raise SettingsError(
                f"{self.title} was trained on images that did not come with it; give data: a data set's name, a folder,"
                " an .npz archive or (x, y)"
            )
        return source.load(self.data_dir)

    def fitting(self, data: Data) -> Data:
        return check_fit(data, self.shape, self.classes, self.title)

    @property
    def seed(self) -> int:
        return self.plan.seed

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.plan.shape
        return channels, height, width

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.plan.classes)

    def blueprint(self) -> Blueprint:
        return self.plan

    def about(self) -> dict[str, Any]:
        about = {"checkpoint": self.checkpoint, "group": f"{self.named}-{self.plan.weights[:8]}"}
        return {**about, "notes": {"data": list(self.data.notes)}}

    @property
    def protocol(self) -> Protocol | None:
        return self.plan.judged_by()

    @property
    def threat(self) -> Threat | None:
        protocol = self.protocol
        return protocol.attacks[0].threat if protocol is not None and protocol.attacks else None

    def place(self, question: Question, suffix: str = "") -> Path:
        """Of a file beside it, else in runs/hub: what was published stays as it is."""
        if self.beside is None:
            return self.weights.with_suffix(f".{question}{suffix}.json")
        ending = "safetensors" if question == "adversarial" else "json"
        return FOLDER / re.sub(r"[^\w.-]+", "-", self._spelled).strip("-.") / f"{question}{suffix}.{ending}"

    @cached_property
    def published_record(self) -> EvaluationRecord | None:
        """What was published of its accuracies: a claim, not a measurement of ours. Raises: RunError for a damaged
        one, or another network's.
        """
        path = None if self.beside is None else self.beside / RECORD
        if path is None or not path.exists():
            return None
        record = EvaluationRecord.read(path)
        if record.model_digest != self.plan.weights:
            raise RunError(f"{path} is of other weights than {self.weights}")
        return record

    @cached_property
    def published_verdict(self) -> Verdict | None:
        path = None if self.beside is None else self.beside / VERDICT
        return Verdict.read(path) if path is not None and path.exists() else None


def of_folder(folder: Path, spelled: str, **where: Any) -> OfBlueprint:
    """The network in a folder that was pushed. Raises: CheckpointError for one that is none of Poise's."""
    try:
        text = (folder / CONFIG).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder / CONFIG} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    plan = Blueprint.of_text(text, str(folder / CONFIG) if spelled.startswith("folder:") else f"{CONFIG} of {spelled}")
    return OfBlueprint(folder / WEIGHTS, plan, spelled, folder, **where)
