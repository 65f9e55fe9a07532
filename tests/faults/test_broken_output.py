"""A log that cannot be written ends nothing, whatever hangs up stops as a signal does, and text of other people steers
no terminal.
"""

from __future__ import annotations

import csv
import dataclasses
import errno
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from poise.core.errors import Interrupted
from poise.core.hardware import Hardware
from poise.core.printing import printable, spreadsheet
from poise.core.progress import Progress, Unbroken
from poise.core.settings import to_json
from poise.data import Digits
from poise.engine import Experiment, Monitor, Run, resume, train
from poise.engine.history import History
from poise.evaluation import Protocol
from poise.methods import Joint
from poise.models import DigitsCNN

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
COMMAND = [sys.executable, "-c", "from poise.cli import main; main()"]


def experiment(**changes: Any) -> Experiment:
    made = Experiment(
        data=Digits(train_images=120, test_images=20),
        model=DigitsCNN(width=2),
        method=Joint(batch_size=32),
        epochs=2,
        monitors=(Monitor(),),
        protocol=Protocol(),
    )
    return dataclasses.replace(made, **changes)


class Breaking(Progress):
    """Raises an error at every word; `before` what it does besides."""

    def __init__(self, error: BaseException, before: Callable[[], object] = lambda: None) -> None:
        self.error, self.before = error, before

    def begin(self, what: str, total: int, unit: str, cost: float = 0.0) -> Callable[[int], None]:
        def advance(done: int) -> None:
            self.before()
            raise self.error

        return advance

    def end(self) -> None:
        raise self.error

    def epoch(self, epoch: int, epochs: int, numbers: object) -> None:
        raise self.error

    def note(self, text: str, share: float | None = None) -> None:
        raise self.error

    def say(self, sentence: str) -> None:
        raise self.error


BROKEN = [
    BrokenPipeError(),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "gone"),
    ValueError("closed file"),
]


@pytest.mark.parametrize("error", BROKEN, ids=["pipe", "disk", "terminal", "closed"])
def test_progress_that_cannot_be_written_never_ends_a_training(tmp_path: Path, error: Exception) -> None:
    run = train(experiment(), tmp_path / "run", progress=Breaking(error))
    assert [line["epoch"] for line in run.metrics()] == [1, 2]
    Unbroken(Breaking(error)).note("nothing")
    with pytest.raises(ZeroDivisionError):
        Unbroken(Breaking(ZeroDivisionError())).say("what is no matter of output passes")


