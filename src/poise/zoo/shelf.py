"""A zoo network: its card, and beside it weights, settings, record and sanity verdict, each under the digest that the
card holds.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from poise.core.documents import opened, parse, read_document, sealed, typed
from poise.core.errors import CheckpointError, RunError, SettingsError, did_you_mean
from poise.core.files import write_text
from poise.core.records import EvaluationRecord
from poise.core.settings import from_json
from poise.core.verdicts import Verdict
from poise.engine.checkpoints import load_into, load_safetensors
from poise.engine.experiment import Experiment
from poise.evaluation import Protocol

PREFIX = "zoo:"
"""What the names begin with where runs and files may stand too."""
SHELF = Path(str(files("poise.zoo")))
CARD, WEIGHTS, SETTINGS, RECORD, VERDICT = (
    "card.json",
    "weights.safetensors",
    "experiment.json",
    "record.json",
    "sanity.json",
)


@dataclass(frozen=True)
class Card:
    """What it is, what it is good for and what not; shape of its images [C, H, W], classes, the protocol it was
    evaluated by.

    files: SHA-256 of what lies beside the card, by name.
    """

    line: str
    good_for: str
    not_for: str
    shape: list[int]
    classes: list[str]
    protocol: dict[str, Any]
    files: dict[str, str]

    def write(self, folder: Path) -> None:
        write_text(folder / CARD, json.dumps(sealed(self.__dict__), indent=1) + "\n")


@dataclass(frozen=True)
class ZooNetwork:
    """An entry. Whatever is read of it is held against its digest. Raises (on reading): CheckpointError for a damaged
    file.
    """

    name: str
    folder: Path

    @property
    def card(self) -> Card:
        try:
            return typed(Card, opened(read_document(self.folder / CARD, "card")))
        except (RunError, ValueError) as error:
            raise CheckpointError(f"{PREFIX}{self.name}: its card is damaged ({error}); install Poise again") from None

    def file(self, name: str) -> bytes:
        """A file's content, as the card has it."""
        path = self.folder / name
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content).hexdigest() != self.card.files.get(name):
            raise CheckpointError(
                f"{path} is damaged: its SHA-256 is not the one on the card of {PREFIX}{self.name}; install Poise again"
            )
        return content

    @property
    def experiment(self) -> Experiment:
        """The settings that it was trained with."""
        return from_json(Experiment, parse(self.file(SETTINGS).decode()))

    @property
    def protocol(self) -> Protocol:
        """What its record was made by."""
        return from_json(Protocol, self.card.protocol)

    @property
    def record(self) -> EvaluationRecord:
        self.file(RECORD)
        return EvaluationRecord.read(self.folder / RECORD)

    @property
    def verdict(self) -> Verdict:
        self.file(VERDICT)
        return Verdict.read(self.folder / VERDICT)

    def network(self) -> nn.Module:
        """In evaluating mode, float32: images [B, C, H, W] in [0, 1] to logits [B, classes]."""
        card, experiment = self.card, self.experiment
        channels, height, width = card.shape
        network = experiment.model.build((channels, height, width), len(card.classes), experiment.seed)
        weights = load_safetensors(self.file(WEIGHTS), str(self.folder / WEIGHTS))
        load_into(network, widened_weights(weights), f"{PREFIX}{self.name}")
        return network.eval()


def rounded_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they are shipped: matrices and kernels in float16, all else as it is."""
    weights_rounded = {name: part.to(torch.float16) if part.dim() > 1 else part for name, part in weights.items()}
    return {name: part.detach().contiguous() for name, part in weights_rounded.items()}


def widened_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Shipped weights as a network has them, in float32."""
    return {name: part.float() if part.dtype is torch.float16 else part for name, part in weights.items()}


@lru_cache(maxsize=1)
def _names() -> tuple[str, ...]:
    return tuple(sorted(path.parent.name for path in SHELF.glob(f"*/{CARD}")))


def zoo() -> dict[str, ZooNetwork]:
    """All zoo networks by name."""
    return {name: ZooNetwork(name, SHELF / name) for name in _names()}


def zoo_network(name: str) -> ZooNetwork:
    """The network of that name, with "zoo:" before it or not. Raises: SettingsError with the nearest name."""
    networks, name = zoo(), name.removeprefix(PREFIX)
    if name not in networks:
        raise SettingsError(f"there is no zoo network {name!r}{did_you_mean(name, networks)}")
    return networks[name]
