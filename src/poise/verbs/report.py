"""The page about evaluated runs and records."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from poise.core.errors import SettingsError
from poise.engine.runs import Run
from poise.reports import write_report
from poise.reports.tables import Checkpoints
from poise.verbs.results import Evaluation, Page

Reported = Run | Evaluation | str | Path
"""A run or its folder, a folder of run folders, or a record or its file."""


def report(
    runs: Reported | Iterable[Reported],
    out: str | Path | None = None,
    *,
    title: str | None = None,
    checkpoints: Checkpoints = "both",
) -> Page:
    """Write the page about evaluated runs, which a notebook shows: what `poise report` does.

    out: a file, or a folder that gets report.html; by default in the run's folder, or beside the first of several.
    Raises: RunError for what was not evaluated or is damaged, StorageError.
    """
    paths = paths_of(runs)
    usual = paths[0] if len(paths) == 1 and paths[0].is_dir() else paths[0].parent
    return Page(write_report(paths, Path(out) if out is not None else usual / "report.html", title, checkpoints))


def paths_of(runs: Reported | Iterable[Reported]) -> list[Path]:
    """Where they lie. Raises: SettingsError for none."""
    run_list = [runs] if isinstance(runs, Run | Evaluation | str | Path) else list(runs)
    if not run_list:
        raise SettingsError("runs is empty, must name at least one run")
    return [Path(run) if isinstance(run, str | Path) else run.path for run in run_list]
