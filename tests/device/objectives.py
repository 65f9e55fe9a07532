"""Steps of every objective: none waits, none makes a tensor on the host, and recorded they have the plain ones' bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from benchmarks.pretended import Gpu, Illegal, pretended_gpu

from poise import objectives as O
from poise.attacks import PGD, Ascent
from poise.core.batches import Batch, Now
from poise.core.settings import registered
from poise.learners import EMA, SGD, SWA, Learner, Policy
from poise.learners.compiled import compilation
from poise.learners.perturbations import AWP, RWP
from poise.learners.precision import precision
from poise.models import Collaboration, DigitsCNN, Ensemble, Mixture, Network
from poise.threats import L1, L2, Linf

SHAPE, GPU = (3, 8, 8), torch.device("cuda")
INNER = Ascent(steps=2)
NORMAL, BALL = replace(INNER, start="gaussian"), replace(INNER, threat=L2(), step_size=0.1)
CNN = DigitsCNN(width=4)
PAIR, TEAM = Ensemble(member=CNN, members=2), Collaboration(member=CNN, members=2)
MIXTURE = Mixture(member=CNN, gate=CNN, members=2)
AT = O.AT(inner=INNER)
CASES: dict[str, tuple[Network, O.Objective[Any], dict[str, Any]]] = {
    "NT": (CNN, O.NT(), {"average": SWA(from_epoch=1)}),
    "AT": (CNN, AT, {}),
    "AT joint": (CNN, O.AT(inner=INNER, beta=0.5, joint_batch=True), {}),
    "AT jitter": (CNN, O.AT(inner=replace(INNER, jitter=0.01)), {}),
    "AT ramp": (CNN, O.AT(inner=replace(INNER, ramp=1.0)), {}),
    "AT L2 ramp": (CNN, O.AT(inner=replace(BALL, ramp=1.0)), {}),
    "AT L1 ramp": (CNN, O.AT(inner=replace(INNER, threat=L1(), step_size=1.0, ramp=1.0)), {}),
    "AT in training mode": (CNN, O.AT(inner=INNER, craft_mode="training"), {}),
    "AT with frozen statistics": (CNN, O.AT(inner=INNER, craft_mode="frozen_statistics"), {}),
    "AT in microbatches": (CNN, AT, {"microbatch": 2}),
    "AT clipped": (CNN, AT, {"clip": 1.0}),
    "AT with AWP": (CNN, AT, {"perturbation": AWP()}),
    "AT with RWP": (CNN, AT, {"perturbation": RWP(steps=2)}),
    "TRADES": (CNN, O.TRADES(inner=NORMAL), {}),
    "MART": (CNN, O.MART(inner=INNER), {}),
    "BAT": (CNN, O.BAT(inner=INNER), {}),
    "FAT": (CNN, O.FAT(objective=AT, tau=(0, 1), tau_from=(1, 2)), {}),
    "GAIRAT": (CNN, O.GAIRAT(inner=INNER, from_epoch=2), {}),
    "GAIRRST": (CNN, O.GAIRRST(inner=NORMAL, from_epoch=1), {}),
    "IAT": (CNN, O.IAT(inner=INNER), {}),
    "SqueezeTraining": (CNN, O.SqueezeTraining(inner=INNER), {}),
    "TwoExamples": (CNN, O.TwoExamples(objective=AT), {}),
    "RST": (CNN, O.RST(inner=INNER, entropy_weight=0.1), {}),
    "WeightedRST": (CNN, O.WeightedRST(inner=INNER), {}),
    "CollaborativeTraining": (CNN, O.CollaborativeTraining(inner=INNER), {}),
    "ADP": (PAIR, O.ADP(adversarial=INNER), {}),
    "GAL": (PAIR, O.GAL(adversarial=INNER), {}),
    "MoRE": (MIXTURE, O.MoRE(adversarial=INNER), {}),
    "SynergyOfExperts": (TEAM, O.SynergyOfExperts(inner=INNER, phase_two_from=1), {}),
    "SynergyOfExperts, phase II": (TEAM, O.SynergyOfExperts(inner=INNER, phase_two_from=0, surrogate="hard", detach_features=True), {}),
    "SynergyOfExperts, one source after the other": (TEAM, O.SynergyOfExperts(inner=INNER, update="per_source", phase_two_from=1), {}),
}
UNRECORDED = {"NT": "crafts nothing", "SynergyOfExperts, one source after the other": "depends on the turn"}
COUNTS = (4, 4, 2, 4)
NOW = Now(epoch=1, step=0, epochs=2, steps_per_epoch=3, seed=5, scope="joint")


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poise.learners.compiled.compiled_call", lambda function: function)
    monkeypatch.setattr("poise.learners.recording._WARMUPS", 1)


def batch(step: int, count: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    made = Batch.of(torch.rand(count, *SHAPE, generator=generator), torch.randint(10, (count,), generator=generator))
    return replace(made, **{name: getattr(made, name).to(GPU) for name in ("x", "y", "ids", "places", "extra")})


def steps(name: str, mode: Any, gpu: Gpu) -> tuple[Learner, list[str], list[dict[str, int]]]:
    """A learner after a few steps, what it said, and what each step waited for or made on the host."""
    model, objective, more = CASES[name]
    said: list[str] = []
    policy = Policy(objective=objective, optimizer=SGD(learning_rate=0.05), **{"average": EMA(decay=0.9), **more})
    network = model.build(SHAPE, 10, seed=0).to(GPU)
    ours = Learner("joint", policy, network, arithmetic=precision("float32", GPU), compilation=compilation(mode, GPU, said.append))
    waits = []
    for step, count in enumerate(COUNTS):
        shown = batch(step, count)
        gpu.waits.clear()
        gpu.host.clear()
        ours.descend(objective, shown, replace(NOW, step=step, epoch=step // 3 + 1))
        waits.append({**gpu.waits, **gpu.host})
    return ours, said, waits


def numbers(ours: Learner) -> dict[str, torch.Tensor]:
    return {key: value.cpu() for key, value in ours.state().items()}


def test_every_objective_is_among_the_cases() -> None:
    assert {type(objective) for _, objective, _ in CASES.values()} == set(registered(O.Objective).values())


@pytest.mark.parametrize("name", CASES)
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
    with pretended_gpu() as gpu:
        ours = numbers(steps("TRADES", "auto", gpu)[0])
    model, objective, _ = CASES["TRADES"]
    policy = Policy(objective=objective, optimizer=SGD(learning_rate=0.05), average=EMA(decay=0.9))
    plain = Learner("joint", policy, model.build(SHAPE, 10, seed=0))
    for step, count in enumerate(COUNTS):
        generator = torch.Generator().manual_seed(step)
        shown = Batch.of(torch.rand(count, *SHAPE, generator=generator), torch.randint(10, (count,), generator=generator))
        plain.descend(objective, shown, replace(NOW, step=step, epoch=step // 3 + 1))
    for key, value in plain.state().items():
        torch.testing.assert_close(ours[key], value, atol=1e-5, rtol=1e-4)


def test_faults_are_found_with_their_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(change: Any) -> None:
        monkeypatch.setattr(Linf, "step", lambda self, z, gradient, size: z + size * gradient.sign() * change(z, gradient))

    with pretended_gpu() as gpu:
        planted(lambda z, gradient: torch.ones(len(z)).view(-1, 1, 1, 1))
        with pytest.raises(Illegal, match=r"cuda:0 and of cpu.*|objectives.py"):
            steps("AT", "off", gpu)
        planted(lambda z, gradient: float(gradient.abs().max() > 0))
        (wait,) = steps("AT", "off", gpu)[2][-1]
        assert wait.startswith("local_scalar_dense @ tests/device/objectives.py:")
        assert any("not permitted when stream is capturing" in sentence for sentence in steps("AT", "auto", gpu)[1])
        planted(lambda z, gradient: torch.full((), 1.0))
        assert any("full @ tests/device/objectives.py" in made for made in steps("AT", "off", gpu)[2][-1])


def test_recordings_of_both_phases_are_made_where_the_phase_changes() -> None:
    name = "GAIRRST"
    model, _, more = CASES[name]
    with pretended_gpu() as gpu, pytest.MonkeyPatch.context() as patched:
        patched.setitem(CASES, name, (model, O.GAIRRST(inner=NORMAL, from_epoch=2), more))
        recorded, plain = (numbers(steps(name, mode, gpu)[0]) for mode in ("auto", "off"))
        assert len(gpu.graphs) == 1  # the step after the change comes with another shape between
        assert all(torch.equal(value, plain[key]) for key, value in recorded.items())


def test_a_diagnosis_in_float32_leaves_the_recording_in_its_place() -> None:
    with pretended_gpu() as gpu:
        ours, _, _ = steps("AT", "auto", gpu)
        shown = batch(9, 4)
        PGD(steps=2)(ours.network, shown.x, shown.y)
        count = len(gpu.graphs)
        ours.descend(AT, shown, replace(NOW, step=4, epoch=2))
        assert len(gpu.graphs) == count == 1
