"""poise.train: begun, gone on with or returned, from a name, settings, a run, or a network, data and loss of one's
own.
"""

from __future__ import annotations

import dataclasses
import json
import linecache
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import poise
from poise.cli.shared import import_files
from poise.core import code
from poise.core.code import doubts
from poise.core.errors import DataError, Interrupted, RunError, SettingsError
from poise.core.progress import Progress
from poise.data import Digits
from poise.engine import given
from poise.engine import train as train_anew
from poise.engine.experiment import remarks
from poise.engine.given import GivenLoss, GivenNetwork
from poise.models import DigitsCNN
from poise.objectives import AT, TRADES
from poise.threats import Linf

SHORT = {
    "epochs": 2,
    "protocol": "gradient",
    "settings": {"monitors.1.attack.steps": 1, "method.inner.steps": 1, "method.batch_size": 40},
}
OWN = """
import torch.nn.functional as F
from torch import nn

class Own(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, classes))

    def forward(self, x):
        return self.layers(x)

def own_loss(logits, labels):
    return F.cross_entropy(logits, labels, reduction="none")
"""


class Net(nn.Module):
    """A user's own, one layer deep."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def plain_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    return -logits.gather(1, labels[:, None])[:, 0]


def digits(count: int = 120) -> tuple[np.ndarray, np.ndarray]:
    data = Digits().load()
    return data.train.pixels()[:count].numpy(), data.train.labels[:count].numpy()


class Heard(Progress):
    """Keeps what is said, and stops after so many steps."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.said: list[str] = []
        self.left = stop_after

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    def begin(self, what: str, total: int, unit: str, cost: float = 0.0) -> Callable[[int], None]:
        import signal

        def advance(done: int) -> None:
            if self.left is not None:
                self.left -= done
                if self.left == 0:
                    signal.raise_signal(signal.SIGTERM)

        return advance


def begun(out: Path, **changes: Any) -> poise.Run:
    return poise.train(
        **{"network": Net, "data": digits(), "objective": plain_loss, "epsilon": 0.1, "out": out, **SHORT, **changes}
    )


