"""What several verbs take: options, the user's own code, the drawn progress."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from poise.core.errors import SettingsError
from poise.core.imports import code_of as code_of
from poise.core.imports import import_files as import_files

NO_SMALL_VARIANT = "--quick is of recipes, which have a small variant; settings that were written down are as they are"
Together = Literal["mean-probabilities", "mean-logits", "vote"]
"""How runs that are asked as one ensemble answer."""
Device = Annotated[str, typer.Option(help="'auto' (the first GPU, else the CPU), 'cpu', 'cuda', 'cuda:1', ...")]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of the data sets; by default $POISE_DATA, else the user's cache.")
]
Imports = Annotated[
    list[Path] | None,
    typer.Option("--import", help="Your own file, executed first so that its classes are registered; may be repeated."),
]


On = Annotated[
    str | None,
    typer.Option(
        "--on",
        help="Where runs are made: ray, ray=ADDRESS, slurm or slurm=PARTITION; by default on this machine.",
    ),
]
Ranks = Annotated[int, typer.Option(min=1, help="Processes that make each run together.")]
Cpus = Annotated[int, typer.Option(min=1, help="Processor cores, and threads, of each process.")]
Gpus = Annotated[float, typer.Option(min=0, help="Accelerators of each process, such as .25; on ray and slurm.")]


def run_only(checkpoint: str | None, weights: Path | None) -> None:
    """Raises: SettingsError for both."""
    if weights is not None and checkpoint is not None:
        raise SettingsError(
            "--checkpoint is one of a run's, and --weights is a checkpoint already; leave one of them out"
        )


def bytes_of(text: str, option: str) -> int:
    """4GiB, 500MB or a plain number, as bytes. Raises: SettingsError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kMG])(i?)B)?", text.strip())
    if match is None or float(match[1]) == 0:
        raise SettingsError(f"{option} {text}: must be a positive number of bytes such as 4GiB, 500MB or 4000000000")
    power = " kMG".index(match[2] or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def listed(text: str | None) -> str | list[str] | None:
    """ "2/255,4/255" or "Linf,L2" as a list, one as it is."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    return parts if len(parts) > 1 else text


def print_table(paths: list[Path]) -> None:
    """The table of runs or records, on stdout."""
    from poise.reports import read_runs, table, to_terminal
    from poise.reports.experts import experts_terminal
    from poise.reports.terminal import show

    results = table(read_runs(paths))
    experts = experts_terminal(results)
    show(to_terminal(results), *([experts] if experts is not None else []))
