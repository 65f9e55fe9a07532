"""Synchronous successive halving (Jamieson & Talwalkar 2016): at every rung the best configurations go on.

All that are still in are trained to the rung before any is judged, and each is judged by what its own run measured
there; so the decision is a function of the runs, whatever their order of arrival.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from poise.core.documents import opened, parse, read_lines, sealed, typed
from poise.core.errors import RunError
from poise.core.files import read_text, write_text
from poise.sweeps.ledger import Halving, Point


@dataclass(frozen=True)
class Decision:
    """At a rung: the value of each configuration that was judged, those that go on, best first, and those that do
    not.
    """

    rung: int
    by: str
    values: dict[str, float]
    """Means over seeds."""
    kept: list[str]
    dropped: list[str]
    failed: list[str]
    """Not judged, as a run of theirs failed."""


def decided(halving: Halving, rung: int, points: Sequence[Point], failed: Mapping[str, str], folder: Path) -> Decision:
    """The decision at a rung over the points that were trained to it. failed: reason by name of those that were not.

    Of n configurations ceil(n * keep) go on, at least one; of equal ones those that come first in the plan. Raises:
    RunError where a run did not measure what it is judged by.
    """
    by_configuration: dict[str, list[Point]] = {}
    for point in points:
        by_configuration.setdefault(point.configuration, []).append(point)
    out = [
        name
        for name, points_of_configuration in by_configuration.items()
        if any(point.name in failed for point in points_of_configuration)
    ]
    values = {
        name: fmean(measured(folder / point.name, rung, halving.by) for point in points_of_configuration)
        for name, points_of_configuration in by_configuration.items()
        if name not in out
    }
    order = sorted(values, key=lambda name: -values[name])  # stable: the plan's order among equals
    count = min(len(order), max(1, math.ceil(len(by_configuration) * halving.share)))
    return Decision(rung, halving.by, values, order[:count], order[count:], out)


def measured(run: Path, rung: int, by: str) -> float:
    """What the run's monitor measured at the end of an epoch. Raises: RunError where it did not."""
    for line in read_lines(run / "metrics.jsonl"):
        if line.get("epoch") == rung and isinstance(value := line.get(f"monitor/{by}"), int | float):
            return float(value)
    raise RunError(f"{run} has not measured {by} at epoch {rung}")


def file_of(folder: Path, rung: int) -> Path:
    return folder / f"rung-{rung}.json"


def write(decision: Decision, folder: Path) -> None:
    write_text(file_of(folder, decision.rung), json.dumps(sealed(asdict(decision)), indent=1))


def read(folder: Path, rung: int) -> Decision | None:
    """The decision that was taken at a rung; None where none was yet. Raises: RunError for a damaged file."""
    path = file_of(folder, rung)
    if not path.exists():
        return None
    try:
        return typed(Decision, opened(parse(read_text(path))))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged: {error}") from None
