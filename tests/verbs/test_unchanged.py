"""What going on with a run refuses, every question refuses: changed settings, data and weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import poise
from poise.attacks import PGD
from poise.core.errors import CheckpointError, RunError
from poise.engine import Run

QUICK = PGD(steps=1)
Ask = Callable[[Run, Path], object]
QUESTIONS: dict[str, Ask] = {
    "evaluate": lambda run, out: poise.evaluate(run),
    "corruptions": lambda run, out: poise.corruptions(run, out),
    "sanity": lambda run, out: poise.sanity(run, first=16),
    "attack": lambda run, out: poise.attack(run, QUICK, first=4),
    "pseudo_label": lambda run, out: poise.pseudo_label(run, None, out / "pool.npz"),
    "embed": lambda run, out: poise.embed(run, images=3),
    "agreement": lambda run, out: poise.agreement(run, run),
    "target": lambda run, out: poise.transfer([run], [run], out=out / "transfer", sgm=False),
    "member": lambda run, out: poise.evaluate([run, poise.Subject.of(run, checkpoint="last")]),
    "load": lambda run, out: poise.load(run),
    "export": lambda run, out: poise.export(run, out / "weights.safetensors"),
}


def edited(path: Path, keys: list[str], value: Any) -> None:
    """A setting in experiment.json becomes another."""
    file = path / "experiment.json"
    settings = json.loads(file.read_text())
    part = settings
    for key in keys[:-1]:
        part = part[key]
    assert part[keys[-1]] != value
    part[keys[-1]] = value
    file.write_text(json.dumps(settings, indent=1))


def other_weights(run: Run, other: Run) -> None:
    for file in (other.path / "checkpoints").glob("selected.*"):
        shutil.copy(file, run.path / "checkpoints" / file.name)


def flipped(run: Run) -> None:
    file = run.path / "checkpoints" / "selected.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize(
    ("keys", "value"),
    [(["data", "fold"], 3), (["protocol", "first"], 5), (["seed"], 7), (["model", "width"], 5)],
    ids=lambda part: ".".join(part) if isinstance(part, list) else "",
)
def test_edited_settings_are_refused(
    finished: dict[str, Run], tmp_path: Path, question: str, keys: list[str], value: Any
) -> None:
    made = shutil.ignore_patterns("adversarial", "records")  # by other questions
    run = Run.open(shutil.copytree(finished["seed-0"].path, tmp_path / "run", ignore=made))
    edited(run.path, keys, value)
    with pytest.raises(RunError, match="was changed since the run was started"):
        QUESTIONS[question](run, tmp_path)
    assert not (run.path / "adversarial").exists()
    assert not list(tmp_path.glob("*.npz")) + list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("question", [name for name in QUESTIONS if name not in ("load", "export")])
def test_data_that_were_swapped_are_refused(
    on_archive: Run, archive_writer: Callable[..., Path], tmp_path: Path, question: str
) -> None:
    archive_writer(tmp_path / "mine.npz", first=30)
    with pytest.raises(RunError, match=r"the data set .* was changed since the run was started"):
        QUESTIONS[question](on_archive, tmp_path)


@pytest.mark.parametrize("question", [name for name in QUESTIONS if name not in ("embed", "corruptions")])
def test_weights_of_another_run_and_damaged_ones_are_refused(
    finished: dict[str, Run], tmp_path: Path, question: str
) -> None:
    run = Run.open(shutil.copytree(finished["seed-0"].path, tmp_path / "run"))
    other_weights(run, finished["seed-3"])
    with pytest.raises(RunError, match="are of another run"):
        QUESTIONS[question](run, tmp_path)
    run = Run.open(shutil.copytree(finished["seed-0"].path, tmp_path / "other"))
    flipped(run)
    with pytest.raises(CheckpointError, match="is damaged"):
        QUESTIONS[question](run, tmp_path)


def test_a_run_that_was_left_as_it_was_answers(on_archive: Run, tmp_path: Path) -> None:
    assert poise.evaluate(on_archive).count == 40
    assert poise.load(on_archive).training is False
