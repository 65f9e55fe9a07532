"""Tensors on disk: safetensors with JSON beside. Writes are atomic; what is damaged is named, never read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from poise.core.bounds import read_fitting
from poise.core.documents import opened, parse, sealed
from poise.core.errors import CheckpointError
from poise.core.files import read_text, write_files
from poise.core.transfers import fetched
from poise.engine.foreign_weights import fitting, foreign_weights, load_into, load_safetensors, without_prefixes

__all__ = [
    "facts_file",
    "fitting",
    "foreign_weights",
    "load_into",
    "read_facts",
    "read_tensors",
    "tensors_file",
    "without_prefixes",
    "write_tensors",
]
FORMAT = 1


def write_tensors(
    path: Path, tensors: dict[str, Tensor], facts: dict[str, Any], metadata: dict[str, str] | None = None
) -> str:
    """Write `path`.safetensors, then `path`.json with the facts and the SHA-256 of the former, which is returned.

    metadata: texts inside the former.
    Both are whole or as they were; should the process end between the two renames, digests tell that they do not belong
    together.
    Raises: StorageError.
    """
    plain = dict(zip(tensors, fetched(list(tensors.values())), strict=True))
    data = safetensors.torch.save(plain, metadata)
    digest = hashlib.sha256(data).hexdigest()
    facts_written = {"format": FORMAT, "sha256": digest, **facts}
    beside = json.dumps(sealed(facts_written, "facts_sha256"), indent=1)
    write_files({tensors_file(path): data, facts_file(path): beside.encode()})
    return digest


def tensors_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.safetensors")


def facts_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def read_facts(path: Path) -> dict[str, Any]:
    """The JSON beside a tensor file. Raises: CheckpointError when it is missing, damaged or altered."""
    beside = facts_file(path)
    try:
        facts = parse(read_text(beside))
    except FileNotFoundError:
        raise CheckpointError(
            f"{beside} is missing: the checkpoint was never finished or is not one of Poise's"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{beside} is damaged: {error}") from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise CheckpointError(f"{beside} is not a checkpoint of format {FORMAT}")
    try:
        return opened(facts, "facts_sha256")
    except ValueError as error:
        raise CheckpointError(f"{beside} is damaged: {error}") from None


def read_tensors(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts. Raises: CheckpointError when a file is missing, truncated or altered."""
    facts = read_facts(path)
    file = tensors_file(path)
    try:
        data = read_fitting(file)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != facts.get("sha256"):
        raise CheckpointError(f"{file} is damaged: its SHA-256 is not the one in {facts_file(path).name}")
    return load_safetensors(data, str(file), device), facts
