"""The study on CIFAR-10 at toy scale: its plan is the preregistered one, and every kind of run works, stops and goes
on.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments.cifar10 import frozen, place, work
from experiments.cifar10.design import (
    BETAS,
    FROM,
    GRID,
    STUDY,
    TOY,
    Branch,
    Rate,
    Rates,
    Row,
    Unit,
    affordable,
    bracketing,
    evaluations,
    experiment,
    protocols,
    units,
)
from experiments.cifar10.evaluation import evaluated
from experiments.cifar10.pilot import best
from experiments.cifar10.place import ROW, Place
from experiments.cifar10.training import shipped, trained, trunk_of

from poise.core.batches import Now
from poise.core.errors import Interrupted, RunError
from poise.core.processors import Processor
from poise.core.records import EvaluationRecord
from poise.engine.training import Meters
from poise.learners.averages import EMA
from poise.methods import Generalist, Joint
from poise.objectives import AT

ROOT = Path(__file__).parents[2]


@pytest.fixture
def toy(tmp_path: Path) -> Place:
    """A study whose pilot is over."""
    made = Place(TOY, tmp_path / "runs", tmp_path / "results", "0" * 40)
    rates = {"chosen": dataclasses.asdict(Rate())}
    made.decide("pilot", {"nt": rates, "at": rates})
    made.decide("arithmetic", {"precision": "float32"})
    return made


def unit(name: str) -> Unit:
    return next(each for each in units() if each.name == name)


def test_rows_seeds_and_order_are_those_of_the_readme() -> None:
    names = [each.name for each in units()]
    assert names[:5] == ["at-s0", "half-0.5-s0", "half-0.75-s0", "generalist-s0", "nt-s0"]
    assert names[5:12] == [
        "at-s1",
        "half-0.5-s1",
        "half-0.75-s1",
        "generalist-s1",
        "half-0.5-s2",
        "half-0.75-s2",
        "generalist-s2",
    ]
    assert [each.name for each in units(only_primary=True)] == names[:12]
    text = (ROOT / "experiments/cifar10/README.md").read_text()
    planned = [row.split("|")[1].strip() for row in re.findall(r"^\|.*\|$", text, re.MULTILINE)[2:]]
    assert planned[:4] == ["AT", "half-half, EMA", "Generalist", "NT"] and len(planned) == 9


def test_the_fixed_settings_are_those_of_the_readme() -> None:
    made = experiment(unit("generalist-s1"), STUDY, Rates(nt=Rate(0.05, 2e-4), at=Rate(0.2)), "bfloat16")
    method, network = made.method, made.model.build((3, 32, 32), 10, 0)
    assert sum(parameter.numel() for parameter in network.parameters()) == 701_466
    assert isinstance(method, Generalist)
    assert (made.epochs, made.seed, made.held_out * 50_000, made.precision, method.batch_size) == (
        20,
        1,
        1000,
        "bfloat16",
        128,
    )
    assert (method.redistribute_unit, method.redistribute_every, method.redistribute_from, method.decay) == (
        "steps",
        326,
        0.625,
        0.994,
    )
    assert dataclasses.astuple(method.natural.optimizer)[:3] == (0.05, 0.9, 2e-4)  # type: ignore[call-overload]
    assert dataclasses.astuple(method.robust.optimizer)[:3] == (0.2, 0.9, 5e-4)  # type: ignore[call-overload]
    assert method.natural.average is None and method.robust.average is None
    joint = experiment(unit("half-0.75-s2"), STUDY, Rates(), "float32").method
    assert isinstance(joint, Joint) and joint.policy.average == EMA(decay=0.994)
    assert isinstance(joint.policy.objective, AT)
    search = joint.policy.objective.inner
    assert (joint.policy.objective.beta, search.steps, search.step_size, search.threat.epsilon) == (
        0.75,
        10,
        2 / 255,
        8 / 255,
    )
    narrow = experiment(unit("at-4-s0"), STUDY, Rates(), "float32").method.policies()["joint"].objective
    assert isinstance(narrow, AT) and (narrow.inner.threat.epsilon, narrow.inner.step_size) == (4 / 255, 1 / 255)
    for name in ("trades", "st", "mart", "generalist-st"):
        policies = experiment(unit(f"{name}-s0"), STUDY, Rates(), "float32").method.policies()
        inner: Any = list(policies.values())[-1].objective
        assert (inner.inner.threat.epsilon, inner.inner.steps) == (8 / 255, 10), name
    assert len(GRID) == 6 and STUDY.pilot[0].train_images == 11_000 and STUDY.pilot[2] == 5


def test_branches_leave_at_the_moment_of_the_readme() -> None:
    """7,660 steps of 383 an epoch; the first redistribution is after t', at step 4,890."""
    whole = experiment(unit("generalist-s0"), STUDY, Rates(), "float32")
    method = whole.method
    assert isinstance(method, Generalist)
    assert int(FROM * 20 * 383) == 4787 < 15 * 326
    gamma = [method.gamma.value(Now(epoch, 0, 20, 383, 0)) for epoch in (13, 14, 20)]
    assert gamma == [1, pytest.approx(0.95), 0.5], "the ramp leaves AT before its first epoch below 1"
    ramp = unit("ramp-s0").row.branch
    assert ramp is not None and ramp.at * 20 == 13
    for name, of in (("gamma-0.25", "generalist"), ("never", "generalist"), ("ramp", "at"), ("line", "at")):
        trunk = trunk_of(unit(f"{name}-s0"))
        assert trunk is not None and trunk.name == f"{of}-s0"


