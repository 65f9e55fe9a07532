"""poise report"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from poise.cli.shared import print_table
from poise.core.errors import SettingsError


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, folders of run folders, or record files.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="By default report.html in the run's folder or beside the first of several; tables are printed."
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help=(
                "The row that every other one is held against, or 'all' for all pairs; by default the best other one of"
                " a column."
            )
        ),
    ] = None,
    format: Annotated[Literal["html", "markdown", "csv", "latex"], typer.Option(help="What to make.")] = "html",
) -> None:
    """Make a page, or a table, from evaluated runs. Runs that differ only by their seed are one row.

    Examples:

      poise report runs/*

      poise report runs/* --baseline TRADES

      poise report runs/at runs/generalist --format latex
    """
    from poise.core.files import write_text
    from poise.reports import read_runs, table, to_csv, to_latex, to_markdown, write_report
    from poise.reports.experts import experts_markdown
    from poise.reports.sanity import verdict_markdown

    if baseline is not None and format != "html":
        raise SettingsError(f"--baseline {baseline} is of the page; leave it or --format {format} out")
    runs = [path for path in runs if path.suffix != ".html"] or runs  # a page that an earlier call left beside the runs
    if format == "html":
        print_table(runs)
        page = write_report(
            runs,
            out or (runs[0] if len(runs) == 1 and runs[0].is_dir() else runs[0].parent) / "report.html",
            baseline=baseline,
        )
        typer.echo(f"page: {page}")
        return
    run_list = read_runs(runs)
    results = table(run_list)
    text = {"markdown": to_markdown, "csv": to_csv, "latex": to_latex}[format](results)
    if format == "markdown" and (experts := experts_markdown(results)):
        text += f"\n{experts}"
    if format == "markdown":
        text += "".join(f"\n{verdict_markdown(verdict)}" for run in run_list for verdict in run.verdicts)
    if out is None:
        typer.echo(text)
    elif out.is_dir():
        raise SettingsError(f"--out {out} is a folder; must be a file")
    else:
        write_text(out, text)
