"""Steps of every objective: none waits, none makes a tensor on the host, and recorded they have the plain ones'
bits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from benchmarks.gpu_cases import AT, COUNTS, NORMAL, OBJECTIVES, UNRECORDED, batch, learner, moment
from benchmarks.pretended import Gpu, Illegal, pretended_gpu

from poise.attacks import PGD
from poise.core.settings import registered
from poise.learners import Learner
from poise.learners.compiled import compilation
from poise.learners.precision import precision
from poise.objectives import GAIRRST, Objective
from poise.threats import Linf

GPU, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poise.learners.compiled.compiled_call", lambda function: function)
    monkeypatch.setattr("poise.learners.recording._WARMUPS", 1)


def steps(name: str, mode: Any, gpu: Gpu) -> tuple[Learner, list[str], list[dict[str, int]]]:
    """A learner after a few steps, what it said, and what each step waited for or made on the host."""
    said: list[str] = []
    ours = learner(OBJECTIVES[name], precision("float32", GPU), compilation(mode, GPU, said.append))
    waits = []
    for step, count in enumerate(COUNTS):
        shown = batch(step, count, GPU)
        gpu.waits.clear()
        gpu.host.clear()
        ours.descend(ours.policy.objective, shown, moment(step))
        waits.append({**gpu.waits, **gpu.host})
    return ours, said, waits


def numbers(ours: Learner) -> dict[str, torch.Tensor]:
    return {key: value.cpu() for key, value in ours.state().items()}


def test_every_objective_is_among_the_cases() -> None:
    assert {type(objective) for _, objective, _ in OBJECTIVES.values()} == set(registered(Objective).values())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_step_waits_and_recorded_once_it_has_the_same_bits(name: str) -> None:
    with pretended_gpu() as gpu:
        ours, _, waits = steps(name, "off", gpu)
        assert waits == [{}] * len(COUNTS)
        plain = numbers(ours)
        ours, said, waits = steps(name, "auto", gpu)
        assert [step for step in waits if step][1:] == []  # one prepares
        assert all(torch.equal(value, plain[key]) for key, value in numbers(ours).items())
        assert not gpu.faults and len(gpu.graphs) == (name not in UNRECORDED)
        assert name in UNRECORDED or not [sentence for sentence in said if "cannot" in sentence]


def test_a_gpu_moves_weights_where_a_cpu_does() -> None:
    """In float64: a sign step amplifies a last bit of float32, in which the two add in another order."""

    def moved(device: torch.device) -> dict[str, torch.Tensor]:
        mode = compilation("auto", device, lambda sentence: None)
        ours = learner(OBJECTIVES["TRADES"], precision("float64", device), mode)
        for step, count in enumerate(COUNTS):
            shown = batch(step, count, device)
            ours.descend(ours.policy.objective, replace(shown, x=shown.x.double()), moment(step))
        return numbers(ours)

    with pretended_gpu():
        theirs = moved(GPU)
    for key, value in moved(CPU).items():
        torch.testing.assert_close(theirs[key], value, atol=1e-10, rtol=1e-8)


def test_faults_are_found_with_their_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(change: Any) -> None:
        monkeypatch.setattr(
            Linf, "step", lambda self, z, gradient, size: z + size * gradient.sign() * change(z, gradient)
        )

    with pretended_gpu() as gpu:
        planted(lambda z, gradient: torch.ones(len(z)).view(-1, 1, 1, 1))
        with pytest.raises(Illegal, match=r"tests/device/objectives.py:\d+ < .* was given some of cuda:0 and of cpu"):
            steps("AT", "off", gpu)
        planted(lambda z, gradient: float(gradient.abs().max() > 0))
        (wait,) = steps("AT", "off", gpu)[2][-1]
        assert wait.startswith("local_scalar_dense @ tests/device/objectives.py:")
        assert any("not permitted when stream is capturing" in sentence for sentence in steps("AT", "auto", gpu)[1])
        planted(lambda z, gradient: torch.full((), 1.0))
        assert any("full @ tests/device/objectives.py" in made for made in steps("AT", "off", gpu)[2][-1])


def test_a_later_phase_has_the_plain_steps_bits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "phases", (OBJECTIVES["AT"][0], GAIRRST(inner=NORMAL, from_epoch=2), {}))
    with pretended_gpu() as gpu:
        recorded, plain = (numbers(steps("phases", mode, gpu)[0]) for mode in ("auto", "off"))
        assert all(torch.equal(value, plain[key]) for key, value in recorded.items())


def test_a_diagnosis_in_float32_leaves_the_recording_in_its_place() -> None:
    with pretended_gpu() as gpu:
        ours, _, _ = steps("AT", "auto", gpu)
        shown = batch(9, 4, GPU)
        PGD(steps=2)(ours.network, shown.x, shown.y)
        ours.descend(AT, shown, moment(4))
        assert len(gpu.graphs) == 1
