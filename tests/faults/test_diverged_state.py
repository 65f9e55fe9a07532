"""Weights, statistics and moments that are NaN or infinite are never saved, never gone on from, and told with where
they came from.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poise.attacks import PGD
from poise.core.errors import Interrupted, NumericalError, SettingsError
from poise.core.overrides import override
from poise.core.progress import Progress
from poise.data import Digits
from poise.engine import Experiment, Monitor, Run, resume, train
from poise.engine.checkpoints import read_tensors, write_tensors
from poise.engine.loop import _epochs as epochs  # pyright: ignore[reportPrivateUsage]
from poise.engine.training import Training
from poise.learners import EMA, SGD, Learner, Policy
from poise.methods import Generalist, Joint
from poise.models import DigitsCNN
from poise.objectives import AT, NT
from poise.threats import Linf

QUICK = PGD(threat=Linf(epsilon=0.2), step_size=0.1, steps=1)


def experiment(**changes: Any) -> Experiment:
    """Two epochs of four steps on 120 digits, with averages, momentum and accumulators."""
    policy = Policy(objective=NT(), optimizer=SGD(learning_rate=0.05), average=EMA(decay=0.8))
    made = Experiment(
        data=Digits(train_images=120, test_images=20),
        model=DigitsCNN(width=2),
        method=Generalist(natural=policy, robust=policy, batch_size=32, decay=0.8, redistribute_every=1),
        epochs=2,
        monitors=(Monitor(),),
    )
    return dataclasses.replace(made, **changes)


class Poisoning(Progress):
    """At a step writes a number into the tensor of a learner, then stops training if `number` is a signal."""

    def __init__(
        self, tensor: Callable[[Learner], Tensor], at: int, value: float, number: signal.Signals | None
    ) -> None:
        self.tensor, self.at, self.value, self.number = tensor, at, value, number
        self.learners: dict[str, Learner] = {}
        self.said: list[str] = []

    def begin(self, what: str, total: int, unit: str, cost: float = 0.0) -> Callable[[int], None]:
        return self.advanced

    def advanced(self, done: int) -> None:
        self.at -= done
        if self.at == 0:
            with torch.no_grad():
                self.tensor(self.learners["robust"]).flatten()[0] = self.value
            if self.number is not None:
                signal.raise_signal(self.number)

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Poisoning]:
    def make(
        tensor: Callable[[Learner], Tensor], at: int, value: float = float("nan"), number: signal.Signals | None = None
    ) -> Poisoning:
        progress = Poisoning(tensor, at, value, number)

        def watched(training: Training, until: int | None) -> None:
            progress.learners = training.learners
            epochs(training, until)

        monkeypatch.setattr("poise.engine.loop._epochs", watched)
        return progress

    return make


def momentum(learner: Learner) -> Tensor:
    return next(iter(learner.optimizer.state.values()))["momentum_buffer"]


STATE: dict[str, Callable[[Learner], Tensor]] = {
    "parameter": lambda learner: next(learner.network.parameters()),
    "running variance": lambda learner: dict(learner.network.named_buffers())["layers.1.running_var"],
    "average": lambda learner: next(iter((learner.average or {}).values())),
    "accumulator": lambda learner: next(iter(next(iter(learner.accumulators.values())).values())),
    "momentum": momentum,
}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", STATE)
def test_a_stop_while_anything_is_not_finite_keeps_the_last_good_checkpoint(
    tmp_path: Path, poisoned: Callable[..., Poisoning], kind: str, value: float
) -> None:
    progress = poisoned(STATE[kind], 6, value, signal.SIGTERM)
    with pytest.raises(
        Interrupted, match=r"stopped at step 6 of 8, which was not saved: learner 'robust': .* in epoch 2, is no longer"
    ) as e:
        train(experiment(keep_last=1), tmp_path / "run", progress=progress)
    assert "the last checkpoint, of step 4, stays" in str(e.value) and "now 0.05" in str(e.value)
    assert [path.name for path in Run.open(tmp_path / "run").states()] == ["step-000000004"]
    plain = train(experiment(), tmp_path / "plain")
    resumed = resume(tmp_path / "run")
    assert (resumed.path / "checkpoints/last.safetensors").read_bytes() == (
        plain.path / "checkpoints/last.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("kind", STATE)
def test_what_is_not_finite_at_the_end_of_an_epoch_is_told_with_epoch_learner_and_learning_rate(
    tmp_path: Path, poisoned: Callable[..., Poisoning], kind: str
) -> None:
    progress = poisoned(STATE[kind], 8, float("inf"))
    wanted = (
        r"learner 'robust': .*, in epoch 2, is no longer finite; lower optimizer.learning_rate \(now 0.05\) or set clip"
    )
    with pytest.raises(NumericalError, match=wanted):
        train(experiment(), tmp_path / "run", progress=progress)
    assert [path.name for path in Run.open(tmp_path / "run").states()] == ["step-000000004"]
    assert read_tensors(tmp_path / "run/checkpoints/selected")[1]["epoch"] == 1


@pytest.mark.parametrize("rate", ["1e2", "1e4", "1e30"])
@pytest.mark.parametrize("objective", [NT(), AT()])
def test_a_learning_rate_far_too_large_is_named_and_never_a_network_that_returned_nan(
    tmp_path: Path, rate: str, objective: Any
) -> None:
    plain = experiment(
        method=Joint(policy=Policy(objective=objective), batch_size=32),
        monitors=(Monitor(), Monitor(name="pgd", attack=QUICK)),
    )
    with pytest.raises(NumericalError, match=r"learner.*'joint'.*epoch \d|epoch \d.*'joint'") as e:
        train(override(plain, [f"method.policy.optimizer.learning_rate={rate}", "epochs=6"]), tmp_path / "run")
    assert f"{float(rate):g}" in str(e.value)


@pytest.mark.parametrize(
    "setting",
    [
        "optimizer.weight_decay=1e308",
        "optimizer.weight_decay=-1",
        "optimizer.learning_rate=1e308",
        "optimizer.learning_rate=NaN",
        "schedule=-0.1",
        'schedule={"type":"Step","at":[1],"factors":[-0.1]}',
        'schedule={"type":"PiecewiseLinear","at":[0,1],"values":[1,-1]}',
        'schedule={"type":"Constant","at":1e999}',
        "schedule=NaN",
    ],
)
def test_a_learning_rate_or_decay_that_no_step_can_use_is_refused_at_settings(setting: str) -> None:
    with pytest.raises(SettingsError, match=r"learning_rate|weight_decay|schedule|Constant"):
        override(experiment(method=Joint()), [f"method.policy.{setting}"])


def saved_with(path: Path, name: str, value: float) -> None:
    """The checkpoint once more, with a number in one of its tensors, as versions wrote it that did not look."""
    state, facts = read_tensors(path)
    state[name].flatten()[0] = value
    write_tensors(path, state, {key: item for key, item in facts.items() if key not in ("format", "sha256")})


@pytest.mark.parametrize(
    "name",
    [
        "learner/robust/network/layers.1.running_var",
        "learner/natural/optimizer/0/momentum_buffer",
        "learner/robust/average/layers.0.weight",
    ],
)
def test_a_checkpoint_that_is_not_finite_is_passed_over_and_that_is_said(tmp_path: Path, name: str) -> None:
    run = train(experiment(), tmp_path / "run")
    last = (run.path / "checkpoints" / "last.safetensors").read_bytes()
    for file in run.weights_path("last").parent.glob("last.*"):
        file.unlink()
    saved_with(run.states()[0], name, float("inf"))
    progress = Poisoning(STATE["parameter"], -1, 0, None)
    resume(run.path, progress=progress)
    assert [
        sentence
        for sentence in progress.said
        if f"step-000000008.safetensors was saved when training had diverged: {name}" in sentence
    ]
    assert (run.path / "checkpoints" / "last.safetensors").read_bytes() == last


def test_an_infinite_mask_that_a_network_was_built_with_is_no_divergence() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.register_buffer("mask", torch.full((3,), -torch.inf))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.flatten(1))

    learner = Learner("masked", Policy(), Masked())
    learner.check_finite()
    with torch.no_grad():
        learner.network.get_parameter("layer.bias")[0] = torch.inf
    with pytest.raises(NumericalError, match=r"learner 'masked': layer\.bias is no longer finite"):
        learner.check_finite()


def damaged(run: Run, kind: str, which: str) -> None:
    file = run.weights_path(which).with_suffix(".safetensors")
    if kind == "missing":
        file.unlink()
    elif kind == "damaged":
        file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1]))
    elif kind == "facts":
        file.with_suffix(".json").write_text("{}")
    else:
        state = read_tensors(run.weights_path(which))[0]
        name = next(name for name, tensor in state.items() if tensor.is_floating_point())
        saved_with(run.weights_path(which), name, float("nan"))


@pytest.mark.parametrize("kind", ["missing", "damaged", "facts", "not finite"])
@pytest.mark.parametrize("which", ["selected", "last"])
def test_deployed_weights_that_are_damaged_or_gone_are_made_again_on_resume(
    tmp_path: Path, kind: str, which: str
) -> None:
    run = train(experiment(criterion="last"), tmp_path / "run")
    whole = run.weights_path(which).with_suffix(".safetensors").read_bytes()
    damaged(run, kind, which)
    progress = Poisoning(STATE["parameter"], -1, 0, None)
    resume(run.path, progress=progress)
    assert run.weights_path(which).with_suffix(".safetensors").read_bytes() == whole
    said = [sentence for sentence in progress.said if "the selected weights, of epoch 2, cannot be used" in sentence]
    assert len(said) == (which == "selected") and all(
        "made again from the complete checkpoint of epoch 2" in line for line in said
    )


def test_selected_weights_of_which_no_checkpoint_is_left_are_selected_again(tmp_path: Path) -> None:
    settings = experiment(epochs=3, save_every=3)
    whole = train(settings, tmp_path / "whole")
    progress = Poisoning(STATE["parameter"], -1, 0, None)
    run = train(settings, tmp_path / "run", progress=progress)
    shutil.rmtree(run.path)
    stop = Stop(after=5)
    with pytest.raises(Interrupted):
        train(settings, run.path, progress=stop)
    damaged(run, "missing", "selected")
    resume(run.path, progress=progress)
    assert [
        sentence
        for sentence in progress.said
        if "no complete checkpoint has them, so that weights are selected again" in sentence
    ]
    best = json.loads(whole.weights_path("selected").with_suffix(".json").read_text())["epoch"]
    assert (
        run.facts("selected")["epoch"] == (best if best > 1 else run.facts("selected")["epoch"])
        and run.facts("selected")["epoch"] > 1
    )


class Stop(Progress):
    def __init__(self, after: int) -> None:
        self.left = after

    def begin(self, what: str, total: int, unit: str, cost: float = 0.0) -> Callable[[int], None]:
        def advance(done: int) -> None:
            self.left -= done
            if self.left == 0:
                signal.raise_signal(signal.SIGHUP)

        return advance