@pytest.mark.parametrize("output", ["full disk", "closed pipe", "few letters"])
def test_the_command_trains_to_its_end_without_a_log(tmp_path: Path, output: str) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(to_json(experiment(title="naïve ↯"))))
    command = [*COMMAND, "train", str(settings), "--out", str(tmp_path / "run"), "--no-evaluate"]
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii:strict"} if output == "few letters" else ENVIRONMENT
    read, write = os.pipe()
    os.close(read)
    with (
        Path("/dev/full").open("w") as full,
        os.fdopen(write, "w") as closed,
        (tmp_path / "log").open("w") as log,
    ):
        out = {"full disk": full, "closed pipe": closed, "few letters": log}[output]
        subprocess.run(command, stdout=out, stderr=out, env=environment, timeout=120, check=False)
    assert Run.open(tmp_path / "run").facts("last")["epoch"] == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_signal_that_ends_a_session_stops_with_everything_saved(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    sent = iter([True])

    def once() -> None:
        if next(sent, False):
            signal.raise_signal(number)
            if number == signal.SIGHUP:
                signal.raise_signal(number)  # a terminal that closes sends it more than once

    with pytest.raises(Interrupted, match="stopped at step 1 of 8; to go on: poise train --resume"):
        train(experiment(), tmp_path / "run", progress=Breaking(BrokenPipeError(), once))
    assert signal.getsignal(number) is before
    whole = train(experiment(), tmp_path / "whole")
    last = "checkpoints/last.safetensors"
    assert (resume(tmp_path / "run").path / last).read_bytes() == (whole.path / last).read_bytes()


def test_under_nohup_a_hang_up_stops_nothing(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        train(experiment(), tmp_path / "run", progress=Breaking(OSError(), lambda: signal.raise_signal(signal.SIGHUP)))
    finally:
        signal.signal(signal.SIGHUP, before)


class Said(Progress):
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)


def test_another_number_of_threads_or_processor_is_recorded_and_said_on_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = iter([True])
    with pytest.raises(Interrupted):
        train(
            experiment(),
            tmp_path / "run",
            progress=Breaking(OSError(), lambda: next(sent, False) and signal.raise_signal(15)),
        )
    run, said = Run.open(tmp_path / "run"), Said()
    (first,) = run.trained()["trained_on"]
    assert first.threads == torch.get_num_threads() and first.precision == "float32" and first.name
    other = Hardware("another processor", ["avx2"], 4, "float32")
    monkeypatch.setattr("poise.engine.history.hardware_of", lambda device, precision: other)
    resume(run.path, progress=said)
    (sentence,) = [sentence for sentence in said.sentences if "goes on with" in sentence]
    assert sentence.startswith(
        f"goes on with another processor (avx2), 4 threads, float32; it was trained with {first}"
    )
    assert run.trained()["trained_on"] == [first, other] and run.trained()["training_seconds"] > 0
    said.sentences.clear()
    resume(run.path, progress=said)
    assert not said.sentences, "on the same one nothing is said"


def test_the_time_of_training_is_that_of_all_stretches_and_ranks() -> None:
    history = History()
    history.begin(0, [Hardware("a", [], 1, "float32")] * 2)
    history.add(3.0)
    again = History.of(json.loads(json.dumps(history.facts())))
    again.add(4.0)
    assert again.seconds == 7.0 and [stretch.start for stretch in again.stretches] == [0] and len(again.processors) == 1
    unknown = History.of({})
    unknown.begin(8, history.processors)
    unknown.add(1.0)
    assert unknown.seconds is None and unknown.processors == [], (
        "of a run that an older version began nothing is claimed"
    )


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("two\nlines\r", r"two\nlines\r"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\u200b\u2028", r"\u200b\u2028"),
        ("\udcff", r"\udcff"),
        ("naïve ± 8/255 ↯ 模型", "naïve ± 8/255 ↯ 模型"),
    ],
)
def test_no_text_steers_a_terminal_and_plain_text_stays(text: str, printed: str) -> None:
    assert printable(text) == printed
    assert printable(printed) == printed


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", " =1", "=\u202e1"])
def test_no_cell_of_a_csv_file_is_a_formula(text: str) -> None:
    out = io.StringIO()
    csv.writer(out).writerow([spreadsheet(text)])
    (cell,) = next(csv.reader(io.StringIO(out.getvalue())))
    assert cell.startswith(("'", "\\"))
    assert spreadsheet("-12.50") == "-12.50" and spreadsheet("AT, eps 8/255") == "AT, eps 8/255"


@pytest.mark.parametrize("path", ["x" * 300, "/proc/self/mem", "\udcff", "a/" * 3000])
@pytest.mark.parametrize("verb", [["report"], ["evaluate"], ["train", "--resume"], ["train"]])
def test_no_path_gives_the_command_a_traceback(
    verb: list[str], path: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from poise.cli import main

    monkeypatch.setattr(sys, "argv", ["poise", *verb, path if verb != ["train"] else f"{path}.json"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert capsys.readouterr().err.count("poise: ") == 1


def test_what_the_system_refuses_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from poise import cli

    for error in (
        PermissionError(errno.EACCES, "Permission denied", "/theirs"),
        UnicodeEncodeError("ascii", "é", 0, 1, "no"),
    ):

        def app(error: Exception = error, **_: object) -> None:
            raise error

        monkeypatch.setattr(cli, "app", app)
        with pytest.raises(SystemExit):
            cli.main()
        said = capsys.readouterr().err
        assert said.startswith("poise: ") and said.count("\n") == 1