def test_what_is_evaluated_is_what_the_readme_says() -> None:
    assert evaluations(unit("half-0.5-s1")) == [("last", "pair"), ("selected", "small")]
    assert ("raw", "small") in evaluations(unit("at-s1"))
    full = [each.name for each in units() if ("last", "autoattack") in evaluations(each)]
    assert full == ["at-s0", "half-0.5-s0", "half-0.75-s0", "generalist-s0", "st-s0"]
    assert [readout for readout, _ in evaluations(unit("line-s0"))] == [
        f"mixture-{share}" for share in ("0", "0.25", "0.5", "0.75", "1")
    ]
    named = protocols(STUDY)
    assert (named["pair"].first, named["small"].first, named["autoattack"].first) == (None, 2000, 1000)
    assert [attack.name for attack in named["pair"].attacks[0].components()] == ["APGD-CE", "APGD-T"]  # type: ignore[attr-defined]
    assert named["autoattack-4"].attacks[0].threat.epsilon == 4 / 255


def test_cuts_take_exploratory_rows_then_branches_then_ats_second_seed_and_no_primary_seed() -> None:
    planned, cost = units(), {each.name: 1.0 for each in units()}
    assert affordable(planned, len(planned), cost) == planned
    assert [each.name for each in affordable(planned, len(planned) - 2, cost)] == [each.name for each in planned[:-2]]
    left = affordable(planned, len(planned) - 5, cost)
    assert {each.row.kind for each in left} == {"primary", "branch", "other"}
    assert [each.name for each in affordable(planned, 0, cost)] == [
        each.name for each in units(only_primary=True) if each.name != "at-s1"
    ]


def test_a_beta_is_moved_where_generalist_is_not_bracketed() -> None:
    naturals = {1.0: 0.76, 0.75: 0.8, 0.5: 0.84}
    assert [bracketing(naturals, natural) for natural in (0.77, 0.82, 0.85, 0.7)] == [BETAS, BETAS, (0.25, 0.5), BETAS]


def test_the_pilots_choice_is_the_best_held_out_and_the_default_among_equals() -> None:
    assert best([(Rate(0.05), 0.5), (Rate(0.1), 0.6), (Rate(0.2), 0.55)]) == Rate(0.1)
    assert best([(Rate(0.05), 0.6), (Rate(), 0.6)]) == Rate()
    assert best([(Rate(0.2), float("nan")), (Rate(0.05), 0.2)]) == Rate(0.05)
    assert best([]) == Rate()


