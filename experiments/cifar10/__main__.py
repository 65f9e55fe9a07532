"""`python -m experiments.cifar10 status|run|pilot|evaluate|analyse`: the study on CIFAR-10 that README.md lays down."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch

from experiments.cifar10 import analysis, frozen
from experiments.cifar10.design import AFTERWARDS, BETAS, HOURS, STUDY, TOY, units
from experiments.cifar10.pilot import pilot
from experiments.cifar10.place import RESULTS, ROW, Place
from experiments.cifar10.work import PROCESSES, run, work
from poise.core.errors import PoiseError, RunError

RUNS = frozen.ROOT / "runs" / "cifar10"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.cifar10", description=__doc__)
    parser.add_argument("verb", choices=("status", "run", "pilot", "evaluate", "analyse", "work"))
    parser.add_argument(
        "--toy", action="store_true", help="digits and two epochs: shows that everything runs, in --runs and --results"
    )
    parser.add_argument(
        "--runs", type=Path, help=f"the ignored folder of runs and of the frozen checkout (default {RUNS})"
    )
    parser.add_argument("--results", type=Path, help=f"where records and weights are laid (default {RESULTS})")
    parser.add_argument("--commit", help="the commit that the study runs from; kept once it was given")
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--only-evaluations", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    runs = (given.runs or (RUNS / "toy" if given.toy else RUNS)).resolve()
    results = (given.results or (runs / "results" if given.toy else RESULTS)).resolve()
    place = Place(TOY if given.toy else STUDY, runs, results, given.commit or "")
    try:
        return act(given, place)
    except PoiseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def act(given: argparse.Namespace, place: Place) -> int:
    if given.verb == "status":
        print(status(place))
    elif given.verb == "analyse":
        curve, generalist, remarks = analysis.read(place.results)
        print("\n".join([analysis.primary(curve, generalist).text, *remarks, "", analysis.rows(place.results)]))
    elif given.verb == "work":
        work(place, given.only_evaluations)
    elif not (given.toy or given.inside):
        return in_frozen(given, place)
    elif given.verb == "pilot":
        place.start()
        precision = place.arithmetic()
        if precision is None:
            raise RunError(f"nothing is trained here: {waiting(place)}")
        pilot(place, precision)
    else:
        place.start()
        if place.arithmetic() is None:
            print(f"only evaluations are done here: {waiting(place)}", file=sys.stderr)
        only = ["--only-evaluations"] if given.verb == "evaluate" else []
        return run([*arguments(given, place), *only], given.processes)
    return 0


def arguments(given: argparse.Namespace, place: Place) -> list[str]:
    commit = ["--commit", place.commit] if place.commit else []
    return ["--runs", str(place.runs), "--results", str(place.results), *commit, *(["--toy"] if given.toy else [])]


def in_frozen(given: argparse.Namespace, place: Place) -> int:
    """The same verb, by the code and the environment of the study's commit, which is fixed by the first start."""
    kept = place.decided("commit")
    commit = frozen.git(frozen.ROOT, "rev-parse", kept or given.commit or "HEAD")
    if kept and given.commit and frozen.git(frozen.ROOT, "rev-parse", given.commit) != kept:
        raise RunError(f"--commit {given.commit}: the study runs from {kept[:12]}")
    if not kept:
        place.decide("commit", commit)
        print(
            f"the study runs from commit {commit}: write it to README.md, under Additions, with today's date",
            file=sys.stderr,
        )
    checkout = frozen.checked_out(place.runs / "checkout", commit)
    python = frozen.environment(checkout)
    inside = [given.verb, "--inside", "--processes", str(given.processes), "--commit", commit]
    inside += ["--runs", str(place.runs), "--results", str(place.results)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    os.chdir(checkout)
    os.execve(python, [str(python), "-m", "experiments.cifar10", *inside], environment)


def waiting(place: Place) -> str:
    """Why nothing is trained, in words."""
    if place.precision == "bfloat16":
        return "the study is in bfloat16, which this processor has not"
    return (
        f"this processor has no native bfloat16 ({place.without} of {ROW} starts in a row, after which float32 is"
        " taken)"
    )


def status(place: Place) -> str:
    """What is done, what is left, the core-hours, and the processors met."""
    planned = place.planned
    lines = [f"Study on CIFAR-10, scale {place.scale.name}; results in {place.results}"]
    for start in place.starts:
        native = "native bfloat16" if start["native"] else "no native bfloat16"
        lines.append(f"start {start['date']}: {start['processor']}, {native}, {start['gain']:g} times float32's speed")
    lines.append(
        f"starts without native bfloat16, in a row: {place.without} of {ROW}; arithmetic:"
        f" {place.precision or 'not fixed yet'}"
    )
    lines.append(
        f"pilot: {'done' if place.rates is not None else 'not done'}; betas: {place.betas or f'{BETAS}, not fixed yet'}"
    )
    for unit in planned:
        facts, missing = place.facts(unit), place.missing(unit)
        if place.done(unit):
            state = "done"
        elif facts is None:
            state = "training begun" if place.run(unit).path.exists() else "to be trained"
        else:
            state = f"trained; left: {', '.join('-'.join(each) for each in missing) or 'sanity'}"
        seen = f"; {'; '.join(facts['processors'])}" if facts is not None else ""
        lines.append(
            f"  {unit.name:<18} {unit.row.kind:<12} {state} ({place.cost(unit):.1f} core-hours by count){seen}"
        )
    cut = [unit.name for unit in units(place.betas or BETAS, place.only_primary) if unit not in planned]
    left = sum(place.cost(unit) for unit in planned if not place.done(unit))
    lines += [f"cut for want of hours: {', '.join(cut)}"] if cut else []
    lines.append(f"core-hours used {place.hours:.2f}, left about {left:.1f}, of {HOURS:g} in bfloat16")
    if all(map(place.done, planned)):
        lines.append(f"if hours are left: poise train {AFTERWARDS}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
