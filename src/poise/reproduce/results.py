"""What an item leaves in its folder: the table in four formats, the picture with the numbers behind it, and a page."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from poise.core.files import write_text
from poise.reports.figures.series import Panel
from poise.reports.formats import escape_latex, escape_markdown, to_csv, to_latex, to_markdown
from poise.reports.html import write_report
from poise.reproduce.alone import ALONE
from poise.reproduce.pictures import panels
from poise.reproduce.plan import Plan
from poise.reproduce.probes import probed
from poise.reproduce.sheet import Sheet, sheet

DOCUMENT = """\\documentclass{{article}}
\\usepackage[T1]{{fontenc}}
\\usepackage{{booktabs}}
\\usepackage[margin=1cm,paperwidth=60cm]{{geometry}}
\\begin{{document}}
\\noindent {title}

\\medskip\\noindent
\\input{{table}}
\\end{{document}}
"""
"""Around table.tex, so that it can be compiled as it is."""


def folder_of(plan: Plan, out: Path) -> Path:
    return out / plan.item.id / plan.scale


def write(plan: Plan, out: Path, device: str = "auto", data_dir: Path | None = None) -> tuple[Sheet, list[Path]]:
    """The sheet of what is there, and the files written: whatever is missing is missing in them too.

    device, data_dir: for pictures of what is measured on the networks themselves. Where matplotlib is missing an item
    that has a table is left without its picture.
    """
    result, folder = sheet(plan), folder_of(plan, out)
    files: list[Path] = []
    if plan.item.lines:
        files += write_tables(result, folder)
    measured = probed(plan, device, data_dir) if can_draw() else []
    files += write_picture(plan, result, folder, measured)
    run_paths = [run.path for line_result in result.made for run in line_result.runs]
    if run_paths:
        files.append(write_report(list(dict.fromkeys(run_paths)), folder / "report.html", title=result.title))
    return result, files


def write_tables(made: Sheet, folder: Path) -> list[Path]:
    """The table as Markdown, CSV and LaTeX, and a document around the last."""
    return [
        write_text(folder / "table.md", f"### {escape_markdown(made.title)}\n\n{to_markdown(made.table)}"),
        write_text(folder / "table.csv", to_csv(made.table)),
        write_text(folder / "table.tex", f"% {escape_latex(made.title)}\n{to_latex(made.table)}"),
        write_text(folder / "document.tex", DOCUMENT.format(title=escape_latex(made.title))),
    ]


def can_draw() -> bool:
    """Whether the library that draws pictures is there."""
    return find_spec("matplotlib") is not None


def write_picture(plan: Plan, made: Sheet, folder: Path, measured: Sequence[Panel] = ()) -> list[Path]:
    """The item's picture in its three formats, and its numbers; nothing where it has none, or nothing to be shown yet.

    measured: its panels, where they are no numbers of the table's or of training.
    """
    if plan.item.lines and not can_draw():
        return []
    alone = ALONE.get(plan.item.id)
    panel_list = alone() if alone is not None else list(measured) or panels(plan.item, made)
    if plan.item.picture is None or not panel_list:
        return []
    from poise.reports.figures.draw import draw, write

    return write(draw(plan.item.picture.kind, panel_list, made.title), panel_list, folder / "figure")
