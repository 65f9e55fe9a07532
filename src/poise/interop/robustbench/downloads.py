"""Weights fetched by the names that RobustBench's model zoo has for them.

The addresses are those of its repository (commit 78fcc9e, 31 March 2025): of WideResNets, ResNet-18 and
PreAct-ResNet-18 that standardise nothing by themselves, which are those that `released_weights` can tell. It publishes
no digests: the SHA-256 of what was fetched first is kept beside the file and every later reading compared with it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from poise.core.errors import CheckpointError, did_you_mean
from poise.core.files import check_writable, write_text

_ADDRESS = "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"


@cache
def addresses() -> dict[str, dict[str, dict[str, str]]]:
    """Google Drive's id by data set, threat model and name."""
    return json.loads((files("poise.interop.robustbench") / "addresses.json").read_text())


def address_of(dataset: str, threat_model: str, name: str) -> str:
    """Where the weights are fetched: below POISE_MIRROR, where that is set, at <dataset>/<threat_model>/<name>.pt.

    Raises: CheckpointError for a name that nobody knows an address of.
    """
    digests = addresses().get(dataset, {}).get(threat_model, {})
    if name not in digests:
        near = did_you_mean(name, digests) if digests else ""
        place = f"<model_dir>/{dataset}/{threat_model}/{name}.pt"
        raise CheckpointError(
            f"there is no weights file {place}, and no address of {name!r} is known{near}; put it there"
        )
    if mirror := os.environ.get("POISE_MIRROR"):
        return f"{mirror.rstrip('/')}/{dataset}/{threat_model}/{quote(name)}.pt"
    return _ADDRESS.format(digests[name])


def fetch(dataset: str, threat_model: str, name: str, path: Path, sha256: str | None = None) -> Path:
    """Have the weights at `path`, whole or not at all, after one try, with their digest beside.

    Raises: CheckpointError naming the address and where to put the file by hand.
    """
    import pooch

    address = address_of(dataset, threat_model, name)
    check_writable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.fetched")
    part.unlink(missing_ok=True)
    connections: list[Any] = []  # a failed download leaves its connection to us to close
    hooks = {"response": lambda response, **_: connections.append(response)}
    downloader: Any = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), hooks=hooks, timeout=30)
    pooch.get_logger().setLevel(logging.WARNING)
    try:
        pooch.retrieve(address, sha256, fname=part.name, path=part.parent, downloader=downloader)
        with part.open("rb") as file:
            if file.read(1) == b"<":
                raise ValueError("it answered with a page, not with weights")
        write_text(_beside(path), f"{_digest(part)}  {path.name}\n")
        part.replace(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{name} could not be downloaded from {address.partition('?')[0]} ({_reason(error)}); fetch it by hand and"
            f" put it at {path}"
        ) from None
    finally:
        part.unlink(missing_ok=True)
        for response in connections:
            response.close()
    return path


def check_digest(path: Path, sha256: str | None = None) -> None:
    """Compare a file with the given digest, and with the one that was kept when it was fetched, if it was. Raises:
    CheckpointError.
    """
    digests_noted = _beside(path).read_text().split()[:1] if _beside(path).is_file() else []
    digests_allowed = {digest.removeprefix("sha256:").lower() for digest in (*digests_noted, *filter(None, [sha256]))}
    if digests_allowed and digests_allowed != {_digest(path)}:
        raise CheckpointError(
            f"{path} is not what was fetched or asked for: its SHA-256 is {_digest(path)[:16]}..., must be"
            f" {' and '.join(sorted(digest[:16] for digest in digests_allowed))}...; delete it to fetch it again"
        )


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP status {response.status_code}"
    if type(error) is ValueError:
        return str(error) if "page" in str(error) else "its SHA-256 is not the one that was asked for"
    return getattr(error, "strerror", None) or type(error).__name__
