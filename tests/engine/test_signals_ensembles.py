"""Runs with phases, stopped by SIGTERM anywhere in them, end with the bits of the unbroken run."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from poise.attacks import Ascent
from poise.core.errors import Interrupted
from poise.engine import Experiment, Run, resume, train
from poise.learners import SGD, Policy
from poise.methods import DVERGE, Joint
from poise.models import Collaboration, DigitsCNN, Ensemble
from poise.objectives import SynergyOfExperts
from poise.threats import Linf

INNER = Ascent(threat=Linf(epsilon=0.2), step_size=0.1, steps=1)
MEMBER = DigitsCNN(width=4)
STEPS = {"phase I": 3, "boundary": 8, "phase II": 11}
"""Of 16 steps in four epochs, two of them of each phase."""
ENDS = ("selected.safetensors", "last.safetensors", "step-000000016.safetensors", "metrics")


def policy(objective: Any) -> Policy:
    return Policy(objective=objective, optimizer=SGD(learning_rate=0.05))


def synergy(update: Any) -> dict[str, Any]:
    objective = SynergyOfExperts(inner=INNER, update=update, phase_two_from=0.5)
    return {"model": Collaboration(member=MEMBER, members=2), "method": Joint(policy=policy(objective), batch_size=32)}


RUNS: dict[str, dict[str, Any]] = {
    "joint": synergy("joint"),
    "per_source": synergy("per_source"),
    "dverge": {
        "model": Ensemble(member=MEMBER, members=2),
        "method": DVERGE(
            experts=2,
            batch_size=32,
            natural_until=0.5,
            adversarial=INNER,
            distillation=dataclasses.replace(INNER, start="zero"),
            policy=Policy(optimizer=SGD(learning_rate=0.05)),
        ),
    },
}
"""DVERGE's phase I is that on natural images."""


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Experiment], Run]:
    """The run of this name that nothing stopped, trained once."""
    made: dict[str, Run] = {}

    def trained(name: str, experiment: Experiment) -> Run:
        if name not in made:
            made[name] = train(experiment, tmp_path_factory.mktemp(name) / "run")
        return made[name]

    return trained


def ends(prints: dict[str, str]) -> dict[str, str]:
    return {name: prints[name] for name in ENDS}


@pytest.mark.parametrize("stopped", STEPS)
@pytest.mark.parametrize("name", RUNS)
def test_sigterm_in_any_phase_loses_nothing(
    tmp_path: Path,
    tiny_experiment: Any,
    fingerprint_of: Any,
    unbroken: Any,
    name: str,
    stopped: str,
    stopping: Any,
    steps_taken: list[int],
) -> None:
    experiment = tiny_experiment(name=name, epochs=4, save_every=3, **RUNS[name])
    wanted = ends(fingerprint_of(unbroken(name, experiment)))
    steps_taken.clear()
    with pytest.raises(Interrupted, match="poise train --resume"):
        train(experiment, tmp_path / "run", progress=stopping(STEPS[stopped]))
    assert [path.name for path in Run.open(tmp_path / "run").states()] == [f"step-{STEPS[stopped]:09d}"]
    assert ends(fingerprint_of(resume(tmp_path / "run"))) == wanted
    assert len(steps_taken) == 16, "none is taken twice"


def test_sigterm_between_two_updates_of_one_step_loses_nothing(
    tmp_path: Path, tiny_experiment: Any, fingerprint_of: Any, unbroken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Algorithm 1 updates after each source; the step is finished before the run stops."""
    experiment = tiny_experiment(name="per_source", epochs=4, save_every=3, **RUNS["per_source"])
    wanted = ends(fingerprint_of(unbroken("per_source", experiment)))
    searched, maximise = [], Ascent.maximise

    def interrupted(self: Ascent, *given: Any, **named: Any) -> Tensor:
        searched.append(self)
        if len(searched) == 10:  # the second source of the fifth step
            signal.raise_signal(signal.SIGTERM)
        return maximise(self, *given, **named)

    monkeypatch.setattr(Ascent, "maximise", interrupted)
    with pytest.raises(Interrupted):
        train(experiment, tmp_path / "run")
    assert [path.name for path in Run.open(tmp_path / "run").states()] == ["step-000000005"]
    assert ends(fingerprint_of(resume(tmp_path / "run"))) == wanted
