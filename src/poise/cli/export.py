"""poise export"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poise.cli.shared import Imports, import_files
from poise.cli.subjects import Asked, Checkpoint, Images, Model, subject_typed


def export(
    run: Asked,
    to: Annotated[
        Path,
        typer.Option(help="File to write: .safetensors (weights, with a .json beside) or .onnx (the whole network)."),
    ],
    checkpoint: Checkpoint = None,
    model: Model = None,
    data: Images = None,
    imports: Imports = None,
) -> None:
    """Write a run's network to a file that other programs read.

    Examples:

      poise export runs/generalist --to generalist.safetensors

      poise export runs/generalist --to generalist.onnx
    """
    from poise.verbs.export import export as write

    import_files(imports)
    write(subject_typed(run, checkpoint, model, data, "cpu", None), to)
    typer.echo(f"wrote {to}")
