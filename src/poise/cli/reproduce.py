"""poise reproduce"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from poise.cli.shared import DataDir, Device
from poise.core.bars import drawn


def reproduce(
    item: Annotated[
        str, typer.Argument(help="A table or figure, such as generalist/table1a; poise list papers has all.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of runs, which items share, and of what is made of them.")] = Path(
        "reproduced"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each row.")] = 1,
    scale: Annotated[
        Literal["quick", "digits", "study", "paper"],
        typer.Option(
            help=(
                "paper, study (a thin network, 20 epochs of CIFAR-10), digits (embedded data) or quick (shows that it"
                " runs)."
            )
        ),
    ] = "paper",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what is there, what is missing and what it costs.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that work side by side.")] = 1,
    corruptions: Annotated[
        Path | None, typer.Option(help="The unpacked corrupted images, for items that have such a column.")
    ] = None,
    held_out: Annotated[
        bool,
        typer.Option("--held-out", help="Each run a second time, its epoch chosen on held-out images, beside it."),
    ] = False,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Make a table or figure of the papers: train and evaluate what is missing, then write table, picture and page.

    Stopped at any moment, the same command goes on. Several processes may work in one folder.

    Examples:

      poise reproduce generalist/table1a --dry-run

      poise reproduce generalist/table1a --scale digits --seeds 3

      poise reproduce st/fig6 --scale study --jobs 4
    """
    from poise.recipes.items import item as of_name
    from poise.reports.formats import to_terminal
    from poise.reports.terminal import show
    from poise.reproduce.plan import minutes, planned, told
    from poise.reproduce.results import write
    from poise.reproduce.work import Where, make

    plan = planned(of_name(item), scale, seeds, out, held_out)
    where = Where(device, data_dir, corruptions)
    for line in [*told(plan), *minutes(plan, where.device, where.data_dir)]:
        typer.echo(line, err=not dry_run)
    if dry_run:
        return
    again = [sys.executable, "-m", "poise", *sys.argv[1:]] if jobs > 1 else []
    make(plan, where, drawn(), jobs, again)
    sheet, files = write(plan, out, device, data_dir)
    typer.echo(sheet.title)
    if sheet.made:
        show(to_terminal(sheet.table))
    for path in files:
        typer.echo(path)
