"""Stochastic weight averaging is the plain mean of the weights at the ends of epochs, for any learner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from poise.core.batches import Now
from poise.core.errors import SettingsError
from poise.data import Digits
from poise.engine import Experiment, Run, resume, train
from poise.engine.checkpoints import read_tensors
from poise.learners import EMA, SGD, SWA, Average, Policy
from poise.methods import Generalist, Joint
from poise.objectives import AT, NT

PER_EPOCH = 3


def path_of(average: Average, epochs: int) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """(weights, average) after every step of a random walk."""
    walk = torch.Generator().manual_seed(0)
    weights = {"w": torch.zeros(4), "bn.running_mean": torch.zeros(2), "bn.num_batches_tracked": torch.tensor(0)}
    kept = {name: tensor.clone() for name, tensor in weights.items()}
    raw, averaged = [], []
    for step in range(epochs * PER_EPOCH):
        for name in ("w", "bn.running_mean"):
            weights[name] = weights[name] + torch.randn(weights[name].shape, generator=walk)
        weights["bn.num_batches_tracked"] = weights["bn.num_batches_tracked"] + 1
        average.update(kept, weights, Now(step // PER_EPOCH + 1, step, epochs, PER_EPOCH, 0))
        raw.append({name: tensor.clone() for name, tensor in weights.items()})
        averaged.append({name: tensor.clone() for name, tensor in kept.items()})
    return raw, averaged


@pytest.mark.parametrize(
    ("start", "every", "taken"), [(1, 1, [1, 2, 3, 4, 5, 6]), (3, 1, [3, 4, 5, 6]), (2, 2, [2, 4, 6]), (6, 1, [6])]
)
def test_the_average_is_the_mean_over_the_epochs_taken(start: int, every: int, taken: list[int]) -> None:
    raw, averaged = path_of(SWA(from_epoch=start, every=every), 6)
    for name in ("w", "bn.running_mean"):
        mean = torch.stack([raw[epoch * PER_EPOCH - 1][name] for epoch in taken]).mean(0)
        torch.testing.assert_close(averaged[-1][name], mean)
    assert averaged[-1]["bn.num_batches_tracked"] == taken[-1] * PER_EPOCH


def test_before_its_first_epoch_the_average_is_the_weights() -> None:
    raw, averaged = path_of(SWA(from_epoch=4), 6)
    for step in range(3 * PER_EPOCH):
        assert torch.equal(averaged[step]["w"], raw[step]["w"])
    assert torch.equal(averaged[3 * PER_EPOCH]["w"], raw[3 * PER_EPOCH - 1]["w"])  # until the end of the epoch
    assert torch.equal(averaged[4 * PER_EPOCH - 1]["w"], raw[4 * PER_EPOCH - 1]["w"])


def test_the_average_moves_at_the_ends_of_epochs_only() -> None:
    _, averaged = path_of(SWA(from_epoch=2), 5)
    for step in range(2 * PER_EPOCH, 5 * PER_EPOCH):
        same = torch.equal(averaged[step]["w"], averaged[step - 1]["w"])
        assert same == ((step + 1) % PER_EPOCH != 0)


def test_running_statistics_are_averaged_or_copied() -> None:
    raw, averaged = path_of(SWA(from_epoch=2, buffers="copy"), 4)
    assert torch.equal(averaged[-1]["bn.running_mean"], raw[-1]["bn.running_mean"])
    _, mean = path_of(SWA(from_epoch=2), 4)
    assert not torch.equal(mean[-1]["bn.running_mean"], raw[-1]["bn.running_mean"])
    assert torch.equal(mean[-1]["w"], averaged[-1]["w"])


def experiment(method: str = "joint", average: Average | None = None, **changes: Any) -> Experiment:
    average = average or SWA(from_epoch=2)
    policy = Policy(objective=NT(label_smoothing=0.1), optimizer=SGD(learning_rate=0.05), average=average, clip=1.0)
    made: Any = Joint(policy=policy, batch_size=32)
    if method == "generalist":
        made = Generalist(natural=policy, robust=Policy(objective=AT(), average=average), batch_size=32)
    return Experiment(
        **{"data": Digits(train_images=80, test_images=20), "method": made, "epochs": 3, "criterion": "last", **changes}
    )


def test_what_is_deployed_is_the_average(tmp_path: Path) -> None:
    run = train(experiment(keep_epochs=(2, 3), selection="test"), tmp_path / "run")
    second, third = (read_tensors(run.path / "checkpoints" / f"step-{3 * epoch:09d}")[0] for epoch in (2, 3))
    deployed = run.network("last").state_dict()
    for name in ("head.weight", "layers.1.running_var"):
        mean = (second[f"learner/joint/network/{name}"] + third[f"learner/joint/network/{name}"]) / 2
        torch.testing.assert_close(deployed[name], mean)


@pytest.mark.parametrize("method", ["joint", "generalist"])
def test_an_interrupted_run_resumes_to_the_same_average(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(experiment(method), tmp_path / "whole")
    broken = train(experiment(method, keep_last=9), tmp_path / "broken")
    for state in broken.states():
        if int(state.name.removeprefix("step-")) > 3:
            for suffix in (".json", ".safetensors"):
                state.with_suffix(suffix).unlink()
    for name in ("last", "selected"):
        broken.weights_path(name).with_suffix(".safetensors").unlink()
        broken.weights_path(name).with_suffix(".json").unlink()
    assert len(Run.open(broken.path).states()) == 1
    assert resume(broken.path).facts("last")["sha256"] == whole.facts("last")["sha256"]


@pytest.mark.parametrize(
    "make", [lambda: experiment(average=SWA(from_epoch=4)), lambda: experiment("generalist", SWA(from_epoch=4))]
)
def test_averaging_that_would_start_after_the_run_is_refused(make: Callable[[], Experiment]) -> None:
    with pytest.raises(SettingsError, match=r"SWA\.from_epoch = 4: must be at most epochs = 3"):
        make()


def test_an_ema_is_not_concerned() -> None:
    assert experiment(average=EMA(decay=0.9)).epochs == 3
