"""poise bundle"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bundle(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, folders of run folders, or record files.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The archive; by default bundle.zip in the run's folder, or beside the first of several."),
    ] = None,
    weights: Annotated[bool, typer.Option("--weights", help="The evaluated weights too, not their digests alone.")] = (
        False
    ),
) -> None:
    """Make a reviewer's bundle of evaluated runs: one archive, and in it what recomputes every printed number.

    Whoever has it runs verify.py from it, with Python and numpy alone: it recomputes accuracies, intervals and
    comparisons from the predictions, and names what was changed, added, removed or swapped. Publish the digest.

    Examples:

      poise bundle runs/*

      poise bundle runs/generalist --weights --out supplement.zip
    """
    from poise.verbs.bundle import bundle as make

    result = make(runs, out, weights=weights)
    for caution in result.cautions:
        typer.echo(f"caution: {caution}", err=True)
    typer.echo(f"bundle: {result.path} ({result.path.stat().st_size / 1e6:.2f} MB)")
    typer.echo(f"digest: {result.digest}")
