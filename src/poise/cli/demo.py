"""poise demo"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poise.cli.shared import Device, print_table
from poise.core.bars import console, drawn

RECIPES = ("nt_digits", "at_digits", "trades_digits", "generalist_digits")

CAVEAT = (
    "On digits the natural task is nearly solved, so there is little to trade: "
    "Generalist is a position between NT and AT here, not a win over AT."
)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the four runs and the page.")] = Path("runs/demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Three epochs instead of 45: shows that everything runs, no more.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Train NT, AT, TRADES and Generalist on 1,797 real digits, attack them, and make a table and a page.

    Runs that are already in the folder are gone on with, so an interrupted demo can simply be started again.
    """
    import torch

    from poise import engine
    from poise.core.files import write_text
    from poise.recipes import experiment
    from poise.reports import read_runs, table, to_markdown, write_picture, write_report
    from poise.verbs.evaluate import evaluate

    torch.set_num_threads(1)  # networks this small lose on several threads, badly so when another process wants a core
    made_of = {name: experiment(name, quick) for name in RECIPES}
    progress = drawn(("selected",), [f"{preset.name}, seed {preset.seed}" for preset in made_of.values()])
    paths = []
    for preset in made_of.values():
        path = out / preset.name
        console.print(f"[bold]{preset.name}[/bold]", highlight=False)
        run = engine.train_or_resume(preset, path, device=device, progress=progress)
        evaluate(run, device=device, progress=progress)
        paths.append(path)
    page = write_report(paths, out / "report.html")
    write_picture(paths, out / "picture.svg")
    write_text(out / "table.md", to_markdown(table(read_runs(paths))))
    print_table(paths)
    typer.echo(CAVEAT)
    typer.echo(f"page: {page}")
    typer.echo(zoo_line())


def zoo_line() -> str:
    """What a network that comes with Poise withstands, by its record, and what shows its card."""
    from poise.zoo import zoo

    name, entry = next(iter(zoo().items()))
    record = entry.record
    natural, robust = (f"{100 * share:.1f} %" for share in (record.natural_accuracy, record.worst_case_accuracy))
    return (
        f"A trained network comes with Poise: zoo:{name}, {natural} natural and {robust} under attack on"
        f" {record.count} images of {record.dataset}; its card: poise show zoo:{name}"
    )
