"""No path, name or text that is no JSON gives a foreign exception, and a name in settings is never a path."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from poise.core.errors import PoiseError, SettingsError
from poise.core.files import check_writable, read_bytes, write_bytes
from poise.core.overrides import override
from poise.core.records import EvaluationRecord
from poise.core.settings import read_file, read_json
from poise.core.verdicts import Verdict
from poise.engine import Experiment, Monitor, Run, load, resume
from poise.evaluation import Protocol
from poise.reports import read_runs

PATHS = [
    "a\0b",
    "x" * 300,
    f"/tmp/{'y' * 5000}",
    "\udcff",
    "\ud800",
    "/proc/self/mem",
    "/dev/zero",
    "",
    "a/" * 3000,
    "~nobody",
]
READERS: dict[str, Callable[[Any], object]] = {
    "Run.open": Run.open,
    "Run.to_be": lambda path: Run.to_be(Path(path)),
    "load": load,
    "resume": resume,
    "record": EvaluationRecord.read,
    "verdict": Verdict.read,
    "settings": lambda path: read_file(Experiment, Path(path)),
    "report": read_runs,
    "check_writable": check_writable,
    "write_bytes": lambda path: write_bytes(path, b"") if path not in ("\udcff", "~nobody") else check_writable(path),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("path", PATHS, ids=lambda path: ascii(path[:12]))
def test_no_path_gives_a_foreign_exception(
    path: str, reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    may_pass = reader in ("check_writable", "write_bytes", "Run.to_be") and path in ("\udcff", "~nobody", "")
    try:
        READERS[reader](path)
        assert may_pass
    except PoiseError as error:
        assert str(error)


@pytest.mark.parametrize(
    "refused",
    [PermissionError(13, "Permission denied"), OSError(5, "Input/output error"), OSError(36, "File name too long")],
)
@pytest.mark.parametrize("reader", [name for name in READERS if name not in ("check_writable", "write_bytes")])
def test_a_folder_of_another_user_or_a_failing_disk_is_one_sentence(
    refused: OSError, reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "experiment.json").write_text("{}")

    def denied(*_: object, **__: object) -> Any:
        raise refused

    for name in ("stat", "iterdir", "open", "is_dir", "exists", "is_file"):
        monkeypatch.setattr(Path, name, denied)
    monkeypatch.setattr("builtins.open", denied)
    try:
        with pytest.raises(PoiseError, match=r"cannot be read|there is no"):
            READERS[reader](tmp_path)
    finally:
        monkeypatch.undo()


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 9000, '{"epochs": ' + "9" * 6000 + "}", '{"name": "\\ud800"}', "\x00", "nul", ""]
)
def test_no_settings_text_gives_a_foreign_exception(text: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(text)
    for attempt in (
        lambda: read_json(Experiment, text, "the text"),
        lambda: read_file(Experiment, file),
        lambda: override(Experiment(), [f"data={text or '?'}"]),
        lambda: override(Experiment(), [f"epochs={text or '?'}"]),
    ):
        with pytest.raises(SettingsError):
            attempt()


@pytest.mark.parametrize(
    "name", ["../../../x", "/absolute", "a\0b", "x" * 255, "\x1b[2J", "", ".", "..", "a\\b", "\ud800", "\u202egpj"]
)
@pytest.mark.parametrize("kind", [Experiment, Protocol, Monitor])
def test_a_name_in_settings_is_a_name_and_no_path(name: str, kind: Any) -> None:
    with pytest.raises(SettingsError, match=rf"{kind.__name__}.name = .*: must be a plain name of 1 to 180 bytes"):
        kind(name=name)
    assert kind(name="AT, ε = 8/255".replace("/", " of ")).name == "AT, ε = 8 of 255"


def test_pipes_and_endless_files_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    for path in (tmp_path / "pipe", tmp_path / "sparse", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError):
            read_bytes(path)
        with pytest.raises(PoiseError):
            EvaluationRecord.read(path)
