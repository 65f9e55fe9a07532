"""Evaluations by many workers: several runs side by side, and each by as many ranks as share its images.

What a rank computes has the shape that it has in one process, so the record is that of one process (see
`evaluation/shares.py` and `attacks/autoattack/ranks.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from poise.core.errors import RunError
from poise.core.progress import Progress
from poise.core.settings import Settings, to_json
from poise.sweeps.engines import Engine
from poise.sweeps.ledger import Needs, Outcome
from poise.sweeps.sweep import directory_said, import_digests
from poise.sweeps.tasks import Task
from poise.sweeps.works import EVALUATION


def evaluated(
    asked: Sequence[Mapping[str, Any]],
    engine: Engine,
    *,
    needs: Needs = Needs(),
    imports: Sequence[str] = (),
    progress: Progress | None = None,
) -> list[Path]:
    """The records of several evaluations, each given as arguments of `poise.evaluate` that are JSON, paths or settings:
    what is asked about, by its path or paths, under "asked".

    Raises: RunError with the reason of each that failed, once the others are done; what the engine raises.
    """
    progress = progress if progress is not None else Progress()
    digests = import_digests(imports)
    tasks = [
        Task(str(_about(request)), str(_about(request)), EVALUATION, _given(request), needs, digests)
        for request in asked
    ]
    engine.require()

    def told(outcome: Outcome) -> None:
        progress.say(f"{outcome.name}: {outcome.state}{f': {outcome.reason}' if outcome.reason else ''}")

    with engine:
        engine.check(tasks[0].run.parent, progress)
        outcomes = engine.run(tasks, told, progress)
    if bad := [outcome for outcome in outcomes if not outcome.whole]:
        reasons = "; ".join(f"{outcome.name}: {outcome.reason}" for outcome in bad)
        raise RunError(f"{len(bad)} of {len(outcomes)} evaluations failed: {reasons}")
    return [Path(outcome.result) for outcome in outcomes]


def _about(one: Mapping[str, Any]) -> Path:
    """The folder or file that an evaluation is held by: a run's, weights', or of several the record's."""
    about = one["asked"]
    return Path(about if isinstance(about, str | Path) else one["out"]).resolve()


def _given(one: Mapping[str, Any]) -> dict[str, Any]:
    """With absolute paths, as a worker is elsewhere. Raises: RunError for one that is not there."""
    about = one["asked"]
    for path in [about] if isinstance(about, str | Path) else about:
        if not Path(path).exists():
            raise RunError(f"there is neither a run nor a file {path}")
    paths = str(Path(about).resolve()) if isinstance(about, str | Path) else [str(Path(p).resolve()) for p in about]
    out = None if one.get("out") is None else str(Path(one["out"]).resolve())
    arguments = {"search": {}, **one, "asked": paths, "out": out, "data_dir": directory_said(one.get("data_dir"))}
    return {name: to_json(value) if isinstance(value, Settings) else value for name, value in arguments.items()}
