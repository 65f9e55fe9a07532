"""poise list"""

from __future__ import annotations

import inspect
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from poise.cli.shared import Imports, import_files
from poise.core.errors import SettingsError, did_you_mean

KINDS = {
    "methods": "method",
    "objectives": "objective",
    "attacks": "attack",
    "data": "data",
    "pools": "pool",
    "models": "network",
    "threats": "threat",
    "perturbations": "perturbation",
    "averages": "average",
    "optimizers": "optimizer",
    "schedules": "schedule",
    "augmentations": "augmentation",
}

UNWRAPPED = 400
"""Columns of what goes into a pipe or a file: a line for each entry, as grep likes it."""


def listing(
    kind: Annotated[str | None, typer.Argument(help=f"{', '.join(KINDS)}, protocols, recipes; all of them by default.")] = None,
    imports: Imports = None,
) -> None:
    """List every method, objective, attack, data set, network, protocol and recipe, with one line and its paper."""
    kinds = [*KINDS, "protocols", "recipes"]
    if kind is not None and kind not in kinds:
        raise SettingsError(f"there is nothing called {kind!r} to list{did_you_mean(kind, kinds)}")
    from poise.core import papers
    from poise.evaluation import PROTOCOLS
    from poise.evaluation.soe_protocols import TRANSFER_LINES
    from poise.recipes import recipes  # registers everything
    from poise.recipes.rows import said

    import_files(imports)
    console = Console(width=None if sys.stdout.isatty() else UNWRAPPED)
    for word in [kind] if kind in KINDS else [] if kind else KINDS:
        console.print(_table(word, [(name, line_of(cls), paper_of(cls)) for name, cls in _members(word)]))
    if kind in (None, "protocols"):
        on_surrogates = [(name, line, str(papers.SYNERGY)) for name, line in TRANSFER_LINES.items()]
        console.print(_table("protocols", [(name, made.line, str(made.paper or "")) for name, made in PROTOCOLS.items()] + on_surrogates))
    if kind in (None, "recipes"):
        tables: dict[tuple[bool, str], list[tuple[str, str, str]]] = {}
        for name, made in recipes().items():
            experiment = made.make(False)
            own, line = experiment.published, made.line
            title = f"our own, on {type(experiment.data).__name__}" if own is None else own.table
            tables.setdefault((own is not None, title), []).append((name, line, own.row if own is not None else ""))
            for row in experiment.also_published:  # with this table's numbers in place of the first one's
                what, numbers = line.removesuffix(".").partition("; published ")[0], said(row)
                line_there = f"{what}; published {numbers}." if numbers else f"{what}."
                tables.setdefault((True, row.table), []).append((name, line_there, row.row))
        for printed, title in sorted(tables):  # ours by data set, then those of papers by paper and table
            console.print(_table(f"recipes: {title}", tables[printed, title], "row" if printed else ""))


def _members(word: str) -> list[tuple[str, type]]:
    from poise.core.settings import families

    return list(families().get(KINDS[word], {}).items())


def line_of(cls: type) -> str:
    """The first line of a class's docstring."""
    return (inspect.getdoc(cls) or "").splitlines()[0]


def paper_of(cls: type) -> str:
    return str(getattr(cls, "paper", None) or "")


def _table(title: str, rows: list[tuple[str, str, str]], last: str = "paper") -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("name", no_wrap=True, style="cyan")
    table.add_column("what", ratio=1)
    table.add_column(last, no_wrap=last == "paper", style="dim")  # rows of papers are long, and share the width with what they are
    for row in rows:
        table.add_row(*row)
    return table
