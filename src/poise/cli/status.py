"""poise status"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def status(
    folder: Annotated[Path, typer.Argument(help="A sweep, a run, or a folder of runs.")],
) -> None:
    """How far each run is, where, since how many minutes, and what is left, from what lies on disk.

    Examples:

      poise status swept
    """
    from rich.console import Console
    from rich.table import Table

    from poise.sweeps.status import standings, summary

    rows = standings(folder)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("run", "state", "epoch", "node", "try", "minutes", "left"):
        justify = "right" if name in ("epoch", "try", "minutes", "left") else "left"
        table.add_column(name, justify=justify, overflow="fold")  # runs differ by the end of their names
    for row in rows:
        remark = row.reason or ("" if row.left == 0 else "not known yet" if row.left is None else f"{row.left:.1f}")
        attempt = str(row.attempt) if row.attempt else ""
        table.add_row(row.name, row.word, f"{row.epoch}/{row.epochs}", row.node, attempt, f"{row.minutes:.1f}", remark)
    Console().print(table)
    typer.echo(summary(rows))
