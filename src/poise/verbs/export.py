"""Networks for other programs: safetensors weights or an ONNX graph."""

from __future__ import annotations

import copy
import importlib.util
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from poise.core.callers import computed_plainly
from poise.core.errors import MissingExtraError, SettingsError
from poise.core.files import check_writable, write_bytes
from poise.core.modes import evaluating
from poise.engine.blueprint import IN_FILE
from poise.engine.checkpoints import write_tensors
from poise.verbs.images import Images
from poise.verbs.kinds import Asked, subject_of


@computed_plainly
def export(asked: Asked, to: str | Path, data: Images | None = None, **kind: Any) -> Path:
    """Write the weights (.safetensors, which tells how its network is built, with .json) or the graph
    (.onnx; input "images" [B, C, H, W] in [0, 1], output
    "logits").

    asked, data, kind: see `subject_of`. Returns the file.
    Raises: SettingsError for another suffix, MissingExtraError without onnx, and what the subject refuses.
    """
    to = Path(to)
    if to.suffix not in (".safetensors", ".onnx"):
        raise SettingsError(f"--to {to}: the suffix must be .safetensors or .onnx")
    check_writable(to)
    if to.suffix == ".onnx":
        for package in ("onnx", "onnxscript"):
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(package, "onnx")
    subject = subject_of(asked, data, **{"device": "cpu", **kind})
    network = subject.network
    if to.suffix == ".safetensors":
        plan = subject.blueprint()
        inside = {} if plan is None else {IN_FILE: plan.text()}
        write_tensors(to.with_suffix(""), network.state_dict(), subject.facts_to_export(), {"format": "pt", **inside})
        return to
    example = torch.full((2, *subject.shape), 0.5)
    network = copy.deepcopy(network).float()
    with evaluating(network), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations are none of the user's business
        program = torch.onnx.export(
            network,
            (example,),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "network.onnx"
            program.save(str(file))
            write_bytes(to, file.read_bytes())
    return to
