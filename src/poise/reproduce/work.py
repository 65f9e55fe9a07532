"""Making what is missing: runs and evaluations, each begun where it isn't there and gone on with where it was broken
off.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from poise.core.errors import Interrupted, RunError
from poise.core.files import write_text
from poise.core.progress import Progress
from poise.core.settings import to_json
from poise.engine import Run, train_or_resume
from poise.evaluation.sanity import Effort
from poise.models import ResNet20
from poise.recipes.items import item
from poise.reproduce.plan import Plan, State, Work, planned
from poise.sweeps.engines import Engine
from poise.sweeps.ledger import Needs, Outcome
from poise.sweeps.sweep import directory_said
from poise.sweeps.tasks import Task
from poise.verbs.corruptions import corruptions
from poise.verbs.evaluate import evaluate
from poise.verbs.sanity import sanity
from poise.verbs.transfer import transfer

QUICK_IMAGES = 16
LITTLE = Effort(
    steps=2, autoattack_steps=2, targets=1, queries=10, gradient_examples=16, gradient_samples=2, substitute_steps=2
)
"""Of what is inspected in small variants."""
AGAIN = 5.0
"""Seconds until runs that another process had are looked at again."""


@dataclass(frozen=True)
class Where:
    """device, data_dir: as for `train`; corrupted: the folder of corrupted images that items with such a column
    need.
    """

    device: str = "auto"
    data_dir: Path | None = None
    corrupted: Path | None = None


def make(plan: Plan, where: Where, progress: Progress, engine: Engine | None = None, needs: Needs = Needs()) -> None:
    """Train and evaluate what the plan lacks; processes that share its folder pass over each other's runs and wait for
    them at the end.

    engine: runs them side by side, each with these needs; without one they are made here, one after the other.
    Raises: what training and evaluating raise, before any run where data are missing; with an engine RunError with the
    reason of each run that failed, once all others are made.
    """
    check_data(plan, where)
    if engine is not None:
        _spread(plan, where, progress, engine, needs)
        return
    while missing := plan.missing:
        works = [work for work in missing if _made(work, where, progress)]
        if not works and plan.missing:
            time.sleep(AGAIN)


def _spread(plan: Plan, where: Where, progress: Progress, engine: Engine, needs: Needs) -> None:
    """In rounds, as what is attacked by transfer waits for the runs that the attacks are made on, and what its learners
    train side by side is evaluated afterwards, by one process.
    """
    works_begun: set[tuple[Path, str, State]] = set()
    failures: dict[str, str] = {}
    with engine:
        engine.check(plan.out, progress)
        while ready := _ready(plan, works_begun):
            works_begun |= {_key(work) for work in ready}
            tasks = [_task(plan, work, where, needs) for work in ready]
            try:
                outcomes = engine.run(tasks, lambda outcome: _tell(outcome, progress), progress)
            except Interrupted as error:
                raise Interrupted(f"{error}; to go on, type the same again") from None
            failures |= {outcome.name: outcome.reason for outcome in outcomes if not outcome.whole}
    if failures or plan.missing:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise RunError(f"{len(plan.missing)} runs of {plan.item.id} are not made: {reasons or 'see above'}")


def _ready(plan: Plan, begun: set[tuple[Path, str, State]]) -> list[Work]:
    """What can be worked on now and was not in its present state, one piece of work for each run."""
    works_by_folder: dict[Path, Work] = {}
    for work in plan.missing:
        if work.ready and _key(work) not in begun:
            works_by_folder.setdefault(work.folder, work)
    return list(works_by_folder.values())


def _key(work: Work) -> tuple[Path, str, State]:
    return work.folder, work.line.label, work.state


def _task(plan: Plan, work: Work, where: Where, needs: Needs) -> Task:
    apart = work.line.by_learner and work.state in ("missing", "begun")
    arguments = {
        "item": plan.item.id,
        "scale": plan.scale,
        "seeds": plan.seeds,
        "held_out": any(work_each.held_out for work_each in plan.works),
        "out": str(plan.out.resolve()),
        "label": work.line.label,
        "only_train": apart,
        "device": where.device,
        "data_dir": directory_said(where.data_dir),
        "corrupted": None if where.corrupted is None else str(where.corrupted.resolve()),
    }
    ranks = len(work.experiment.method.policies()) if apart else 1
    folder = str(work.folder.resolve())
    return Task(
        f"{work.line.label} {work.folder.name}", folder, WORK, arguments, dataclasses.replace(needs, ranks=ranks)
    )


def _tell(outcome: Outcome, progress: Progress) -> None:
    progress.say(f"{outcome.name}: {outcome.state}{f': {outcome.reason}' if outcome.reason else ''}")


WORK = f"{__name__}:work_of_item"


def work_of_item(folder: Path, given: Mapping[str, Any], progress: Progress) -> Mapping[str, str]:
    """What a worker does of an item's plan: the run in this folder."""
    plan = planned(item(given["item"]), given["scale"], given["seeds"], Path(given["out"]), given["held_out"])
    works = [work for work in (*plan.sources, *plan.works) if work.folder == folder]
    work = next(work for work in works if work.line.label == given["label"])
    paths = {name: given[name] and Path(given[name]) for name in ("data_dir", "corrupted")}
    where = Where(given["device"], **paths)
    if given["only_train"]:
        train_or_resume(work.experiment, folder, device=where.device, data_dir=where.data_dir, progress=progress)
    else:
        _make(work, where, progress)
    return {}


