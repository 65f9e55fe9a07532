"""Deployed weights as fp16 in parts under 16 MiB, with what is needed to build the network again, and the verdicts on
it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from poise.core.files import write_bytes, write_text
from poise.core.settings import from_json, to_json
from poise.engine import Experiment
from poise.engine.checkpoints import load_into
from poise.engine.runs import Run

LIMIT = 16 * 2**20 - 2**17  # bytes of tensors in a part; names and shapes come on top


def halved(tensor: Tensor) -> Tensor:
    """fp16, or the tensor as it is where fp16 cannot hold its values."""
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    return half if bool(half.isfinite().all()) else tensor


def write(run: Run, which: str, folder: Path) -> list[Path]:
    """Archive the weights `which` of a run; returns the files."""
    weights = {
        name: halved(tensor.detach().cpu()).contiguous() for name, tensor in run.network(which).state_dict().items()
    }
    parts: list[dict[str, Tensor]] = [{}]
    for name, tensor in weights.items():
        if tensor.nbytes > LIMIT:
            raise SystemExit(f"{name} alone is larger than a part")
        if sum(other.nbytes for other in parts[-1].values()) + tensor.nbytes > LIMIT:
            parts.append({})
        parts[-1][name] = tensor
    files, digests = [], {}
    for number, part in enumerate(parts, 1):
        data = safetensors.torch.save(part)
        files.append(folder / f"{which}.part{number}of{len(parts)}.safetensors")
        write_bytes(files[-1], data)
        digests[files[-1].name] = hashlib.sha256(data).hexdigest()
    facts = run.facts(which)
    described = {name: facts[name] for name in ("epoch", "monitors", "seed", "shape", "classes")}
    write_text(
        folder / f"{which}.json",
        json.dumps({**described, "digests": digests, "experiment": to_json(run.experiment)}, indent=1),
    )
    return [*files, folder / f"{which}.json"]


def read(folder: Path, which: str) -> tuple[Experiment, nn.Module, dict[str, Any]]:
    """The experiment, the network of the archived weights in float32 and evaluating mode, and what is known of them.

    Exits where a part is missing or is not the one that was written.
    """
    facts = json.loads((folder / f"{which}.json").read_text())
    weights: dict[str, Tensor] = {}
    for name, digest in facts["digests"].items():
        data = (folder / name).read_bytes() if (folder / name).exists() else b""
        if hashlib.sha256(data).hexdigest() != digest:
            raise SystemExit(f"{folder / name} is missing or not the part that was archived")
        weights |= safetensors.torch.load(data)
    experiment = from_json(Experiment, facts["experiment"])
    network = experiment.model.build(tuple(facts["shape"]), len(facts["classes"]), experiment.seed)
    load_into(
        network,
        {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()},
        str(folder),
    )
    return experiment, network.eval(), facts


def record(folder: Path, which: str, predicted: Tensor, ids: Tensor) -> None:
    """Keep the label predicted on each image under AutoAttack, so that any number can be counted again."""
    order = ids.cpu().argsort()
    labels = predicted[order].to(torch.int64).tolist()
    write_text(folder / f"{which}-autoattack.json", json.dumps({"predicted": labels}))
