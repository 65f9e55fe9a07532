"""An item's runs by an engine, and on paper on so many accelerators."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from poise.attacks.autoattack.lanes import multiply_adds
from poise.cli import main
from poise.core.errors import RunError, SettingsError
from poise.core.papers import GENERALIST
from poise.core.progress import Progress
from poise.core.settings import to_json
from poise.engine import Run
from poise.recipes.items import Item, Line, item
from poise.recipes.items.item import add
from poise.reproduce.makespan import Job, flop, jobs_of, said, scheduled
from poise.reproduce.plan import planned
from poise.reproduce.work import Where, make
from poise.sweeps.engines import Engine, Told
from poise.sweeps.ledger import Needs, Outcome, tries
from poise.sweeps.local import Local
from poise.sweeps.tasks import Task, perform
from poise.sweeps.works import POINT

SHORT = (
    "data.train_images=40 data.test_images=20 epochs=2 monitor_every=1 protocol.attacks.1.restarts=1"
    " protocol.attacks.1.steps=5"
)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items of tests, which a worker finds by name."""
    monkeypatch.setattr(sys.modules["poise.recipes.items.item"], "_ITEMS", {})
    at = Line("AT", "at_digits", f"at_digits {SHORT}")
    seven = Line("seven", "at_digits", f"at_digits {SHORT} method.batch_size=7")
    bad = Line("bad", "at_digits", f"at_digits {SHORT} method.policy.optimizer.learning_rate=1e30")
    apart = Line("apart", "generalist_digits", f"generalist_digits {SHORT}", by_learner=True)
    lines = {"two": (at, seven), "bad": (at, bad), "apart": (apart,)}
    add(*(Item(f"trial/{name}", name, GENERALIST, own) for name, own in lines.items()))


class Here(Engine):
    """In this process; keeps the tasks."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def run(self, tasks: Sequence[Task], told: Told, progress: Progress) -> list[Outcome]:
        self.tasks += tasks
        outcomes = [perform(task) for task in tasks]
        for outcome in outcomes:
            told(outcome)
        return outcomes


def test_an_engine_makes_what_is_missing_and_nothing_twice(tmp_path: Path) -> None:
    plan, engine = planned(item("trial/two"), "digits", 1, tmp_path), Here()
    make(plan, Where(), Progress(), engine, Needs(cpus=1))
    assert not plan.missing
    assert [task.folder for task in engine.tasks] == [str(work.folder) for work in plan.works]
    make(plan, Where(), Progress(), engine)
    assert len(engine.tasks) == len(plan.works)


def test_what_fails_is_named_and_the_rest_is_made(tmp_path: Path) -> None:
    plan = planned(item("trial/bad"), "digits", 1, tmp_path)
    with pytest.raises(RunError, match=r"1 runs of trial/bad are not made: bad seed-0: epoch 1: training diverges"):
        make(plan, Where(), Progress(), Here())
    assert [work.line.label for work in plan.missing] == ["bad"]
    assert tries(plan.works[1].folder)[-1].state == "failed"


class Counting(Local):
    """Workers of this machine; keeps the tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[Task] = []

    def run(self, tasks: Sequence[Task], told: Told, progress: Progress) -> list[Outcome]:
        self.tasks += tasks
        here = [dataclasses.replace(task, given=task.given) for task in tasks if task.needs.ranks == 1]
        made = {task.name: perform(task) for task in here}  # workers don't know the items of tests
        gangs = [task for task in tasks if task.needs.ranks > 1]
        point = [dataclasses.replace(task, call=POINT, given=as_point(task)) for task in gangs]
        made |= {outcome.name: outcome for outcome in super().run(point, told, progress)} if point else {}
        return [made[task.name] for task in tasks]


def as_point(task: Task) -> dict[str, Any]:
    (work,) = planned(item(task.given["item"]), "digits", 1, Path(task.given["out"])).works
    assert task.given["only_train"]
    how = {"until": None, "evaluate": False, "device": "auto", "data_dir": None, "imports": {}}
    return {"experiment": to_json(work.experiment), **how}