def check_data(plan: Plan, where: Where) -> None:
    """Raises: DataError where data that are needed aren't there, saying what to put where; RunError for missing
    corrupted images.
    """
    for data in dict.fromkeys(work.experiment.data for work in plan.missing):
        data.load(where.data_dir)
    if plan.item.corruptions and plan.scale == "paper" and plan.missing and where.corrupted is None:
        raise RunError(
            f"{plan.item.id} has a column of corrupted images: unpack them and give their folder by --corruptions"
            " FOLDER"
        )


def _made(work: Work, where: Where, progress: Progress) -> bool:
    """Whether the run was made here; False where another process has it, or what it depends on, in hand."""
    if not work.ready:
        return False
    work.folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work.folder.with_suffix(".lock"), timeout=0):
            _make(work, where, progress)
    except Timeout:
        return False
    return True


def _make(work: Work, where: Where, progress: Progress) -> None:
    run = _trained(work, where, progress)
    how: dict[str, Any] = {"device": where.device, "data_dir": where.data_dir, "progress": progress}
    if not work.judged:
        return
    for checkpoint in ("selected", "last"):
        evaluate(run, checkpoint=checkpoint, **how)
    for protocol in work.protocols:
        evaluate(run, protocol=protocol, **how)
    if work.corruptions and where.corrupted is not None:
        corruptions(run, where.corrupted, **how)
    if work.sanity and not (work.folder / "records" / "sanity.json").exists():
        sanity(run, **how, **({"first": QUICK_IMAGES, "effort": LITTLE} if _quick(work) else {}))
    if work.transfer:
        _transferred(work, how)


def _quick(work: Work) -> bool:
    return work.experiment.protocol.name == "quick"


def _transferred(work: Work, how: dict[str, Any]) -> None:
    """The run's record under transfer; the images lie beside all runs of the scale, and are made once."""
    member = getattr(work.experiment.model, "member", None)
    short: dict[str, Any] = {"first": work.experiment.protocol.first, "steps": 2} if _quick(work) else {}
    short |= {"sgm": isinstance(member, ResNet20), "out": work.folder.parents[1] / "transfer"}
    transfer([work.folder], list(work.sources), protocol=work.transfer, **short, **how)


def _trained(work: Work, where: Where, progress: Progress) -> Run:
    """The run, begun or gone on with; one whose learners train side by side is trained under torchrun."""
    if not work.line.by_learner or work.state in ("trained", "evaluated"):
        return train_or_resume(
            work.experiment, work.folder, device=where.device, data_dir=where.data_dir, progress=progress
        )
    settings = write_text(work.folder.with_suffix(".json"), json.dumps(to_json(work.experiment)))
    ranks = [f"--nproc-per-node={len(work.experiment.method.policies())}", "-m", "poise.reproduce.ranks"]
    arguments = [str(settings), str(work.folder), where.device, str(where.data_dir or "")]
    process = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", *ranks, *arguments], check=False
    )
    if process.returncode:
        raise RunError(
            f"{work.folder} was not trained: torchrun ended with status {process.returncode}; its own messages stand"
            " above"
        )
    return Run.open(work.folder)
