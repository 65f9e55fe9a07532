"""The natural-against-worst-case picture as a file of its own, for a README or a paper."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from poise.core.errors import RunError
from poise.core.files import write_text
from poise.reports.collect import read_runs
from poise.reports.figures.still import write_still
from poise.reports.plots import tradeoff
from poise.reports.tables import table


def write_picture(paths: str | Path | Iterable[str | Path], out: str | Path) -> Path:
    """Write the scatter of the runs at `paths` as a self-contained SVG that follows the viewer's light or dark scheme.

    Raises: RunError for whatever `read_runs` refuses, or when no run has both a natural and a robust accuracy.
    """
    results = table(read_runs(paths), "selected")
    places = {key: place for place, key in enumerate(dict.fromkeys(group.key for group in results.groups))}
    picture = tradeoff(results, places)
    if picture is None:
        raise RunError(
            "these runs have no robust accuracy yet, so there is nothing to draw; run poise evaluate on them"
        )
    return write_text(out, write_still(picture.kind, picture.panels[0]))
