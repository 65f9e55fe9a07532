"""A user's own network as a subject: as it stands, or with weights from a file."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from poise.core.errors import SettingsError
from poise.data import Data
from poise.engine.devices import choose_device
from poise.engine.own_weights import Built, network_of
from poise.evaluation.digests import digest_of
from poise.evaluation.predictions import check_answers
from poise.verbs.images import Images
from poise.verbs.subject import Question, Subject


class OfModule(Subject):
    """A module as it stands; nothing of it is written but where the caller says so. device: "auto" leaves it where it
    lies.
    """

    def __init__(
        self, module: nn.Module, data: Images | None = None, device: str = "auto", data_dir: str | Path | None = None
    ) -> None:
        super().__init__(data, device, data_dir)
        self.module = module

    @cached_property
    def network(self) -> nn.Module:
        return self.module if self.device == "auto" else self.module.to(choose_device(self.device))

    @property
    def title(self) -> str:
        return self.named

    @property
    def named(self) -> str:
        return type(self.module).__name__

    def build(self) -> nn.Module:
        return self.module

    def own_data(self) -> Data:
        raise SettingsError(
            f"{self.named} comes without images; give data: (x, y), a data set's name, a folder or an .npz archive"
        )

    def about(self) -> dict[str, Any]:
        return {**super().about(), "checkpoint": "module", "group": f"{self.named}-{digest_of(self.network)[:8]}"}


class OfWeights(Subject):
    """Weights in a file (.safetensors, or a torch file read without executing code) and what builds their network."""

    checkpoint = "file"  # one word for all files: reports compare within a checkpoint

    def __init__(
        self,
        weights: Path,
        network: Built,
        data: Images | None = None,
        device: str = "auto",
        data_dir: str | Path | None = None,
    ) -> None:
        super().__init__(data, device, data_dir)
        self.weights, self.built = weights, network

    @property
    def title(self) -> str:
        return self.weights.name

    @property
    def named(self) -> str:
        return self.weights.stem

    @property
    def spelled(self) -> str:
        return f"--weights {self.weights}"

    @property
    def located(self) -> str:
        return str(self.weights)

    def build(self) -> nn.Module:
        network = network_of(self.weights, self.built, self.data)
        check_answers(network, self.data)
        return network

    def own_data(self) -> Data:
        raise SettingsError(
            f"{self.weights} says nothing of images; give data: a data set's name, a folder, an .npz archive or (x, y)"
        )

    def about(self) -> dict[str, Any]:
        notes = {"data": list(self.data.notes), "weights": str(self.weights)}
        return {"checkpoint": self.checkpoint, "group": str(self.weights), "notes": notes}

    def place(self, question: Question, suffix: str = "") -> Path:
        if question == "adversarial":
            return self.weights.with_name(f"{self.weights.stem}.{suffix}.safetensors")
        return self.weights.with_suffix(f".{question}.json")
