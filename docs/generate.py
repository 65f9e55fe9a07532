"""Writes what the docs say of the classes from the classes: docs/reference.md.

python docs/generate.py            write
python docs/generate.py --check    exit 1 when something is out of date
python docs/generate.py --api      write docs/api too, which only the site needs
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import sys
import textwrap
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from poise.cli import app
from poise.cli.listing import line_of, paper_of
from poise.core.settings import families, field_names, spelled
from poise.evaluation import PROTOCOLS
from poise.evaluation.soe_protocols import TRANSFER
from poise.recipes import recipes

ROOT = Path(__file__).parents[1]
KINDS = {
    "Methods": "method",
    "Objectives": "objective",
    "Attacks": "attack",
    "Data sets": "data",
    "Networks": "network",
    "Weight perturbations": "perturbation",
    "Averages": "average",
    "Threats": "threat",
}
SWEPT = (
    "`matched_trades` of `poise.recipes.trades_matched` sweeps TRADES' beta until the natural accuracy is a given one,"
    " in at most nine runs; `poise show trades_matched_cifar10_resnet18` prints the call."
)


def members(family: str) -> list[type]:
    return [cls for cls in families()[family].values() if cls.__module__.startswith("poise.")]


def overview() -> str:
    """Every name with its paper."""
    lines = ["| | names (paper) |", "|---|---|"]
    for title, family in KINDS.items():
        named = [f"`{cls.__name__}`" + (f" ({paper_of(cls)})" if paper_of(cls) else "") for cls in members(family)]
        lines.append(f"| {title} | {', '.join(named)} |")
    return "\n".join(lines)


def reference() -> str:
    """docs/reference.md: every registered class with its first line, paper and settings, and every recipe."""
    parts = ["# Reference", "", "Generated from the classes by `make docs`.", "", overview(), ""]
    for title, family in KINDS.items():
        parts += [f"## {title}", "", "| name | what | settings | paper |", "|---|---|---|---|"]
        for cls in members(family):
            settings = ", ".join(f"`{name}`" for name in field_names(cls))
            parts.append(f"| `{cls.__name__}` | {_cell(line_of(cls))} | {settings} | {paper_of(cls)} |")
        parts.append("")
    parts += [
        "## Recipes",
        "",
        "`poise show NAME` prints all settings; `poise train NAME --quick` runs the small variant.",
        SWEPT,
        "",
    ]
    parts += ["| name | what | paper and table |", "|---|---|---|"]
    for name, recipe in recipes().items():
        made = recipe.make(False)
        tables = "; ".join(row.table for row in (made.published, *made.also_published) if row)
        parts.append(f"| `{name}` | {_cell(recipe.line)} | {_cell(tables)} |")
    parts += ["", "## Papers", "", "| key | title | where |", "|---|---|---|"]
    cited = {
        cls.paper.key: cls.paper for family in KINDS.values() for cls in members(family) if getattr(cls, "paper", None)
    }  # type: ignore[attr-defined]
    parts += [f"| {paper.key} | {paper.title} | {paper.where} |" for _, paper in sorted(cited.items())]
    return "\n".join([*parts, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


MEASURED = (
    "2026-11-22-digits_objectives-2-core-x86-64",
    "2026-11-21-mnist_slim-2-core-x86-64",
    "2026-11-22-mnist_smallcnn-2-core-x86-64",
)
"""Results whose tables say what recipes reach."""


def evidence() -> str:
    """src/poise/recipes/evidence.json: rows of benchmarks/results by recipe, ours with AutoAttack where it was run."""
    found: dict[str, list[dict[str, float | str]]] = {}
    for name in MEASURED:
        heads: list[str] = []
        for line in (ROOT / "benchmarks" / "results" / f"{name}.md").read_text().splitlines():
            cells = [cell.strip().replace("\\", "").strip("*") for cell in line.strip("|").split("|")]
            if not line.startswith("|"):
                heads = []
            elif not heads:
                heads = cells
            elif heads[0] in ("recipe", "method") and cells[0] in recipes():
                row = dict(zip(heads, cells, strict=False))
                column = "AutoAttack" if "AutoAttack" in row else "worst case"
                numbers = {"natural": row["natural"], "robust": row[column]}
                told = {key: float(re.match(r"[\d.]+", text)[0]) for key, text in numbers.items()}  # type: ignore[index]
                found.setdefault(cells[0], []).append(
                    told | {"column": column, "source": f"benchmarks/results/{name}.md"}
                )
    return json.dumps(found, indent=1) + "\n"


def generated() -> dict[Path, str]:
    """What each generated file must hold."""
    names = json.dumps({"recipes": list(recipes()), "protocols": [*PROTOCOLS, *TRANSFER]}, indent=0)
    return {
        ROOT / "docs" / "reference.md": reference(),
        ROOT / "src" / "poise" / "cli" / "names.json": f"{names}\n",
        ROOT / "src" / "poise" / "recipes" / "evidence.json": evidence(),
    }


# The pages of docs/api: every class with its settings, from the classes; they are written for the site and not kept.

API = {
    "method": ("Methods", ("method", "Policy", "BaseLearner")),
    "objective": ("Objectives", ("objective", "Ascent")),
    "attack": ("Attacks and threats", ("attack", "threat")),
    "data": ("Data sets and augmentation", ("data", "augmentation", "Mixing", "pool", "Extra", "Stream")),
    "network": ("Networks", ("network", "Normalisation")),
    "training": ("Training", ("optimizer", "schedule", "average", "perturbation", "teacher")),
    "experiment": ("Experiments and protocols", ("Experiment", "Monitor", "Protocol", "Diagnosis")),
}


def api() -> dict[Path, str]:
    """Each page of docs/api."""
    pages = {ROOT / "docs" / "api" / f"{name}.md": _page(title, kinds) for name, (title, kinds) in API.items()}
    return pages | {ROOT / "docs" / "api" / "command.md": _command()}


def _page(title: str, kinds: tuple[str, ...]) -> str:
    parts = [f"# {title}", ""]
    for kind in kinds:
        classes = members(kind)
        parts += [f"## {kind.capitalize() if kind.islower() else kind}", ""] if len(classes) > 1 else []
        for cls in classes:
            parts += [f"### {cls.__name__}", "", f"`{cls.__module__}.{cls.__name__}`", ""]
            parts += [inspect.getdoc(cls) or "", ""]
            if paper_of(cls):
                parts += [f"Paper: {paper_of(cls)}.", ""]
            parts += [*_settings(cls), ""]
    return "\n".join(parts)


def _settings(cls: type) -> list[str]:
    """The table of a class's settings: type, range, default and what the source says of each."""
    fields = [field for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
    if not fields:
        return ["No settings."]
    rows = ["| setting | type | default | range | |", "|---|---|---|---|---|"]
    said, known = _said(cls), cls.__pydantic_fields__  # type: ignore[attr-defined]
    for field in fields:
        kind, allowed = _type_of(known[field.name])
        default = "required" if field.default is dataclasses.MISSING else f"`{_short(field.default)}`"
        cells = (f"`{field.name}`", kind, default, allowed, said.get(field.name, ""))
        rows.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return rows


LIMITS = {
    "gt": "above {:g}",
    "ge": "{:g} or more",
    "lt": "below {:g}",
    "le": "at most {:g}",
    "min_length": "{:g} or more of",
}


def _type_of(field: Any) -> tuple[str, str]:
    """A setting's type and range in words."""
    limits = ((one, name) for one in field.metadata for name in LIMITS if hasattr(one, name))
    bounds = [LIMITS[name].format(getattr(one, name)) for one, name in limits]
    return _named(field.annotation), ", ".join(bounds)


def _named(annotation: Any) -> str:
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f'`"{one}"`' if isinstance(one, str) else f"`{one}`" for one in inside)
    if origin is Annotated:
        return _named(inside[0])
    if origin in (Union, UnionType):
        return " or ".join("none" if one is type(None) else _named(one) for one in inside)
    if origin is tuple:
        return f"several of: {_named(inside[0])}"
    words = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, float) else spelled(value)
    return text if len(text) <= 70 else f"{text[:67]}..."