def test_a_module_arrays_and_a_function_are_enough(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", network=Net())
    experiment = run.experiment
    objective = experiment.method.policies()["joint"].objective
    assert isinstance(objective, GivenLoss) and isinstance(experiment.model, GivenNetwork)
    assert (experiment.epsilon, objective.inner.threat, experiment.title) == (0.1, Linf(epsilon=0.1), "plain_loss")
    assert len(experiment.data.load().test) == 24 and len(experiment.data.load().train) == 96
    assert run.network()(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    (sentence,) = [sentence for sentence in remarks(experiment) if "seed" in sentence]
    assert "several seeds need what builds it, such as network=Net" in sentence
    assert not any("several seeds" in sentence for sentence in remarks(begun(tmp_path / "class").experiment))
    assert (tmp_path / "run" / "first.safetensors").exists()


def test_the_same_call_returns_what_is_finished_and_goes_on_with_what_was_stopped(tmp_path: Path) -> None:
    whole = begun(tmp_path / "whole", network=Net(), seed=3)
    again = begun(tmp_path / "whole", network=Net(), seed=3)
    assert again == whole
    shutil.copytree(whole.path, tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / "checkpoints")
    (tmp_path / "broken" / "metrics.jsonl").unlink()
    resumed = begun(tmp_path / "broken", network=Net(), seed=3)  # other first weights: those of the run count
    for name, tensor in whole.network("last").state_dict().items():
        assert torch.equal(resumed.network("last").state_dict()[name], tensor), name
    with pytest.raises(Interrupted):
        begun(tmp_path / "stopped", seed=3, progress=Heard(stop_after=3))
    unbroken = begun(tmp_path / "unbroken", seed=3)
    went_on = begun(tmp_path / "stopped", seed=3)
    for name, tensor in unbroken.network("last").state_dict().items():
        assert torch.equal(went_on.network("last").state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"epochs": 3}, "epochs is 2 there and 3 here"),
        ({"network": DigitsCNN()}, "model is GivenNetwork there and DigitsCNN here"),
        ({"network": lambda classes: Net(classes)}, "model.code.name is Net there and <lambda> here"),
        ({"objective": margin}, "code.name is plain_loss there and margin here"),
        ({"data": digits(100)}, "data.digest is "),
        ({"epsilon": 0.05}, "epsilon is 0.1 there and 0.05 here"),
    ],
)
def test_other_settings_data_or_code_in_the_folder_are_named(
    changes: dict[str, Any], difference: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "one run for all"
    begun(folder)
    with pytest.raises(RunError, match="was started with other settings") as caught:
        begun(folder, **changes)
    assert difference in str(caught.value)


def test_a_function_that_was_changed_is_another_one(tmp_path: Path) -> None:
    namespace: dict[str, Any] = {}
    exec("def loss(logits, labels):\n    return logits.logsumexp(1)", namespace)
    begun(tmp_path / "run", objective=namespace["loss"])
    exec("def loss(logits, labels):\n    return logits.logsumexp(1) * 2", namespace)
    with pytest.raises(RunError, match=r"objective\.code\.digest is \w+ there and \w+ here"):
        begun(tmp_path / "run", objective=namespace["loss"])


def test_a_name_settings_a_file_and_a_run_are_taken(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "epochs": 1,
        "monitors": [{}],
        "settings": {"data.train_images": 40, "method.inner.steps": 1},
    }
    first = poise.train("at_digits", tmp_path / "a", **changes)
    assert poise.train(first) == poise.train(first.path) == poise.train(str(first.path)) == first
    assert poise.train(first.path / "experiment.json", tmp_path / "b").experiment == first.experiment
    assert poise.train(first.experiment, tmp_path / "c").experiment == first.experiment
    with pytest.raises(SettingsError, match="leave out and all settings out"):
        poise.train(first, epochs=3)
    with pytest.raises(SettingsError, match="there is no recipe 'at_digit'; did you mean 'at_digits'"):
        poise.train("at_digit", tmp_path / "d")
    with pytest.raises(SettingsError, match="name what to train"):
        poise.train(network=Net(), out=tmp_path / "d")
    with pytest.raises(SettingsError, match=r"did you mean 'method\.policy\.optimizer\.learning_rate'"):
        poise.train("at_digits", tmp_path / "d", lr=0.1)
    assert not (tmp_path / "d").exists()


def test_an_objective_is_taken_in_every_form_and_searches_where_the_recipe_did(tmp_path: Path) -> None:
    quick = poise.recipe("at_digits", True)
    small = dataclasses.replace(
        quick, data=Digits(train_images=40, test_images=10), epochs=1, monitors=quick.monitors[:1]
    )
    how: dict[str, Any] = {"settings": {"method.inner.steps": 1}}
    for at, objective in enumerate((TRADES, "TRADES", AT(beta=0.5), plain_loss)):
        made = poise.train(small, tmp_path / str(at), objective=objective, **how).experiment  # type: ignore[arg-type]
        searched = made.method.policies()["joint"].objective.inner.threat  # type: ignore[attr-defined]
        assert searched == (Linf() if isinstance(objective, AT) else Linf(epsilon=0.2))
    scored = poise.train(small, tmp_path / "scored", objective=plain_loss, score=margin, **how).experiment
    assert scored.method.policies()["joint"].objective.climbs.name == "margin"  # type: ignore[attr-defined]
    with pytest.raises(SettingsError, match="score goes with a loss as a function"):
        poise.train(small, tmp_path / "x", objective=TRADES, score=margin)
    with pytest.raises(SettingsError, match="objective = 3: must be an objective"):
        poise.train(small, tmp_path / "x", objective=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (
            lambda logits, labels: F.cross_entropy(logits, labels),
            "returned a tensor [], must return one value for each of",
        ),
        (lambda logits, labels: 0.0, "returned float, must return one value for each of"),
        (lambda logits, labels: plain_loss(logits, labels) * torch.nan, "not finite"),
        (lambda logits: logits.sum(1), "fails on a first batch of 4 images: TypeError"),
    ],
)
def test_a_function_that_returns_something_else_is_refused_before_a_folder_exists(
    loss: Any, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError) as caught:
        begun(tmp_path / "run", objective=loss)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_data_is_taken_as_arrays_a_folder_a_name_or_settings(tmp_path: Path) -> None:
    x, y = digits(60)
    with_test = begun(tmp_path / "pairs", data=((x, y), (x[:20], y[:20])), epochs=1)
    assert len(with_test.experiment.data.load().test) == 20
    np.savez(tmp_path / "my.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    archive = begun(tmp_path / "npz", data=tmp_path / "my.npz", epochs=1)
    assert torch.equal(archive.experiment.data.load().train.pixels(), with_test.experiment.data.load().train.pixels())
    named = begun(tmp_path / "named", data="Digits", epochs=1)
    assert named.experiment.data == Digits()
    for wrong in ("Digit", str(tmp_path / "nowhere")):
        with pytest.raises(SettingsError, match="must be a data set"):
            begun(tmp_path / "x", data=wrong)


def test_what_a_source_does_not_say_is_said(tmp_path: Path) -> None:
    weight = 2.0

    def weighted(logits: Tensor, labels: Tensor) -> Tensor:
        return weight * plain_loss(logits, labels)

    heard = Heard()
    begun(tmp_path / "run", objective=weighted, epochs=1, progress=heard)
    assert "weighted closes over weight: going on cannot check that it is the same" in heard.said
    assert doubts(plain_loss) == doubts(Net) == ""
    assert "lambda" in doubts(lambda: 0) and "an object" in doubts(nn.CrossEntropyLoss())


def test_another_process_goes_on_by_import_with_the_same_source_or_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_in_another_process() -> None:
        monkeypatch.setattr(code, "_GIVEN", {})
        monkeypatch.setattr(given, "_MODULES", {})
        sys.modules.pop("own_code", None)
        shutil.rmtree(tmp_path / "run" / "checkpoints", ignore_errors=True)

    file = tmp_path / "own_code.py"
    file.write_text(OWN)
    np.savez(tmp_path / "my.npz", **dict(zip(("x_train", "y_train", "x_test", "y_test"), digits(60) * 2, strict=True)))
    import_files([file])
    own: Any = sys.modules["own_code"]
    begun(tmp_path / "run", network=own.Own(), data=tmp_path / "my.npz", objective=own.own_loss)
    weights = poise.load(tmp_path / "run").state_dict()
    as_in_another_process()
    with pytest.raises(SettingsError, match="Own, the network, was given by the program that began the run"):
        poise.resume(tmp_path / "run")
    import_files([file])
    poise.resume(tmp_path / "run")
    for name, tensor in poise.load(tmp_path / "run").state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    with pytest.raises(SettingsError, match=r"its first weights lie beside the run .* first\.safetensors"):
        train_anew(poise.Run.open(tmp_path / "run").experiment, tmp_path / "other")
    file.write_text(OWN.replace("nn.Linear(64, 16)", "nn.Linear(64, 8 * 2)"))
    as_in_another_process()
    linecache.checkcache()
    import_files([file])
    with pytest.raises(SettingsError, match="Own, the network, has another source now"):
        poise.resume(tmp_path / "run")


def test_arrays_are_not_there_in_another_process(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", epochs=1)
    settings = json.loads((run.path / "experiment.json").read_text())
    settings["data"]["digest"] = "0" * 16
    other = poise.from_json(poise.Experiment, settings)
    with pytest.raises(DataError, match="arrays of the program that began the run"):
        other.data.load()


def test_nothing_is_logged_where_one_threat_is_all_there_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "poise"):
        begun(tmp_path / "run", epochs=1)
    assert caplog.text == ""


def test_a_module_of_torchs_own_layers_is_tried_too(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="returns 9 logits for 10 classes"):
        begun(tmp_path / "run", network=nn.Sequential(nn.Flatten(), nn.Linear(64, 9)))
    assert not (tmp_path / "run").exists()
