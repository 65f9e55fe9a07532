"""A sweep from its plan to its last evaluated run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from poise.core.bars import default_progress
from poise.core.errors import Interrupted, RunError
from poise.core.files import check_writable
from poise.core.imports import import_files
from poise.core.progress import Progress
from poise.core.settings import from_json
from poise.core.version import __version__
from poise.data.dataset import data_directory
from poise.engine import Experiment
from poise.sweeps import halving as halvings
from poise.sweeps.engines import Engine, engine_of
from poise.sweeps.ledger import PLAN, Needs, Outcome, Plan, Point, tries
from poise.sweeps.local import Local
from poise.sweeps.planning import Swept, halving_of, planned
from poise.sweeps.tasks import PATIENCE, Task
from poise.sweeps.works import POINT


@dataclass(frozen=True)
class Sweep:
    """What became of a sweep: its folder, its plan, the reason by name of every point that failed, and, with halving,
    at which epoch each configuration was stopped.
    """

    path: Path
    plan: Plan
    failed: dict[str, str] = field(default_factory=dict)
    stopped: dict[str, int] = field(default_factory=dict)

    @property
    def runs(self) -> list[Path]:
        """The folders of the runs that were trained to their end."""
        return [
            self.path / point.name
            for point in self.plan.points
            if point.name not in self.failed and point.configuration not in self.stopped
        ]


def sweep(
    recipes: Swept | Sequence[Swept] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    *,
    out: str | Path,
    seeds: int | None = None,
    quick: bool = False,
    jobs: int = 1,
    on: str | Engine | None = None,
    ranks: int = 1,
    cpus: int = 1,
    gpus: float = 0.0,
    rungs: str | Sequence[int] | None = None,
    keep: str | float | Fraction = "1/3",
    by: str = "pgd-10",
    evaluate: bool = True,
    device: str = "auto",
    data_dir: str | Path | None = None,
    imports: Sequence[str | Path] = (),
    patience: float = PATIENCE,
    progress: Progress | None = None,
) -> Sweep:
    """Train and evaluate each recipe at each point of a grid: what `poise sweep` does. Without recipes the sweep in
    `out` goes on.

    grid: values by path, as `override` takes them; seeds: runs of each point, seeds 0, 1, ... Each point is an ordinary
    run folder in `out`, whose plan.json says which there are. jobs: so many at a time on this machine; on: "ray",
    "ray=ADDRESS", "slurm" or "slurm=PARTITION" instead. ranks, cpus, gpus: of each run (of each rank), cpus being its
    threads. rungs, keep, by: synchronous successive halving, at these epochs the share `keep` of the configurations by
    the monitor `by`. imports: your own files that register classes. patience: seconds to wait for a run that another
    process has in hand.
    A point that fails is in `Sweep.failed` with its reason, and the rest goes on.
    Raises: SettingsError, DataError, RunError, MissingExtraError before any work; Interrupted after SIGINT or SIGTERM,
    with everything saved.
    """
    folder, progress = Path(out), default_progress(progress)
    engine = engine_of(on, jobs)
    engine.require()
    if recipes is None:
        plan = Plan.read(folder)
        import_files([Path(file) for file in plan.imports])
    else:
        several = [recipes] if isinstance(recipes, str | Path | Experiment) else list(recipes)
        import_files([Path(file) for file in imports])
        how: dict[str, Any] = {
            "evaluate": evaluate,
            "device": device,
            "imports": [str(Path(file).resolve()) for file in imports],
        }
        plan = planned(
            several,
            grid or {},
            seeds,
            quick=quick,
            halving=halving_of(rungs, keep, by) if rungs is not None else None,
            needs=Needs(ranks, cpus, gpus),
            data_dir=None if data_dir is None else directory_said(data_dir),
            **how,
        )
    begin(plan, folder, new=recipes is not None)
    with engine:
        engine.check(folder, progress)
        if isinstance(engine, Local):
            check_data(plan)
        return carried_out(plan, folder, engine, progress, patience)


def begin(plan: Plan, folder: Path, new: bool) -> None:
    """Write the plan, or leave the same one that is there. Raises: RunError where the folder holds something else."""
    if not new:
        if plan.poise != __version__:
            raise RunError(f"{folder} was begun by Poise {plan.poise}, this is {__version__}; go on with that version")
        return
    if (folder / PLAN).exists():
        written_plan = Plan.read(folder)
        if _work_of(written_plan) != _work_of(plan):
            raise RunError(f"{folder} holds another sweep; take another --out, or: poise sweep --resume {folder}")
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise RunError(f"the folder {folder} exists and is not empty; take another --out")
    check_writable(folder / PLAN)
    plan.write(folder)


def _work_of(plan: Plan) -> tuple[Any, ...]:
    return plan.points, plan.halving, plan.needs


def check_data(plan: Plan) -> None:
    """Raises: DataError where data that are needed aren't on this machine, saying what to put where."""
    for data in dict.fromkeys(from_json(Experiment, point.experiment).data for point in plan.points):
        data.load(plan.data_dir)


