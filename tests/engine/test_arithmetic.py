"""A run's arithmetic is resolved once, written to its run.json, and kept to wherever it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from poise.core import processors
from poise.core.errors import Interrupted, RunError, SettingsError
from poise.core.processors import SWITCH, Processor
from poise.engine import Experiment, Run, resume, train
from poise.engine.estimate import estimate_cost
from poise.learners import precision as arithmetic

Tiny = Callable[..., Experiment]


def machine(monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], gain: float) -> None:
    """A processor with these flags, this many times as fast in bfloat16."""
    monkeypatch.delenv(SWITCH, raising=False)
    for place in (processors, arithmetic):
        monkeypatch.setattr(place, "processor", lambda: Processor("Testor", flags))
        monkeypatch.setattr(place, "bfloat16_gain", lambda: gain)


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, ("amx_bf16",), 1.75)


def weights(run: Run) -> str:
    return str(run.facts("last")["sha256"])


def stopped(tiny: Experiment, path: Path, stopping: Any) -> None:
    with pytest.raises(Interrupted):
        train(tiny, path, device="cpu", progress=stopping(after=3))


def test_auto_takes_bfloat16_where_it_is_native_says_so_and_writes_it_down(
    stopping: Any, tiny_experiment: Tiny, tmp_path: Path, native: None
) -> None:
    said = stopping()
    run = train(tiny_experiment(epochs=1), tmp_path / "auto", device="cpu", progress=said)
    assert run.about["precision"] == "bfloat16" and run.about["processor"]
    assert said.said[0].startswith(
        "precision = auto: bfloat16, which this processor (Testor, amx_bf16) computes 1.8 times as fast"
    )
    plain = train(tiny_experiment(epochs=1, precision="float32"), tmp_path / "plain", device="cpu")
    assert plain.about["precision"] == "float32"
    assert weights(plain) != weights(run)


def test_flags_that_the_measurement_denies_are_said_and_not_followed(
    stopping: Any, tiny_experiment: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, ("avx512_bf16",), 0.9)
    said = stopping()
    assert (
        train(tiny_experiment(epochs=1), tmp_path / "run", device="cpu", progress=said).about["precision"] == "float32"
    )
    assert (
        "float32, not bfloat16, which this processor (Testor, avx512_bf16) computes 0.9 times as fast" in said.said[0]
    )


def test_bfloat16_by_emulation_is_refused_before_the_folder_exists(
    stopping: Any, tiny_experiment: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, (), 0.1)
    asked = tiny_experiment(epochs=1, precision="bfloat16")
    sentence = (
        r"precision = 'bfloat16': this processor \(Testor\) emulates it, and a step takes 10.0 times as long as"
        r" float32's; must be"
    )
    for begin in (lambda: train(asked, tmp_path / "run", device="cpu"), lambda: estimate_cost(asked, device="cpu")):
        with pytest.raises(SettingsError, match=sentence):
            begin()
    assert not (tmp_path / "run").exists()
    said = stopping()
    assert (
        train(tiny_experiment(epochs=1), tmp_path / "auto", device="cpu", progress=said).about["precision"] == "float32"
    )
    assert not any("bfloat16" in sentence for sentence in said.said)
    monkeypatch.setenv(SWITCH, "1")
    assert train(asked, tmp_path / "run", device="cpu").about["precision"] == "bfloat16"


def test_a_run_in_bfloat16_goes_on_in_it_or_not_at_all(
    stopping: Any, tiny_experiment: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: None
) -> None:
    tiny = tiny_experiment(epochs=1)
    whole = train(tiny, tmp_path / "whole", device="cpu")
    stopped(tiny, tmp_path / "broken", stopping)
    machine(monkeypatch, (), 0.1)
    with pytest.raises(
        RunError, match=r"broken computes in bfloat16, in which it was begun: this processor \(Testor\) emulates it"
    ):
        resume(tmp_path / "broken", device="cpu")
    monkeypatch.setenv(SWITCH, "1")
    assert weights(resume(tmp_path / "broken", device="cpu")) == weights(whole)


def test_a_run_in_float32_goes_on_in_it_where_bfloat16_is_native(
    stopping: Any, tiny_experiment: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, (), 0.1)
    tiny = tiny_experiment(epochs=1)
    whole = train(tiny, tmp_path / "whole", device="cpu")
    stopped(tiny, tmp_path / "broken", stopping)
    stopped(tiny, tmp_path / "old", stopping)
    old = tmp_path / "old" / "run.json"
    kept = {name: fact for name, fact in json.loads(old.read_text()).items() if name not in ("precision", "sha256")}
    old.write_text(json.dumps(kept))  # as it was before these were written
    machine(monkeypatch, ("amx_bf16",), 1.75)
    for name in ("broken", "old"):
        assert weights(resume(tmp_path / name, device="cpu")) == weights(whole), name
