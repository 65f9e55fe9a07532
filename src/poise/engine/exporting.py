"""Networks for other programs: safetensors weights or an ONNX graph."""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from pathlib import Path

import torch

from poise.core.errors import MissingExtraError, SettingsError
from poise.core.files import check_writable, write_bytes
from poise.engine.checkpoints import write_tensors
from poise.engine.runs import Run


def export_network(run: Run, to: Path, which: str = "selected") -> None:
    """Write the weights (.safetensors with .json) or the graph (.onnx; input "images" [B, C, H, W] in [0, 1], output "logits").

    Raises: SettingsError for another suffix, MissingExtraError without onnx.
    """
    if to.suffix not in (".safetensors", ".onnx"):
        raise SettingsError(f"--to {to}: the suffix must be .safetensors or .onnx")
    check_writable(to)
    if to.suffix == ".onnx":
        for package in ("onnx", "onnxscript"):
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(package, "onnx")
    network, facts = run.network(which), run.facts(which)
    if to.suffix == ".safetensors":
        kept = {key: facts[key] for key in ("experiment", "epoch", "seed", "shape", "classes", "monitors")}
        write_tensors(to.with_suffix(""), network.state_dict(), kept)
        return
    example = torch.full((2, *facts["shape"]), 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations are none of the user's business
        program = torch.onnx.export(
            network.float(),
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
