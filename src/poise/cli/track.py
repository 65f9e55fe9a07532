"""poise track"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poise.cli.shared import Imports, import_files
from poise.cli.subjects import run_folders
from poise.core.bars import drawn


def track(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of run folders.")],
    to: Annotated[
        str, typer.Option(help="tensorboard, mlflow or wandb; with a place as in tensorboard:logs or mlflow:URI.")
    ] = "tensorboard",
    once: Annotated[bool, typer.Option("--once", help="Do not wait for what a run that is going on will add.")] = False,
    imports: Imports = None,
) -> None:
    """Show runs in TensorBoard, MLflow or Weights & Biases: finished ones at once, others as they go on.

    Examples:

      poise track runs/generalist --to tensorboard

      poise track runs/seeds --to mlflow:file:./mlruns

      poise track runs/generalist --to wandb:my-project
    """
    from poise.interop.trackers import tracker
    from poise.verbs.track import track as bring

    tracker(to)  # what is missing is said before anything begins
    import_files(imports)
    for run in run_folders(runs):
        count = bring(run, to, follow=not once, progress=drawn())
        typer.echo(f"{run}: {count} epochs brought to {to.partition(':')[0]}")