def _said(cls: type) -> dict[str, str]:
    """The docstring below each setting, of the class and those that it inherits from."""
    said: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith("poise."):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for first, second in pairwise(body):
            text = second.value if isinstance(second, ast.Expr) else None
            if isinstance(first, ast.AnnAssign) and isinstance(text, ast.Constant):
                said[ast.unparse(first.target)] = " ".join(str(text.value).split())
    return said


def _command() -> str:
    """Every verb with what it says of itself."""
    shell = "`poise --install-completion` lets your shell complete verbs, options, recipes and protocols."
    parts = ["# The command", "", f"`poise VERB --help` prints the same. {shell}", ""]
    whole = typer.main.get_command(app)
    for name, verb in sorted(whole.commands.items()):  # type: ignore[attr-defined]
        parts += [f"## poise {name}", "", *_verb(verb), ""]
    return "\n".join(parts)


def _verb(verb: Any) -> list[str]:
    text, _, examples = (verb.help or "").partition("Examples:")
    lines = [" ".join(text.split()), ""]
    typed = [line.strip() for line in examples.splitlines() if line.strip()]
    lines += ["```text", *typed, "```", ""] if typed else []
    lines += ["| | | default |", "|---|---|---|"]
    for one in verb.params:
        option = one.param_type_name == "option"
        names = " ".join(f"`{word}`" for word in one.opts) if option else f"`{one.name.upper()}`"
        default = "" if one.default in (None, (), []) or callable(one.default) else f"`{one.default}`"
        if one.name != "help":
            lines.append(f"| {names} | {_cell(getattr(one, 'help', '') or '')} | {default} |")
    return lines


def main() -> int:
    stale = [path for path, text in generated().items() if not path.exists() or path.read_text() != text]
    if "--api" in sys.argv:
        (ROOT / "docs" / "api").mkdir(exist_ok=True)
        for path, text in api().items():
            path.write_text(text)
    for path in stale:
        print(f"{path.relative_to(ROOT)} {'is out of date: make docs' if '--check' in sys.argv else 'written'}")
        if "--check" not in sys.argv:
            path.write_text(generated()[path])
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
