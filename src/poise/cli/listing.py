"""poise list"""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from poise.cli.shared import Imports, import_files
from poise.core.errors import SettingsError, did_you_mean

if TYPE_CHECKING:
    from poise.recipes.items import Item

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


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line of a list: under which title it stands, its name, what it is, and its paper or its row of a paper's
    table.
    """

    kind: str
    title: str
    name: str
    what: str
    source: str

    def has(self, words: Sequence[str]) -> bool:
        text = " ".join((self.title, self.name, self.what, self.source)).lower()
        return all(word.lower() in text for word in words)


def listing(
    kind: Annotated[
        str | None,
        typer.Argument(help=f"{', '.join(KINDS)}, protocols, recipes, zoo, papers; all but papers by default."),
    ] = None,
    words: Annotated[list[str] | None, typer.Argument(help="Only lines that have all these words.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object for each line, with what recipes publish.")
    ] = False,
    imports: Imports = None,
) -> None:
    """List every method, objective, attack, data set, network, protocol and recipe, with one line and its paper.

    Examples:

      poise list recipes awp svhn

      poise list all trades

      poise list recipes --json

      poise list papers
    """
    kinds = [*KINDS, "protocols", "recipes", "zoo"]
    if kind not in (None, "all", "papers", *kinds):
        hint = did_you_mean(kind, kinds)
        raise SettingsError(f"there is nothing called {kind!r} to list{hint} To search all: poise list all {kind}")
    import poise.recipes  # noqa: F401  registers everything

    import_files(imports)
    kinds_listed = kinds if kind in (None, "all") else [kind]
    entries = [entry for word in kinds_listed for entry in _entries(word) if entry.has(words or [])]
    if as_json:
        typer.echo(json.dumps([_as_json(entry) for entry in entries], indent=1))
        return
    if not entries:
        raise SettingsError(f"nothing in {kind or 'all'} has {' and '.join(map(repr, words or []))}")
    console = Console(width=None if sys.stdout.isatty() else UNWRAPPED)
    tables: dict[str, list[Entry]] = {}
    for entry in entries:
        tables.setdefault(entry.title, []).append(entry)
    for title, lines in tables.items():
        console.print(_table(title, lines, {"recipes": "row", "zoo": "record"}.get(lines[0].kind, "paper")))


def _entries(kind: str) -> list[Entry]:
    """The lines of a kind, in the order of their tables."""
    from poise.core import papers
    from poise.evaluation import PROTOCOLS
    from poise.evaluation.soe_protocols import TRANSFER_LINES

    if kind == "recipes":
        return _recipes()
    if kind == "papers":
        return _papers()
    if kind == "zoo":
        return _zoo()
    if kind == "protocols":
        entries = [(name, protocol.line, str(protocol.paper or "")) for name, protocol in PROTOCOLS.items()]
        lines = entries + [(name, line, str(papers.SYNERGY)) for name, line in TRANSFER_LINES.items()]
    else:
        lines = [(name, line_of(cls), paper_of(cls)) for name, cls in _members(kind)]
    return [Entry(kind, kind, *line) for line in lines]


def _papers() -> list[Entry]:
    """Every table and figure that `poise reproduce` makes, by paper."""
    from poise.recipes.items import items

    def what(made: Item) -> str:
        names = f"; also {', '.join(made.also)}" if made.also else ""
        return (
            f"{made.title} ({made.picture.kind if made.picture is not None else 'table'} of {len(made.lines)}"
            f" rows{names})"
        )

    return [
        Entry("papers", f"papers: {item.paper.title}", item.id, what(item), str(item.paper))
        for item in items().values()
    ]


def _recipes() -> list[Entry]:
    """Ours by data set, then those of papers by paper and table; one that several tables print has a line in each."""
    from poise.recipes import recipes
    from poise.recipes.rows import said

    entries: list[tuple[bool, Entry]] = []
    for name, recipe in recipes().items():
        experiment, line = recipe.make(False), recipe.line
        row_of_paper = experiment.published
        title = f"our own, on {type(experiment.data).__name__}" if row_of_paper is None else row_of_paper.table
        entries.append(
            (
                row_of_paper is not None,
                Entry("recipes", f"recipes: {title}", name, line, row_of_paper.row if row_of_paper is not None else ""),
            )
        )
        for row in experiment.also_published:  # with this table's numbers in place of the first one's
            what, numbers = line.removesuffix(".").partition("; published ")[0], said(row)
            line_there = f"{what}; published {numbers}." if numbers else f"{what}."
            entries.append((True, Entry("recipes", f"recipes: {row.table}", name, line_there, row.row)))
    return [entry for _, entry in sorted(entries, key=lambda pair: (pair[0], pair[1].title))]


def _zoo() -> list[Entry]:
    """With what each network's record says."""
    from poise.zoo import zoo

    entries = []
    for name, network in zoo().items():
        record = network.record
        accuracies = f"natural {100 * record.natural_accuracy:.1f}, worst case {100 * record.worst_case_accuracy:.1f}"
        of = f"{accuracies} on {record.count:,} images"
        entries.append(Entry("zoo", "zoo", f"zoo:{name}", network.card.line, of))
    return entries


def _as_json(entry: Entry) -> dict[str, Any]:
    """A line as data; a recipe's with every number that its table has printed, in percent."""
    from poise.recipes import experiment

    if entry.kind != "recipes":
        return {"kind": entry.kind, "name": entry.name, "what": entry.what, "paper": entry.source}
    recipe_experiment = experiment(entry.name)
    rows = [
        row
        for row in (recipe_experiment.published, *recipe_experiment.also_published)
        if row is not None and f"recipes: {row.table}" == entry.title
    ]
    numbers = {column: value for row in rows[:1] for column, value in zip(row.columns, row.values, strict=True)}
    table = entry.title.removeprefix("recipes: ")
    return {
        "kind": "recipes",
        "name": entry.name,
        "what": entry.what,
        "table": table,
        "row": entry.source,
        "published": numbers,
    }


def _members(word: str) -> list[tuple[str, type]]:
    from poise.core.settings import families

    return list(families().get(KINDS[word], {}).items())


def line_of(cls: type) -> str:
    """The first paragraph of a class's docstring, on one line."""
    return " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())


def paper_of(cls: type) -> str:
    return str(getattr(cls, "paper", None) or "")


def _table(title: str, entries: list[Entry], last: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("name", no_wrap=True, style="cyan")
    table.add_column("what", ratio=1)
    # rows of papers are long, and share the width with what they are
    table.add_column(last, no_wrap=last == "paper", style="dim")
    for entry in entries:
        table.add_row(entry.name, entry.what, entry.source)
    return table
