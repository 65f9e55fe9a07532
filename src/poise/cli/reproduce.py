"""poise reproduce"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from poise.cli.shared import Cpus, DataDir, Device, On
from poise.core.bars import drawn
from poise.core.errors import SettingsError

if TYPE_CHECKING:
    from poise.recipes.items import Item
    from poise.reproduce.plan import Plan
    from poise.reproduce.scales import Scale
    from poise.reproduce.work import Where


def reproduce(
    item: Annotated[
        str | None, typer.Argument(help="A table or figure, such as generalist/table1a; poise list papers has all.")
    ] = None,
    all_items: Annotated[bool, typer.Option("--all", help="All items that have rows at the scale.")] = False,
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
    jobs: Annotated[int, typer.Option(min=1, help="Runs that are made side by side on this machine.")] = 1,
    on: On = None,
    cpus: Cpus = 1,
    gpus: Annotated[
        float,
        typer.Option(
            min=0,
            help="Accelerators of each run, on ray and slurm; with --dry-run how many there are, to schedule on.",
        ),
    ] = 0.0,
    teraflops: Annotated[
        float, typer.Option(min=0.001, help="With --dry-run --gpus: what one of them does in a second, sustained.")
    ] = 100.0,
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

      poise reproduce generalist/table1a --seeds 5 --on ray --gpus .5 --out /shared/tables

      poise reproduce --all --seeds 5 --dry-run --gpus 8
    """
    if (item is None) != all_items:
        raise SettingsError("name one item (poise list papers), or --all")
    if dry_run and gpus != int(gpus):
        raise SettingsError(f"--gpus {gpus:g}: must be a whole number with --dry-run, which schedules on so many")
    from poise.recipes.items import item as of_name
    from poise.recipes.items import items
    from poise.reproduce.plan import minutes, told
    from poise.reproduce.results import can_draw
    from poise.reproduce.work import Where

    items_asked = list(items().values()) if all_items else [of_name(item or "")]
    plans = _planned(items_asked, scale, seeds, out, held_out, several=all_items)
    where = Where(device, data_dir, corruptions)
    if dry_run and gpus:
        _print_makespan(plans, int(gpus), teraflops)
        return
    for plan in plans:
        for line in [*told(plan), *minutes(plan, where.device, where.data_dir)]:
            typer.echo(line, err=not dry_run)
        if plan.item.picture is not None and not can_draw():
            typer.echo("  without its picture, which needs matplotlib: pip install 'poise[plots]'", err=not dry_run)
    for plan in () if dry_run else plans:
        _make(plan, out, where, jobs, on, cpus, gpus)


def _planned(asked: Sequence[Item], scale: Scale, seeds: int, out: Path, held_out: bool, several: bool) -> list[Plan]:
    """The plans of these items; of several those that have rows at the scale."""
    from poise.reproduce.plan import planned

    plans = []
    for item_asked in asked:
        try:
            plans.append(planned(item_asked, scale, seeds, out, held_out))
        except SettingsError:
            if not several or seeds < 1:
                raise
    return plans


def _print_makespan(plans: Sequence[Plan], gpus: int, teraflops: float) -> None:
    from poise.reproduce.makespan import jobs_of, said, scheduled

    jobs, jobs_uncounted = jobs_of(plans)
    for line in said(scheduled(jobs, gpus), teraflops, jobs_uncounted):
        typer.echo(line)


def _make(plan: Plan, out: Path, where: Where, jobs: int, on: str | None, cpus: int, gpus: float) -> None:
    """Make what is missing, then write and show the item."""
    from poise.reports.formats import to_terminal
    from poise.reports.terminal import show
    from poise.reproduce.results import write
    from poise.reproduce.work import make
    from poise.sweeps.engines import engine_of
    from poise.sweeps.ledger import Needs

    engine = engine_of(on, jobs) if on is not None or jobs > 1 else None
    if engine is not None:
        engine.require()
    make(plan, where, drawn(), engine, Needs(1, cpus, gpus))
    sheet, files = write(plan, out, where.device, where.data_dir)
    typer.echo(sheet.title)
    if sheet.made:
        show(to_terminal(sheet.table))
    for path in files:
        typer.echo(path)
