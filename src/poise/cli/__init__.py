"""The command: one file per verb. Importing it imports neither torch nor anything that needs it."""

from __future__ import annotations

import contextlib
import os
import sys

import typer

from poise.cli import (
    advise,
    agreement,
    attack,
    bundle,
    demo,
    doctor,
    embed,
    evaluate,
    export,
    listing,
    pseudo_label,
    push,
    report,
    reproduce,
    sanity,
    show,
    status,
    sweep,
    track,
    train,
    transfer,
)
from poise.core.errors import Interrupted, PoiseError
from poise.core.printing import printable
from poise.core.version import __version__

app = typer.Typer(
    name="poise",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Train image classifiers that keep their accuracy under attack, and measure both numbers honestly.\n\n"
        "First steps: [bold]poise doctor[/bold], [bold]poise demo[/bold], then [bold]poise list recipes[/bold]."
    ),
)

app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("train")(train.train)
app.command("sweep")(sweep.sweep)
app.command("status")(status.status)
app.command("transfer")(transfer.transfer)
app.command("advise")(advise.advise)
app.command("evaluate")(evaluate.evaluate)
app.command("attack")(attack.attack)
app.command("agreement")(agreement.agreement)
app.command("embed")(embed.embed)
app.command("sanity")(sanity.sanity)
app.command("track")(track.track)
app.command("push")(push.push)
app.command("report")(report.report)
app.command("bundle")(bundle.bundle)
app.command("reproduce")(reproduce.reproduce)
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

    So is whatever the system refuses of a path, a name or a disk. Under torchrun one rank says it for all.
    """
    try:
        app(prog_name="poise")
    except PoiseError as error:
        if "RANK" not in os.environ or _speaks(error):
            _say(str(error))
        sys.exit(130 if isinstance(error, Interrupted) else 2)
    except (OSError, UnicodeError) as error:
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename is not None else ""
        _say(f"{where}{getattr(error, 'strerror', None) or error}")
        sys.exit(2)


def _say(sentence: str) -> None:
    """On stderr, if that can be written; without what would steer a terminal."""
    text = "\n".join(map(printable, sentence.split("\n")))
    with contextlib.suppress(OSError, ValueError):
        typer.echo(
            f"poise: {text}".encode(getattr(sys.stderr, "encoding", None) or "utf-8", errors="backslashreplace"),
            err=True,
        )


def _speaks(error: PoiseError) -> bool:
    from poise.core.distributed import speaks

    return speaks(error)
