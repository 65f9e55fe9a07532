"""SIGINT and SIGTERM stop an evaluation with what it found kept, and the same command goes on to the same record."""

from __future__ import annotations

import dataclasses
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

from poise.attacks import APGD, PGD, AutoAttack, Square
from poise.attacks.autoattack import Status
from poise.core.errors import Interrupted, SettingsError
from poise.core.progress import Progress
from poise.core.records import EvaluationRecord
from poise.data import CORRUPTIONS, Digits
from poise.engine import Run
from poise.evaluation import Protocol
from poise.threats import Linf
from poise.verbs.corruptions import corruptions
from poise.verbs.evaluate import evaluate
from poise.verbs.measurement import journal_of

THREAT = Linf(epsilon=0.15)
RULE = AutoAttack(
    threat=THREAT, version="custom", attacks=(APGD(threat=THREAT, steps=5), Square(threat=THREAT, queries=20))
)
PROTOCOL = Protocol(name="rule", attacks=(PGD(threat=THREAT, step_size=0.05, steps=2), RULE), first=40)


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    """A trained run of one's own."""
    return Run.open(Path(shutil.copytree(trained.path, tmp_path / "run")))


@pytest.fixture
def digits_c(tmp_path: Path) -> Path:
    """The run's test digits themselves under 15 names."""
    folder, test = tmp_path / "Digits-C", Digits(train_images=120, test_images=60).load().test
    folder.mkdir()
    for name in CORRUPTIONS:
        np.save(folder / f"{name}.npy", np.tile(test.images.permute(0, 2, 3, 1).numpy(), (5, 1, 1, 1)))
    np.save(folder / "labels.npy", np.tile(test.labels.numpy(), 5))
    return folder


def timeless(path: Path) -> EvaluationRecord:
    record = EvaluationRecord.read(path)
    attacks = [
        dataclasses.replace(a, seconds=0, notes={k: v for k, v in a.notes.items() if k != "seconds"})
        for a in record.attacks
    ]
    return dataclasses.replace(record, attacks=attacks, seconds=0, started="")


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[Status]:
    """Every round of AutoAttack that was made."""
    made: list[Status] = []
    inner = AutoAttack.run

    def watched(*args: Any, progress: Callable[[Status], None], **named: Any) -> Any:
        def both(report: Status) -> None:
            made.append(report)
            progress(report)

        return inner(*args, progress=both, **named)

    monkeypatch.setattr(AutoAttack, "run", watched)
    return made


