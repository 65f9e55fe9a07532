"""The LaTeX of every item: balanced and escaped, and where there is a compiler, compiled."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from poise.recipes.items import items
from poise.reports.columns import Cell, Column
from poise.reports.formats import escape_latex
from poise.reports.tables import Row, Table
from poise.reproduce.plan import planned
from poise.reproduce.results import DOCUMENT, write_tables
from poise.reproduce.sheet import Sheet, sheet

TABLES = [name for name, made in items().items() if made.table]
HOSTILE = (
    r"a \ b { c } $ d & e # f % g _ h ^ i ~ j < k > l | m ± n ' o \" p ` q - r — s é \input{/etc/passwd} \begin{x}"
)


def written(name: str, out: Path) -> Path:
    write_tables(sheet(planned(items()[name], "paper", 1, out)), out)
    return out


def hostile(out: Path) -> Path:
    """A table whose every name is hostile."""
    cells = [Cell(12.5, 0.25, 3, low=12.0, high=13.0), Cell()]
    row = Row(HOSTILE, "selected", HOSTILE, cells, source=HOSTILE)
    write_tables(Sheet(HOSTILE, Table([Column(HOSTILE), Column("b")], [row], [HOSTILE]), [], Table([], [], [])), out)
    return out


def check(text: str) -> None:
    """Braces are balanced, every row has as many cells as the head, and nothing special stands unescaped."""
    body = [line for line in text.splitlines() if not line.startswith("%")]
    plain = re.sub(r"\\[\\{}$&#%_]", "", "\n".join(body))
    depth = 0
    for letter in plain:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
    assert depth == 0 and plain.count("$") % 2 == 0 and not re.search(r"[#_~^<>|±]", re.sub(r"\$[^$]*\$", "", plain))
    rows = [line for line in body if line.endswith(r"\\")]
    (columns,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", text)
    assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {len(columns) - 1}


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_balanced_and_escaped(name: str, tmp_path: Path) -> None:
    folder = written(name, tmp_path)
    check((folder / "table.tex").read_text())
    assert r"\input{table}" in (folder / "document.tex").read_text()


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    folder = hostile(tmp_path)
    text = (folder / "table.tex").read_text()
    check(text)
    assert r"\input{" not in text and r"\textbackslash{}input" in text
    assert DOCUMENT.count("{title}") == 1 and escape_latex(HOSTILE) in (folder / "document.tex").read_text()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex: apt install texlive-latex-recommended")
@pytest.mark.parametrize("name", ["generalist/table1a", "zipper/table6", "st/table1-cifar10", "soe/table1", "hostile"])
def test_a_compiler_makes_a_page_of_it(name: str, tmp_path: Path) -> None:
    folder = hostile(tmp_path) if name == "hostile" else written(name, tmp_path)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "document.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (folder / "document.pdf").read_bytes()[:5] == b"%PDF-" and "Overfull" not in done.stdout
