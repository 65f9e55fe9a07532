"""poise export"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poise.cli.shared import Imports, import_files


def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    to: Annotated[Path, typer.Option(help="File to write: .safetensors (weights, with a .json beside) or .onnx (the whole network).")],
    checkpoint: Annotated[str, typer.Option(help="selected, last, or 'epoch N'.")] = "selected",
    imports: Imports = None,
) -> None:
    """Write a run's network to a file that other programs read.

    Examples:

      poise export runs/generalist --to generalist.safetensors

      poise export runs/generalist --to generalist.onnx
    """
    from poise.engine import Run
    from poise.engine.exporting import export_network

    import_files(imports)
    export_network(Run.open(run), to, checkpoint)
    typer.echo(f"wrote {to}")