def carried_out(plan: Plan, folder: Path, engine: Engine, progress: Progress, patience: float = PATIENCE) -> Sweep:
    """All runs of the plan, rung by rung where it halves. Raises: what the engine raises."""
    points, failures, stops = list(plan.points), dict[str, str](), dict[str, int]()
    try:
        for rung in plan.halving.rungs if plan.halving is not None else []:
            assert plan.halving is not None
            decision = halvings.read(folder, rung)
            if decision is None:
                failures |= _run(plan, points, folder, engine, progress, patience, rung)
                decision = halvings.decided(plan.halving, rung, points, failures, folder)
                halvings.write(decision, folder)
                progress.say(said(decision))
            failures |= _reasons(decision, points, folder)
            stops |= dict.fromkeys(decision.dropped, rung)
            points = [point for point in points if point.configuration in decision.kept]
        failures |= _run(plan, points, folder, engine, progress, patience)
    except Interrupted as error:
        raise Interrupted(f"{error}; to go on: poise sweep --resume {folder}") from None
    return Sweep(folder, plan, failures, stops)


def _reasons(decision: halvings.Decision, points: Sequence[Point], folder: Path) -> dict[str, str]:
    """Of the points for whose failure a configuration was not judged."""
    last = {
        point.name: ends[-1]
        for point in points
        if point.configuration in decision.failed and (ends := tries(folder / point.name))
    }
    return {name: outcome.reason for name, outcome in last.items() if not outcome.whole}


def said(decision: halvings.Decision) -> str:
    values_text = ", ".join(f"{name} {100 * decision.values[name]:.2f} %" for name in decision.kept)
    count = len(decision.values) + len(decision.failed)
    return (
        f"epoch {decision.rung}: {len(decision.kept)} of {count} configurations go on by {decision.by}:"
        f" {values_text or 'none, as all failed'}"
    )


def _run(
    plan: Plan,
    points: Sequence[Point],
    folder: Path,
    engine: Engine,
    progress: Progress,
    patience: float,
    until: int | None = None,
) -> dict[str, str]:
    """Train these points as far as `until`, or to the end; returns the reason by name of those that failed."""
    tasks = [task_of(plan, point, folder, until, patience) for point in points]
    over: list[Outcome] = []

    def told(outcome: Outcome) -> None:
        if outcome.state == "lost":
            progress.say(f"{outcome.name}: try {outcome.attempt} lost, begun again: {outcome.reason}")
            return
        over.append(outcome)
        where = f" on {outcome.node}" if outcome.node else ""
        sentence = outcome.state + (f": {outcome.reason}" if outcome.reason else "")
        progress.say(f"[{len(over)}/{len(tasks)}] {outcome.name}{where}, {outcome.seconds / 60:.1f} min: {sentence}")

    outcomes = engine.run(tasks, told, progress)
    return {outcome.name: outcome.reason for outcome in outcomes if not outcome.whole}


def task_of(plan: Plan, point: Point, folder: Path, until: int | None = None, patience: float = PATIENCE) -> Task:
    """The work of a point, with what it needs of this machine written out, so that another one can do it."""
    arguments = {
        "experiment": point.experiment,
        "until": until,
        "evaluate": plan.evaluate,
        "device": plan.device,
        "data_dir": directory_said(plan.data_dir),
        "imports": (imports := import_digests(plan.imports)),
    }
    place = str((folder / point.name).resolve())
    return Task(point.name, place, POINT, arguments, plan.needs, imports, patience)


def directory_said(data_dir: str | Path | None) -> str | None:
    """The folder of data sets as an absolute path where one was named; None where each machine has its own cache."""
    if data_dir is None and "POISE_DATA" not in os.environ:
        return None
    return str(data_directory(data_dir).resolve())


def import_digests(files: Sequence[str]) -> dict[str, str]:
    import hashlib

    return {str(Path(file).resolve()): hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files}
