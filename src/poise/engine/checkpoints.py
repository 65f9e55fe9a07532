"""Tensors on disk: safetensors with JSON beside. Writes are atomic; what is damaged is named, never read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from poise.core.documents import opened, parse, sealed
from poise.core.errors import CheckpointError
from poise.core.files import read_text, write_files
from poise.core.transfers import fetched

FORMAT = 1


def write_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> str:
    """Write `path`.safetensors, then `path`.json with the facts and the SHA-256 of the former, which is returned.

    Both are whole or as they were; should the process end between the two renames, digests tell that they do not belong together.
    Raises: StorageError.
    """
    plain = dict(zip(tensors, fetched(list(tensors.values())), strict=True))
    data = safetensors.torch.save(plain)
    digest = hashlib.sha256(data).hexdigest()
    described = {"format": FORMAT, "sha256": digest, **facts}
    beside = json.dumps(sealed(described, "facts_sha256"), indent=1)
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
        raise CheckpointError(f"{beside} is missing: the checkpoint was never finished or is not one of Poise's") from None
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
        data = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != facts.get("sha256"):
        raise CheckpointError(f"{file} is damaged: its SHA-256 is not the one in {facts_file(path).name}")
    return load_safetensors(data, str(file), device), facts


def load_safetensors(data: bytes, origin: str, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Tensors of a safetensors file. Raises: CheckpointError naming `origin`."""
    try:
        return {name: tensor.to(device) for name, tensor in safetensors.torch.load(data).items()}
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{origin} is not a valid safetensors file: {error}") from None


def foreign_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a user's own checkpoint: .safetensors, or a torch file read with `weights_only=True`.

    In a torch file it may lie under "state_dict", "model" or "net". Its names are as they were saved (see `fitting`).
    Raises: CheckpointError when the file is missing, would run code, or holds no tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no weights file {path}")
    if path.suffix == ".safetensors":
        return load_safetensors(path.read_bytes(), str(path))
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds; whatever it is, nothing of the file was used
        if asked := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path} asks for {asked[1]}, which could run code, and was not read; save its state_dict alone"
            ) from None
        raise CheckpointError(f"{path} is not a whole file of weights as torch.save writes them, or is no such file") from None
    for key in ("state_dict", "model", "net"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(f"{path} holds no state dict of tensors")
    return found


def fitting(weights: dict[str, Tensor], network: torch.nn.Module) -> dict[str, Tensor]:
    """The weights without "module." or "model." before every name, where the network's own names do not begin so."""
    return without_prefixes(weights, ("module.", "model."), set(network.state_dict()))


def without_prefixes(weights: dict[str, Tensor], prefixes: Sequence[str], known: Collection[str] = ()) -> dict[str, Tensor]:
    """The weights without the prefixes that all names share, as long as none of them is `known`."""
    for prefix in prefixes:
        if not any(name in known for name in weights) and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def load_into(network: torch.nn.Module, weights: dict[str, Tensor], origin: str) -> None:
    """Raises: CheckpointError naming the first tensor that is missing, left over or of another shape."""
    wanted = network.state_dict()
    for name, tensor in wanted.items():
        if name not in weights:
            raise CheckpointError(f"{origin} lacks {name}, which {type(network).__name__} needs")
        if weights[name].shape != tensor.shape:
            shapes = f"{list(weights[name].shape)}, must be {list(tensor.shape)}"
            raise CheckpointError(f"{origin}: {name} has shape {shapes} for this {type(network).__name__}")
    if left := sorted(set(weights) - set(wanted)):
        raise CheckpointError(f"{origin} has {left[0]}, which {type(network).__name__} does not know ({len(left)} such tensors)")
    network.load_state_dict(weights)
