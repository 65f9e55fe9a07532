"""Callbacks: told of what lies on the disk, and never able to cost a run anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import poise
from poise.core.errors import Interrupted, SettingsError
from poise.core.records import EvaluationRecord
from poise.engine import Callback, Experiment, Run, train
from poise.evaluation import Protocol

Tiny = Callable[..., Experiment]


class Noting(Callback):
    """Notes what it is told, and whether the checkpoint of an epoch was there already."""

    def __init__(self, fails: str = "", error: type[BaseException] = RuntimeError, at: int = 2) -> None:
        self.calls: list[Any] = []
        self.fails, self.error, self.at = fails, error, at

    def _note(self, name: str, what: Any, number: int) -> None:
        self.calls.append((name, what))
        if self.fails == name and number == self.at:
            raise self.error("on purpose\nand more")

    def epoch(self, run: Run, line: Mapping[str, Any]) -> None:
        assert run.metrics()[-1] == line
        assert run.states()[0].name == f"step-{line['step']:09d}"
        self._note("epoch", line["epoch"], line["epoch"])
        assert isinstance(line, dict)
        line.clear()  # a copy

    def evaluation(self, run: Run, record: EvaluationRecord) -> None:
        self._note("evaluation", record.checkpoint, self.at)

    def end(self, run: Run) -> None:
        self._note("end", run.name, self.at)


def test_they_are_told_of_epochs_evaluations_and_the_end(tmp_path: Path, tiny_experiment: Tiny) -> None:
    noting = Noting()
    run = poise.train(tiny_experiment(), tmp_path / "run", until=2, callbacks=[noting])
    assert noting.calls == [("epoch", 1), ("epoch", 2), ("end", "run")]
    poise.train(run, callbacks=[noting])
    poise.evaluate(run, protocol=Protocol(name="natural", attacks=()), callbacks=[noting])
    poise.train(run, callbacks=[noting])
    end = ("end", "run")
    assert noting.calls[3:] == [("epoch", 3), end, ("evaluation", "selected"), end, end]


@pytest.mark.parametrize("fails", ["epoch", "end"])
def test_one_that_raises_is_left_out_and_costs_nothing(
    tmp_path: Path, tiny_experiment: Tiny, fingerprint_of: Any, stopping: Any, fails: str
) -> None:
    plain = fingerprint_of(train(tiny_experiment(), tmp_path / "plain"))
    bad, good, progress = Noting(fails), Noting(), stopping()
    run = poise.train(tiny_experiment(), tmp_path / "run", callbacks=[bad, good], progress=progress)
    assert fingerprint_of(run) == plain
    assert [name for name, _ in good.calls] == ["epoch"] * 3 + ["end"]
    assert [name for name, _ in bad.calls] == (["epoch"] * 2 if fails == "epoch" else ["epoch"] * 3 + ["end"])
    told = [sentence for sentence in progress.said if "callback" in sentence]
    assert told == [
        f"the callback Noting is left out from here on, as its {fails} raised RuntimeError: on purpose; nothing of the"
        " run is lost"
    ]


def test_one_may_stop_the_run_which_goes_on_to_the_same_bits(
    tmp_path: Path, tiny_experiment: Tiny, fingerprint_of: Any
) -> None:
    plain = fingerprint_of(train(tiny_experiment(), tmp_path / "plain"))
    stopper = Noting("epoch", Interrupted)
    with pytest.raises(Interrupted, match="on purpose"):
        poise.train(tiny_experiment(), tmp_path / "run", callbacks=[stopper])
    assert stopper.calls == [("epoch", 1), ("epoch", 2), ("end", "run")]
    assert fingerprint_of(poise.train(tmp_path / "run")) == plain


def test_what_is_no_callback_is_refused_before_any_work(tmp_path: Path, tiny_experiment: Tiny) -> None:
    for wrong, name in ((print, "builtin_function_or_method"), (Noting, "Noting"), ("tensorboard", "str")):
        with pytest.raises(SettingsError, match=rf"callbacks: {name} is none, must be a list of objects"):
            poise.train(tiny_experiment(), tmp_path / "run", callbacks=[wrong])  # type: ignore[list-item]
    assert not (tmp_path / "run").exists()
    other = Noting()
    train(tiny_experiment(seed=1), tmp_path / "other")
    with pytest.raises(poise.PoiseError, match="other settings"):
        poise.train(tiny_experiment(), tmp_path / "other", callbacks=[other])
    assert other.calls == []