@pytest.mark.slow
def test_what_trains_by_learner_is_a_gang_and_is_then_evaluated_by_one(tmp_path: Path) -> None:
    plan, engine = planned(item("trial/apart"), "digits", 1, tmp_path), Counting()
    make(plan, Where(), Progress(), engine)
    assert [task.needs.ranks for task in engine.tasks] == [2, 1]
    assert [task.given["only_train"] for task in engine.tasks] == [True, False]
    assert Run.open(plan.works[0].folder).about["placement"]["by"] == "learner"
    assert not plan.missing


def test_on_paper_the_longest_go_first_and_what_waits_waits() -> None:
    jobs = [Job("a", 4), Job("b", 3), Job("c", 3), Job("d", 2)]
    two = scheduled(jobs, 2)
    assert (two.makespan, two.work, two.length, two.useful) == (6, 12, 4, 3)
    assert list(two.ends) == [4, 3, 6, 6]
    chain = scheduled([*jobs, Job("e", 5, after=(0,))], 9)
    assert (chain.makespan, chain.chain, chain.ends[4]) == (9, (0, 4), 9)
    gang = scheduled([Job("a", 4), Job("g", 8, width=2), Job("b", 4)], 2)
    assert gang.makespan == 8
    with pytest.raises(SettingsError, match="--gpus 1: g trains on 2 at once"):
        scheduled([Job("g", 8, width=2)], 1)


def test_what_limits_is_said() -> None:
    hour = 100e12 * 3600
    jobs = [Job("long", 6 * hour), *(Job(f"short {n}", hour) for n in range(6))]
    few, many = (said(scheduled(jobs, n), 100.0, ["imagenet"]) for n in (2, 8))
    assert few[0].endswith("12.0 h of one accelerator at 100 TFLOP/s")
    assert few[1] == "on 2 accelerators: 6.0 h, busy 100 % of the time"
    assert many[2] == "what limits it: long, 6.0 h by itself; about 2 accelerators would do as well"
    tight = said(scheduled([Job(str(n), hour) for n in range(6)], 2), 100.0, [])
    assert tight[2] == "what limits it: the accelerators; beyond 6 of them it would be 0, 1.0 h by itself"
    assert "not counted, as their number of images isn't known here: imagenet" in few
    assert said(scheduled([], 2), 100.0, []) == ["all is there"]


def test_runs_that_items_share_are_counted_once_by_forwards_and_multiply_adds(tmp_path: Path) -> None:
    two, bad = (planned(item(f"trial/{name}"), "digits", 1, tmp_path) for name in ("two", "bad"))
    jobs, uncounted = jobs_of([two, bad, two])
    assert ([job.name.partition(",")[0] for job in jobs], uncounted) == (
        [work.experiment.name for work in (*two.works, bad.works[1])],
        [],
    )
    (work,) = two.works[:1]
    experiment = work.experiment
    evaluation = experiment.protocol.forwards(20)  # the selected weights are the last ones
    assert experiment.criterion == "last"
    monitors = 2 * sum(20 * (1 if m.attack is None else 1 + m.attack.forwards()) for m in experiment.monitors)
    network = experiment.model.build((1, 8, 8), 10, 0).eval()
    each = 2 * multiply_adds(network, torch.zeros(1, 1, 8, 8))
    held_out = experiment.selection == "held-out"
    monitors = monitors * (4 / 20) if held_out else monitors  # a tenth of 40 images
    assert flop([work]) == pytest.approx(each * (work.forwards + monitors + evaluation))


def test_all_items_on_paper_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def typed(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["poise", "reproduce", *map(str, words), "--out", str(tmp_path / "out")])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    status, out, _ = typed("--all", "--scale", "digits", "--seeds", 2, "--dry-run", "--gpus", 3)
    assert status == 0
    assert out.splitlines()[0].startswith("8 runs, ")
    assert out.splitlines()[1].startswith("on 3 accelerators: ")
    assert "what limits it: " in out
    assert not (tmp_path / "out").exists()
    assert "name one item" in typed("--dry-run")[2]
    assert "name one item" in typed("trial/two", "--all")[2]
    assert "must be a whole number with --dry-run" in typed("trial/two", "--dry-run", "--gpus", ".5")[2]
    assert "seed 0 trains on 2 at once" in typed("--all", "--scale", "digits", "--dry-run", "--gpus", 1)[2]
