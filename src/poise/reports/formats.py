"""The table as Markdown, CSV, LaTeX and for the terminal."""

from __future__ import annotations

import csv
import io

from poise.core.printing import printable, spreadsheet
from poise.reports.tables import Cell, Row, Table
from poise.reports.terminal import Numbers

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "·": r"$\cdot$",
}


def heads(table: Table) -> list[str]:
    """The names of the leading columns: the method and, only where rows differ in them, data and checkpoint."""
    names = ["method"]
    names += ["data"] if len({row.data for row in table.rows}) > 1 else []
    names += ["checkpoint"] if len({row.checkpoint for row in table.rows}) > 1 else []
    return names


def _lead(row: Row, names: list[str]) -> list[str]:
    return [{"method": row.label, "data": row.data, "checkpoint": row.checkpoint}[name] for name in names]


def to_markdown(table: Table) -> str:
    """GitHub's Markdown; best values bold, second best in italics."""
    names = heads(table)
    lines = [
        "| "
        + " | ".join(escape_markdown(text) for text in [*names, *(column.label for column in table.columns)])
        + " |",
        "|" + "|".join([" --- "] * len(names) + [" ---: "] * len(table.columns)) + "|",
    ]
    for row in table.rows:
        cells = [{"best": "**{}**", "second": "*{}*", "": "{}"}[cell.mark].format(cell.text) for cell in row.cells]
        lines.append("| " + " | ".join([*map(escape_markdown, _lead(row, names)), *cells]) + " |")
    lines += ["", *map(escape_markdown, table.notes)] if table.notes else []
    return "\n".join(lines) + "\n"


def escape_markdown(text: str) -> str:
    for special in "\\`*_[]|":
        text = text.replace(special, f"\\{special}")
    return printable(" ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split()))


def to_csv(table: Table) -> str:
    """One line per row: per column the mean, the standard deviation, the ends of the 95 % interval, in percent, and the
    number of runs.

    A paper's plus-minus of which it does not say what it is has a column of its own; empty when absent.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = ("", " std", " low", " high", " ± not stated", " runs")
    parts = [[f"{column.label}{end}" for end in ends] for column in table.columns]
    writer.writerow(
        ["method", "data", "checkpoint", "kind", "runs", *(spreadsheet(name) for part in parts for name in part)]
    )
    for row in table.rows:
        runs = max((cell.n for cell in row.cells), default=0)
        texts = [text for cell in row.cells for text in _csv_cell(cell)]
        writer.writerow([*map(spreadsheet, (row.label, row.data, row.checkpoint, row.kind)), runs or "", *texts])
    return out.getvalue()


def _csv_cell(cell: Cell) -> list[str]:
    spreads = [cell.spread if cell.kind == kind else None for kind in ("std", "not stated")]
    numbers = [cell.value, spreads[0], cell.low, cell.high, spreads[1]]
    return [*("" if number is None else f"{number:.2f}" for number in numbers), str(cell.n or "")]


def escape_latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in printable(" ".join(text.split())))


def to_latex(table: Table) -> str:
    """A booktabs tabular; best values bold, second best underlined."""
    names = heads(table)
    lines = [
        "% needs \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{{'l' * len(names)}{'r' * len(table.columns)}}}",
        "\\toprule",
        " & ".join(escape_latex(text) for text in [*names, *(column.label for column in table.columns)]) + " \\\\",
    ]
    block = None
    for row in table.rows:
        lines += ["\\midrule"] if row.block != block else []
        block = row.block
        cells = [*(escape_latex(text) for text in _lead(row, names)), *(_latex_cell(cell) for cell in row.cells)]
        lines.append(" & ".join(cells) + " \\\\")
    return (
        "\n".join([*lines, "\\bottomrule", "\\end{tabular}", *(f"% {escape_latex(note)}" for note in table.notes)])
        + "\n"
    )


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    return {"best": f"\\textbf{{{text}}}", "second": f"\\underline{{{text}}}", "": text}[cell.mark]


def to_terminal(table: Table) -> Numbers:
    """For rich's Console.print; best values bold green, second best underlined, published rows dim. No digit is cut off
    at any width.
    """
    from rich.text import Text

    styles = {"best": "bold green", "second": "underline", "": ""}
    names = heads(table)
    numbers = Numbers(
        names, [column.label for column in table.columns], caption="\n".join(["accuracy in percent", *table.notes])
    )
    block = None
    for row in table.rows:
        numbers.sections |= {len(numbers.lines)} if block not in (None, row.block) else set()
        block = row.block
        cells = [Text(cell.text, style=styles[cell.mark]) for cell in row.cells]
        numbers.lines.append((_lead(row, names), cells, "dim" if row.kind == "published" else None))
    return numbers
