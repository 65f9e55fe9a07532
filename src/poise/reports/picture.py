"""The natural-against-worst-case picture as a file of its own, for a README or a paper."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from poise.core.errors import RunError
from poise.core.files import write_text
from poise.reports.collect import read_runs
from poise.reports.plots import tradeoff
from poise.reports.tables import table


def write_picture(paths: str | Path | Iterable[str | Path], out: str | Path) -> Path:
    """Write the scatter of the runs at `paths` as a self-contained SVG that follows the viewer's light or dark scheme.

    Raises: RunError for whatever `read_runs` refuses, or when no run has both a natural and a robust accuracy.
    """
    results = table(read_runs(paths), "selected")
    drawn = tradeoff(
        results, {key: place for place, key in enumerate(dict.fromkeys(group.key for group in results.groups))}
    )
    if not drawn.startswith("<svg "):
        raise RunError(
            "these runs have no robust accuracy yet, so there is nothing to draw; run poise evaluate on them"
        )
    style = (files("poise.reports") / "templates" / "report.css").read_text()
    paper = '<rect width="100%" height="100%" fill="var(--card)"/>'
    head, _, body = drawn.partition(">")
    return write_text(out, f'{head} xmlns="http://www.w3.org/2000/svg" width="560"><style>{style}</style>{paper}{body}')
