"""Blueprints: what rides with a network's weights, so that whoever has both can build it: its settings as JSON, the
images it takes, what it was evaluated by.

Reading one imports and executes nothing: settings name registered classes only.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
from safetensors import SafetensorError
from torch import Tensor, nn

from poise.core.documents import opened, parse, sealed, typed
from poise.core.errors import CheckpointError, SettingsError
from poise.core.identity import BENCHMARKS
from poise.core.settings import from_json, to_json
from poise.data import DataSource
from poise.engine.checkpoints import load_into
from poise.engine.given import GivenNetwork
from poise.evaluation import Protocol
from poise.evaluation.digests import digest_of
from poise.models import Network

FORMAT = 1
IN_FILE = "poise"
"""The entry of a safetensors file's metadata."""


@dataclass(frozen=True)
class Blueprint:
    """shape: of the images, [C, H, W]; weights: digest of the network with its weights (`digest_of`); seed: that it was
    trained with.
    """

    network: dict[str, Any]
    shape: list[int]
    classes: list[str]
    weights: str
    name: str = ""
    seed: int = 0
    data: dict[str, Any] = field(default_factory=dict)
    """The data set that it was trained on, where anybody can have it; else empty."""
    protocol: dict[str, Any] = field(default_factory=dict)
    """What it is evaluated by; may be empty."""
    poise_format: int = FORMAT

    @classmethod
    def of(
        cls,
        network: Network,
        built: nn.Module,
        shape: tuple[int, int, int],
        classes: tuple[str, ...],
        data: DataSource | None = None,
        protocol: Protocol | None = None,
        **about: Any,
    ) -> Blueprint | None:
        """The blueprint of a network that settings tell; None for code that they only name."""
        if isinstance(network, GivenNetwork):
            return None
        source = to_json(data) if type(data).__name__ in BENCHMARKS else {}
        protocol_data = {} if protocol is None or _has_path(to_json(protocol)) else to_json(protocol)
        return cls(
            to_json(network.blank()),
            list(shape),
            list(classes),
            digest_of(built),
            data=source,
            protocol=protocol_data,
            **about,
        )

    def document(self) -> dict[str, Any]:
        """As JSON, with a digest of its own."""
        return sealed(dataclasses.asdict(self))

    @classmethod
    def read(cls, document: object, origin: str) -> Blueprint:
        """What `document` wrote; entries that others added are passed over. Raises: CheckpointError."""
        if not isinstance(document, Mapping) or "poise_format" not in document:
            raise CheckpointError(f"{origin} is none of Poise's: it has no poise_format")
        if document["poise_format"] != FORMAT:
            raise CheckpointError(f"{origin} has poise_format {document['poise_format']!r}, must be {FORMAT}")
        names_known = {*(setting.name for setting in dataclasses.fields(cls)), "sha256"}
        try:
            blueprint = typed(cls, opened({name: value for name, value in document.items() if name in names_known}))
        except ValueError as error:
            raise CheckpointError(f"{origin} is damaged: {error}") from None
        if len(blueprint.shape) != 3 or min(blueprint.shape) < 1 or len(blueprint.classes) < 2:
            raise CheckpointError(f"{origin}: shape {blueprint.shape} and {len(blueprint.classes)} classes are none")
        return blueprint

    @classmethod
    def in_file(cls, path: Path) -> Blueprint | None:
        """The blueprint in a safetensors file; None where there is none. Raises: CheckpointError for a damaged one."""
        try:
            with safetensors.safe_open(str(path), "pt") as file:
                text = (file.metadata() or {}).get(IN_FILE)
        except (SafetensorError, OSError):
            return None  # whoever reads its tensors says what is wrong
        if text is None:
            return None
        return cls.of_text(text, f"the blueprint in {path}")

    @classmethod
    def of_text(cls, text: str, origin: str) -> Blueprint:
        """Raises: CheckpointError."""
        try:
            return cls.read(parse(text), origin)
        except ValueError as error:
            raise CheckpointError(f"{origin} is damaged: {error}") from None

    def text(self) -> str:
        return json.dumps(self.document())

    def build(self, weights: Mapping[str, Tensor], origin: str) -> nn.Module:
        """The network in evaluating mode, with these weights. Raises: CheckpointError where they are not those."""
        channels, height, width = self.shape
        try:
            settings = from_json(Network, _offline(self.network)).blank()  # type: ignore[type-abstract]
            network = settings.build((channels, height, width), len(self.classes), self.seed)
        except SettingsError as error:
            hint = "; where it is your own, --import its file" if "no registered" in str(error) else ""
            raise CheckpointError(f"{origin}: its network cannot be built: {error}{hint}") from None
        network = network.to(next(tensor.dtype for tensor in weights.values() if tensor.is_floating_point()))
        load_into(network, weights, origin)
        if digest_of(network) != self.weights:
            raise CheckpointError(f"{origin} is damaged: its weights are not those that its blueprint was written with")
        return network.eval()

    def source(self) -> DataSource | None:
        """The data set that it was trained on, where anybody can have it. Raises: CheckpointError."""
        return self._settings(DataSource, self.data) if self.data else None

    def judged_by(self) -> Protocol | None:
        """Raises: CheckpointError."""
        return self._settings(Protocol, self.protocol) if self.protocol else None

    def _settings(self, kind: Any, data: Mapping[str, Any]) -> Any:
        try:
            if _has_path(data):
                raise SettingsError(f"{kind.__name__} names a path of another machine")
            return from_json(kind, data)
        except SettingsError as error:
            raise CheckpointError(f"the blueprint of {self.name}: {error}") from None


def _has_path(data: Any) -> bool:
    """Whether settings name a place on somebody's disk."""
    if isinstance(data, Mapping):
        return any(name in ("path", "weights") or _has_path(value) for name, value in data.items())
    return isinstance(data, list) and any(map(_has_path, data))


def _offline(data: Any) -> Any:
    """Settings of a network that fetches and reads nothing but its blueprint's own weights."""
    if isinstance(data, Mapping):
        return {name: False if name == "pretrained" else _offline(value) for name, value in data.items()}
    return [_offline(item) for item in data] if isinstance(data, list) else data
