"""The command: one file per verb. Importing it imports neither torch nor anything that needs it."""

from __future__ import annotations

import os
import sys

import typer

from poise.cli import attack, demo, embed, evaluate, export, listing, pseudo_label, report, sanity, show, train, transfer
from poise.core.errors import Interrupted, PoiseError
from poise.core.version import __version__

app = typer.Typer(
    name="poise",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train image classifiers that keep their accuracy under attack, and measure both numbers honestly.\n\n"
    "First steps: [bold]poise demo[/bold], then [bold]poise list recipes[/bold].",
)

app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("transfer")(transfer.transfer)
app.command("evaluate")(evaluate.evaluate)
app.command("attack")(attack.attack)
app.command("embed")(embed.embed)
app.command("sanity")(sanity.sanity)
app.command("report")(report.report)
app.command("list")(listing.listing)
app.command("show")(show.show)
app.command("export")(export.export)
app.command("pseudo-label")(pseudo_label.pseudo_label)


@app.callback(invoke_without_command=True)
def version(show_version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if show_version:
        typer.echo(f"poise {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command; what Poise refuses is one sentence on stderr and exit status 2, an interrupted run 130.

    Under torchrun one rank says it for all.
    """
    try:
        app()
    except PoiseError as error:
        if "RANK" not in os.environ or _speaks(error):
            typer.echo(f"poise: {error}", err=True)
        sys.exit(130 if isinstance(error, Interrupted) else 2)


def _speaks(error: PoiseError) -> bool:
    from poise.core.distributed import speaks

    return speaks(error)