def start_on(study: Place, monkeypatch: pytest.MonkeyPatch, day: str, native: bool) -> str | None:
    """A start on this day and kind of processor; returns the arithmetic in which it trains."""
    monkeypatch.setattr(place, "native_bfloat16", lambda device: native)
    monkeypatch.setattr(place, "bfloat16_gain", lambda: 1.7 if native else 0.1)
    monkeypatch.setattr(place, "processor", lambda: Processor("x", ("amx_bf16",) if native else ()))
    study.start()
    text = (study.results / "starts.jsonl").read_text()
    lines = text.splitlines()
    lines[-1] = json.dumps({**json.loads(lines[-1]), "date": day})
    (study.results / "starts.jsonl").write_text("\n".join(lines) + "\n")
    return study.arithmetic()


def test_three_starts_in_a_row_without_native_bfloat16_turn_to_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Place(STUDY, tmp_path / "runs", tmp_path / "results")
    taken = [start_on(study, monkeypatch, f"2026-01-0{day}", False) for day in range(1, ROW + 1)]
    assert taken == [None, None, "float32"]
    assert start_on(study, monkeypatch, "2026-01-09", True) == "bfloat16"
    assert start_on(study, monkeypatch, "2026-01-10", False) is None
    assert study.without == 1


def test_several_starts_of_a_day_on_one_processor_are_one(tmp_path: Path) -> None:
    study = Place(STUDY, tmp_path / "runs", tmp_path / "results")
    study.start()
    study.start()
    assert len(study.starts) == 1
    assert study.starts[0]["processor"]


