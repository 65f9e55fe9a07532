"""Reports: tables, one self-contained page, and the difference of two evaluations, made from records alone (torch is
never imported).

table(read_runs(["runs"]))           # rows = groups of runs, columns = natural, each attack, worst case
write_report(["runs"], "report.html")
from poise.reports.diff import diff  # diff(record_a, record_b)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from poise.reports.collect import Run, read_runs
    from poise.reports.formats import to_csv, to_latex, to_markdown, to_terminal
    from poise.reports.html import write_report
    from poise.reports.picture import write_picture
    from poise.reports.proof import Proof, comparisons
    from poise.reports.statistics import paired_interval
    from poise.reports.tables import Table, table

_HOME = {
    "Run": "collect",
    "read_runs": "collect",
    "to_csv": "formats",
    "to_latex": "formats",
    "to_markdown": "formats",
    "to_terminal": "formats",
    "write_picture": "picture",
    "write_report": "html",
    "paired_interval": "statistics",
    "Proof": "proof",
    "comparisons": "proof",
    "Table": "tables",
    "table": "tables",
}

__all__ = [
    "Proof",
    "Run",
    "Table",
    "comparisons",
    "paired_interval",
    "read_runs",
    "table",
    "to_csv",
    "to_latex",
    "to_markdown",
    "to_terminal",
    "write_picture",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
