"""Where the study's files lie: runs in an ignored folder, results where they are committed, and who trains what."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from experiments.cifar10.design import (
    BETAS,
    HOURS,
    Rate,
    Rates,
    Scale,
    Unit,
    affordable,
    bracketing,
    evaluations,
    experiment,
    units,
)
from poise.core.documents import read_lines
from poise.core.files import append_line, write_text
from poise.core.processors import bfloat16_gain, native_bfloat16, processor
from poise.engine import Experiment, Run

RESULTS = Path(__file__).parent / "results"
ROW = 3
"""Starts in a row without native bfloat16 after which the study is done in float32, its primary rows only."""


@dataclass(frozen=True)
class Place:
    """The study at one scale. runs: everything that can be made again; results: what is kept; commit: of the code that
    runs.
    """

    scale: Scale
    runs: Path
    results: Path
    commit: str = ""

    # -- what was decided
    # -----------------------------------------------------------------------------------------------

    def decided(self, name: str) -> Any:
        """What results/NAME.json says; None where nothing was decided yet."""
        path = self.results / f"{name}.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def decide(self, name: str, value: Any) -> None:
        write_text(self.results / f"{name}.json", json.dumps(value, indent=1) + "\n")

    @property
    def rates(self) -> Rates | None:
        """The pilot's choice; None before it."""
        chosen = self.decided("pilot")
        return None if chosen is None else Rates(Rate(**chosen["nt"]["chosen"]), Rate(**chosen["at"]["chosen"]))

    @property
    def precision(self) -> str | None:
        """The study's one arithmetic, fixed by the first primary run."""
        fixed = self.decided("arithmetic")
        return None if fixed is None else str(fixed["precision"])

    # -- starts
    # ---------------------------------------------------------------------------------------------------------

    @property
    def starts(self) -> list[dict[str, Any]]:
        return read_lines(self.results / "starts.jsonl")

    def start(self) -> None:
        """Note today's start and the processor that it met."""
        self.results.mkdir(parents=True, exist_ok=True)
        native = native_bfloat16(torch.device("cpu"))
        line = {
            "date": datetime.now(UTC).date().isoformat(),
            "processor": processor().name,
            "bfloat16": list(processor().bfloat16),
        }
        line |= {"gain": round(bfloat16_gain(), 2), "native": native, "commit": self.commit}
        if not any(
            all(known.get(key) == line[key] for key in ("date", "processor", "native")) for known in self.starts
        ):
            append_line(self.results / "starts.jsonl", json.dumps(line))

    @property
    def without(self) -> int:
        """How many starts in a row, up to the last one, met no native bfloat16."""
        count = 0
        for start in reversed(self.starts):
            if start["native"]:
                break
            count += 1
        return count

    def arithmetic(self) -> str | None:
        """In which arithmetic runs are trained here and now; None: only evaluations are done."""
        native = native_bfloat16(torch.device("cpu"))
        if self.scale.anywhere and self.precision is None:
            return "float32"
        if self.precision is not None:
            return self.precision if native or self.precision == "float32" else None
        return "bfloat16" if native else "float32" if self.without >= ROW else None

    # -- runs
    # -----------------------------------------------------------------------------------------------------------

    @property
    def betas(self) -> tuple[float, ...] | None:
        """The half-half curve's, once seed 0 has been held against Generalist on held-out images; None before."""
        fixed = self.decided("betas")
        return None if fixed is None else tuple(fixed["betas"])

    def fix_betas(self) -> None:
        """Where seed 0 of the first rows is trained: whether .5 and .75 bracket Generalist on held-out images, else one
        is moved.
        """
        held = {
            unit.row: self.facts(unit)
            for unit in units()
            if unit.seed == 0 and unit.row.kind == "primary" and unit.row.name != "nt"
        }
        if self.betas is not None or any(facts is None for facts in held.values()):
            return
        naturals = {
            row.beta: facts["held_out"]["natural"] for row, facts in held.items() if facts and row.beta is not None
        }
        generalist = next(
            facts["held_out"]["natural"] for row, facts in held.items() if facts and row.name == "generalist"
        )
        chosen = bracketing(naturals, generalist)  # type: ignore[arg-type]
        self.decide(
            "betas",
            {
                "betas": chosen,
                "held_out": {**{str(beta): value for beta, value in naturals.items()}, "generalist": generalist},
            },
        )

    @property
    def only_primary(self) -> bool:
        """Whether the study has come down to its primary rows."""
        return self.precision == "float32" and not self.scale.anywhere

    @property
    def planned(self) -> list[Unit]:
        """All runs that are to be made, in their order, those left out for want of hours not among them."""
        mine = units(self.betas or BETAS, only_primary=self.only_primary)
        return affordable(
            mine, float("inf") if self.scale.anywhere else HOURS, {unit.name: self.cost(unit) for unit in mine}
        )

    def experiment(self, unit: Unit) -> Experiment:
        precision = self.precision
        assert self.rates is not None and precision is not None
        return experiment(unit, self.scale, self.rates, precision)

    def run(self, unit: Unit) -> Run:
        return Run(self.runs / unit.name)

    def kept(self, unit: Unit) -> Path:
        """The folder of a run's results."""
        return self.results / "rows" / unit.name

    def facts(self, unit: Unit) -> dict[str, Any] | None:
        """What is known of a trained run; None where it is not trained."""
        path = self.kept(unit) / "run.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def record(self, unit: Unit, readout: str, protocol: str) -> Path:
        return self.kept(unit) / f"{readout}-{protocol}.json"

    def verdict(self, unit: Unit) -> Path:
        return self.kept(unit) / "sanity.json"

    def missing(self, unit: Unit) -> list[tuple[str, str]]:
        """(readout, protocol) that a trained run still lacks."""
        return [each for each in evaluations(unit) if not self.record(unit, *each).is_file()]

    def done(self, unit: Unit) -> bool:
        return self.facts(unit) is not None and not self.missing(unit) and self.verdict(unit).is_file()

    # -- hours
    # ----------------------------------------------------------------------------------------------------------

    @contextmanager
    def timed(self, name: str, what: str) -> Iterator[None]:
        """Note the core-seconds of a piece of work, and on which processor, whether or not it comes to its end."""
        clock, begun = time.process_time(), datetime.now(UTC).isoformat(timespec="seconds")
        try:
            yield
        finally:
            seconds = round(time.process_time() - clock, 1)
            line = {
                "what": what,
                "core_seconds": seconds,
                "begun": begun,
                "processor": str(processor()),
                "commit": self.commit,
            }
            self.results.mkdir(parents=True, exist_ok=True)
            append_line(self.results / "hours.jsonl", json.dumps({"name": name, **line}))

    @property
    def hours(self) -> float:
        """Core-hours used."""
        return sum(line["core_seconds"] for line in read_lines(self.results / "hours.jsonl")) / 3600

    def processors(self, name: str) -> list[str]:
        """Those that a run has seen, in their order."""
        return list(
            dict.fromkeys(
                line["processor"] for line in read_lines(self.results / "hours.jsonl") if line["name"] == name
            )
        )

    def cost(self, unit: Unit) -> float:
        """Core-hours of a run with its evaluations: by count, at the speed seen so far."""
        return (
            training_cost(unit, self.scale) + sum(EVALUATION[protocol] for _, protocol in evaluations(unit))
        ) * self.speed

    @cached_property
    def speed(self) -> float:
        """Core-hours of an epoch of AT: what training took here, or a guess before anything was trained."""
        lines = [line for line in read_lines(self.results / "hours.jsonl") if line["what"] == "training"]
        done = [unit for unit in units(self.betas or BETAS) if self.facts(unit) is not None]
        spent = sum(line["core_seconds"] for line in lines if line["name"] in {unit.name for unit in done})
        return spent / 3600 / sum(training_cost(unit, self.scale) for unit in done) if spent else GUESS


GUESS = 0.065
"""Core-hours of an epoch of AT in bfloat16, before one was measured: 45 core-hours over the study's count."""
EVALUATION = {"pair": 9.0, "small": 2.0, "autoattack": 4.0, "autoattack-4": 5.0}
"""What each protocol costs, in epochs of AT, by a count of forwards at 45 % robust accuracy."""


def training_cost(unit: Unit, scale: Scale) -> float:
    """Epochs of AT that a run is worth, by the forwards and backwards of its objectives."""
    made = experiment(unit, scale, Rates(), "float32")

    def forwards(policies: Any) -> int:
        return sum(sum((cost := policy.objective.forwards()).__dict__.values()) - cost.moving for policy in policies)

    branch = unit.row.branch
    share = 1.0 if branch is None else (branch.epochs / scale.epochs if branch.epochs is not None else 1 - branch.at)
    one = experiment(Unit(units()[0].row, 0), scale, Rates(), "float32")
    return scale.epochs * share * forwards(made.method.policies().values()) / forwards(one.method.policies().values())