def test_the_arithmetic_is_fixed_by_the_first_primary_run(toy: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    study = dataclasses.replace(toy, scale=STUDY)
    assert study.only_primary and {each.row.kind for each in study.planned} == {"primary"}
    assert start_on(study, monkeypatch, "2026-01-01", True) == "float32"
    study.decide("arithmetic", {"precision": "bfloat16"})
    assert start_on(study, monkeypatch, "2026-01-01", True) == "bfloat16"
    for day in range(2, 7):
        assert start_on(study, monkeypatch, f"2026-01-0{day}", False) is None
    assert not study.only_primary


def weights(study: Place, name: str, readout: str = "last") -> bytes:
    return (study.kept(unit(name)) / f"{readout}.safetensors").read_bytes()


def test_runs_branches_and_the_weight_line_are_trained_and_evaluated(toy: Place) -> None:
    """A branch under its trunk's own settings ends at the trunk's bits."""
    trunk = unit("generalist-s0")
    copy = Unit(Row("copy", "copy", "generalist", (), 1, "branch", Branch("generalist", FROM)), 0)
    for each in (trunk, copy, unit("gamma-0.25-s0"), unit("at-s0"), unit("ramp-s0"), unit("line-s0")):
        trained(toy, each)
        facts = toy.facts(each)
        assert facts is not None and facts["precision"] == "float32" and facts["held_out"]["natural"] >= 0
    own = (toy.kept(copy) / "last.safetensors").read_bytes()
    assert own == weights(toy, "generalist-s0") != weights(toy, "gamma-0.25-s0")
    assert weights(toy, "at-s0") != weights(toy, "at-s0", "raw")
    assert len({weights(toy, name) for name in ("at-s0", "ramp-s0")}) == 2
    line = [shipped(toy, unit("line-s0"), f"mixture-{share:g}").state_dict()["head.weight"] for share in (0, 0.5, 1)]
    torch.testing.assert_close(line[1], (line[0] + line[2]) / 2, rtol=1e-2, atol=1e-3)
    for readout, protocol in evaluations(unit("at-s0")):
        evaluated(toy, unit("at-s0"), readout, protocol)
    record = EvaluationRecord.read(toy.record(unit("at-s0"), "last", "pair"))
    assert (record.count, record.checkpoint, record.notes["trained_in"]) == (40, "last", "float32")
    assert toy.missing(unit("at-s0")) == []


def test_a_run_told_to_stop_goes_on_to_the_same_bits(
    toy: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dataclasses.replace(toy, runs=tmp_path / "others")
    trained(whole, unit("at-s0"))
    unbroken = weights(toy, "at-s0")
    (toy.kept(unit("at-s0")) / "run.json").unlink()
    add, taken = Meters.add, list[int]()

    def stopping(self: Meters, *given: Any) -> None:
        add(self, *given)
        taken.append(1)
        if len(taken) in (2, 7):
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Meters, "add", stopping)
    for _ in range(2):
        with pytest.raises(Interrupted):
            trained(toy, unit("at-s0"))
        assert toy.facts(unit("at-s0")) is None
    trained(toy, unit("at-s0"))
    assert weights(toy, "at-s0") == unbroken


def test_two_processes_are_never_at_one_piece_of_work(toy: Place) -> None:
    with work.held(toy, "at-s0") as mine, work.held(toy, "at-s0") as theirs, work.held(toy, "") as free:
        assert (mine, theirs, free) == (True, False, True)
    with work.held(toy, "at-s0") as again:
        assert again
    assert work.waits(toy, unit("half-0.5-s1")) and not work.waits(toy, unit("at-s1"))
    toy.decide("betas", {"betas": BETAS})
    assert not work.waits(toy, unit("half-0.5-s1"))


def test_the_frozen_checkout_is_of_one_commit_and_unchanged(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    for command in (["init", "-q"], ["config", "user.email", "a@b"], ["config", "user.name", "a"]):
        frozen.git(repository, *command)
    for text in ("one", "two"):
        (repository / "file").write_text(text)
        frozen.git(repository, "add", "file")
        frozen.git(repository, "commit", "-q", "-m", text)
    first = frozen.git(repository, "rev-parse", "HEAD~1")
    folder = frozen.checked_out(tmp_path / "runs" / "checkout", first, repository)
    assert (folder / "file").read_text() == "one"
    assert frozen.checked_out(folder, first, repository) == folder
    with pytest.raises(RunError, match=f"is of commit {first[:12]}, and the study is of"):
        frozen.checked_out(folder, frozen.git(repository, "rev-parse", "HEAD"), repository)
    (folder / "file").write_text("three")
    with pytest.raises(RunError, match="was changed"):
        frozen.checked_out(folder, first, repository)


def command(verb: str, folder: Path, **more: Any) -> subprocess.Popen[str]:
    arguments = [
        sys.executable,
        "-m",
        "experiments.cifar10",
        verb,
        "--toy",
        "--runs",
        str(folder / "runs"),
        *more.pop("arguments", []),
    ]
    return subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **more}
    )


@pytest.mark.slow
def test_the_whole_study_at_toy_scale_stopped_once_by_a_signal(tmp_path: Path) -> None:
    """All runs by two processes, every evaluation and verdict, status and analysis, as the command does them."""
    begun = command("run", tmp_path)
    results = tmp_path / "runs" / "results"
    wait(lambda: (results / "rows").is_dir() and len(list((results / "rows").iterdir())) > 2)
    begun.send_signal(signal.SIGTERM)
    assert begun.wait(120) == 0
    assert not list(results.rglob("*.part"))
    assert command("run", tmp_path).wait(1200) == 0
    told = command("status", tmp_path).communicate()[0]
    assert len(re.findall(r"^  \S+ .* done \(", told, re.MULTILINE)) == len(units()) and "core-hours used" in told
    status, (out, err) = (lambda process: (process.wait(), process.communicate()))(command("analyse", tmp_path))
    assert (
        status == 0 and "; neither confirms nor refutes Table 1" in out
    ) or "is not bracketed by the half-half curve" in err


def wait(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.2)