def unfinished(path: Path) -> list[Path]:
    """The folders of what evaluations whose record will be `path` have finished."""
    return list(path.parent.glob(f".{path.stem}*.unfinished"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [1, 4, 9])
def test_stopped_inside_autoattack_no_round_is_made_twice(
    run: Run, rounds: list[Status], number: signal.Signals, at: int, stopping: Any
) -> None:
    path = evaluate(run, protocol=PROTOCOL, again=True).path
    wanted, needed = timeless(path), len(rounds)
    rounds.clear()
    before = signal.getsignal(number)
    with pytest.raises(
        Interrupted, match=re.escape(f"kept; to go on: poise evaluate {run.path}, with the same options")
    ):
        evaluate(run, protocol=PROTOCOL, again=True, progress=stopping(notes=at, number=number))
    assert signal.getsignal(number) is before
    assert len(rounds) == at
    (begun,) = unfinished(path)
    assert {file.name for file in begun.iterdir()} > {"plan.json", "part-0.json"}
    evaluate(run, protocol=PROTOCOL, again=True)
    assert len(rounds) == needed
    assert timeless(path) == wanted
    assert not unfinished(path)


def test_stopped_before_anything_was_found_it_leaves_nothing(run: Run, stopping: Any) -> None:
    with pytest.raises(Interrupted):
        evaluate(
            run,
            protocol=dataclasses.replace(PROTOCOL, name="other"),
            again=True,
            progress=stopping(40, number=signal.SIGINT),
        )
    assert not unfinished(run.path / "records" / "selected-other.json")


def test_what_is_unfinished_is_dropped_by_nothing_but_an_evaluation_of_the_same_and_then_it_is_said(
    run: Run, tmp_path: Path, stopping: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, data = tmp_path / "mine.safetensors", run.experiment.data.load()
    safetensors.torch.save_file(run.network().state_dict(), weights)
    with pytest.raises(Interrupted):
        evaluate(
            weights, data, PROTOCOL, network="DigitsCNN", device="cpu", progress=stopping(notes=3, number=signal.SIGINT)
        )
    path = weights.with_suffix(".record.json")
    (kept,) = unfinished(path)
    quick = dataclasses.replace(PROTOCOL, attacks=PROTOCOL.attacks[:1], name="quick")
    assert evaluate(weights, data, quick, network="DigitsCNN", device="cpu").path == path
    assert unfinished(path) == [kept]
    monkeypatch.setattr("poise.evaluation.protocol.__version__", "99")
    said = Said()
    more = evaluate(weights, data, PROTOCOL, network="DigitsCNN", device="cpu", progress=said).path
    assert more != path and EvaluationRecord.read(more).attack_names == [attack.name for attack in PROTOCOL.attacks]
    assert ["it begins anew" in sentence for sentence in said.sentences] == [True, False, False]
    assert EvaluationRecord.read(path).protocol == "quick"


class Said(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)


def test_own_weights_and_corruptions_stop_and_go_on_too(
    run: Run, tmp_path: Path, digits_c: Path, stopping: Any
) -> None:
    weights, data = tmp_path / "mine.safetensors", run.experiment.data.load()
    safetensors.torch.save_file(run.network().state_dict(), weights)
    given: dict[str, Any] = {"network": "DigitsCNN", "device": "cpu"}
    made = evaluate(weights, data, PROTOCOL, out=tmp_path / "whole.json", **given).path
    with pytest.raises(Interrupted, match=re.escape(f"to go on: poise evaluate --weights {weights}, with")):
        evaluate(
            weights, data, PROTOCOL, out=tmp_path / "a.json", progress=stopping(notes=3, number=signal.SIGINT), **given
        )
    assert timeless(evaluate(weights, data, PROTOCOL, out=tmp_path / "a.json", **given).path) == timeless(made)

    with pytest.raises(SettingsError, match=r"a\.json is a record of other weights or images; .* --again"):
        corruptions(weights, digits_c, data, out=tmp_path / "a.json", **given)
    (tmp_path / "copy.safetensors").write_bytes(weights.read_bytes())
    fog = 60 * 5 * CORRUPTIONS.index("fog") + 60  # images until the first severity of fog is over
    made = corruptions(weights, digits_c, data, out=tmp_path / "c.json", **given).path
    with pytest.raises(SettingsError, match=r"c\.json is a record of other weights"):
        corruptions(tmp_path / "copy.safetensors", digits_c, data, out=made, **given)
    assert corruptions(weights, digits_c, data, out=made, **given).path == made
    corruptions(weights, digits_c, data, out=tmp_path / "a.json", again=True, **given)
    with pytest.raises(Interrupted, match=re.escape(f"{weights} --corruptions {digits_c}, with")):
        corruptions(
            weights, digits_c, data, out=tmp_path / "d.json", progress=stopping(fog, number=signal.SIGINT), **given
        )
    assert len(list(journal_of(tmp_path / "d.json").glob("part-*"))) == CORRUPTIONS.index("fog")
    assert timeless(corruptions(weights, digits_c, data, out=tmp_path / "d.json", **given).path) == timeless(made)
    with pytest.raises(Interrupted, match=re.escape(f"{run.path} --corruptions {digits_c}, with")):
        corruptions(run, digits_c, progress=stopping(fog, number=signal.SIGTERM))
