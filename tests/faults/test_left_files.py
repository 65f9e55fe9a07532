"""What killed processes leave is swept, what live ones write is not, and what was written lies on the disk."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from poise.core.documents import sealed
from poise.core.files import sweep, temporary_folder, whole_file, write_bytes, write_files, write_text
from poise.data.downloads import unpack
from poise.engine import Run
from poise.evaluation.journal import Journal

WRITER = """
import sys
from pathlib import Path
from poise.core.files import temporary_folder, whole_file
place = Path(sys.argv[1])
with whole_file(place) as file, temporary_folder(place.parent, ".unpacking-") as folder:
    file.write(b"half")
    (folder / "part").write_bytes(b"x")
    print("ready", flush=True)
    sys.stdin.read(1)
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that writes a file and unpacks a folder, until it is told to end, or killed."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "file")], text=True, **pipes)  # type: ignore[call-overload]
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def touch_everything(folder: Path) -> None:
    """A run's sweep, another writer of the same file, another one that unpacks."""
    Run(folder).sweep()
    write_bytes(folder / "file", b"other")
    with temporary_folder(folder, ".unpacking-"):
        pass


def test_what_another_live_process_writes_is_never_swept(tmp_path: Path, writer: subprocess.Popen[str]) -> None:
    names = hidden(tmp_path)
    assert len(names) == 2 and f".{writer.pid}-" in names[0], "the name says whose it is"
    touch_everything(tmp_path)
    assert hidden(tmp_path) == names
    writer.communicate("x")
    assert writer.returncode == 0 and (tmp_path / "file").read_bytes() == b"half" and hidden(tmp_path) == []


@pytest.mark.parametrize("how", ["sweep", "write", "unpack"])
def test_what_a_killed_process_left_is_swept_by_whoever_comes_next(
    tmp_path: Path, writer: subprocess.Popen[str], how: str
) -> None:
    part, folder = hidden(tmp_path)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert hidden(tmp_path) == [part, folder]
    if how == "sweep":
        Run(tmp_path).sweep()
    elif how == "write":
        write_text(tmp_path / "file", "new")
    else:
        (tmp_path / "data").mkdir()
        with tarfile.open(tmp_path / "data.tar.gz", "w:gz") as archive:
            archive.add(tmp_path / "data", "data")
        unpack(tmp_path / "data.tar.gz", tmp_path / "data")
    assert hidden(tmp_path) == ([part] if how == "unpack" else [folder])


def test_only_names_of_temporary_files_are_swept(tmp_path: Path) -> None:
    mine = [".notes.part", ".hidden", "x.12ab34cd.part", ".a.b.part"]
    left = [".a.12ab34cd.part", ".a.b.77-12ab34cd.part"]
    for name in (*mine, *left):
        (tmp_path / name).touch()
    sweep(tmp_path.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(mine)


def test_a_name_of_255_bytes_is_written_and_its_temporary_file_too(tmp_path: Path) -> None:
    for name in ("x" * 255, "é" * 127, "[a]*?"):
        assert write_text(tmp_path / name, "content").read_text() == "content"
    assert len(list(tmp_path.iterdir())) == 3


def test_a_rename_is_followed_by_a_sync_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    sync, rename = os.fsync, os.replace

    def synced(number: int) -> None:
        events.append("folder" if os.path.isdir(f"/proc/self/fd/{number}") else "file")  # noqa: PTH112
        sync(number)

    def renamed(source: Path, target: Path) -> None:
        events.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    write_bytes(tmp_path / "a", b"")
    assert events == ["file", "rename", "folder"]
    events.clear()
    write_files({tmp_path / "b": b"", tmp_path / "c": b""})
    assert events == ["file", "file", "rename", "folder", "rename", "folder"]
    events.clear()
    with whole_file(tmp_path / "d"):
        pass
    assert events == ["file", "rename", "folder"]


def test_evaluations_of_weights_that_are_gone_are_swept_with_them(
    tmp_path: Path, trained_network: tuple[Run, object]
) -> None:
    run, network = trained_network
    folder = run.path / "records"
    for name in (".selected-ab.unfinished", ".selected-rule-12.unfinished", ".last-ab.unfinished"):
        Journal(folder / name, {"model": "of other weights"}).keep("0", [])
    run.save_weights("selected", network, {"epoch": 1})  # type: ignore[arg-type]
    assert [path.name for path in folder.iterdir()] == [".last-ab.unfinished"]


@pytest.fixture
def trained_network(tmp_path: Path) -> tuple[Run, object]:
    from torch import nn

    return Run(tmp_path), nn.Linear(2, 2)


def test_damaged_parts_of_a_journal_are_named_and_made_anew(tmp_path: Path) -> None:
    for damage in (lambda text: text.replace("7", "8"), lambda text: text[:-3], lambda text: "[" * 5000):
        Journal(tmp_path / "j", {"model": "m"}).keep("0", {"count": 7})
        file = tmp_path / "j" / "part-0.json"
        file.write_text(damage(file.read_text()))
        again = Journal(tmp_path / "j", {"model": "m"})
        assert again.get("0") is None and not again.dropped
        assert len(again.damaged) == 1 and re.match(
            rf"{re.escape(str(file))} is damaged \(.*\); what it held is made anew", again.damaged[0]
        )
    (tmp_path / "j" / "part-1.json").write_text("[0.5, 0.25]")
    old = Journal(tmp_path / "j", {"model": "m"})
    assert old.get("1", list[float]) == [0.5, 0.25], "parts from before there were digests are read"
    assert old.get("1", list[int]) is None and "part-1.json[0] is 0.5, must be a whole number" in old.damaged[0]


def test_a_part_under_a_digest_of_something_else_is_never_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", {"model": "m"})
    journal.keep("0", 1)
    (tmp_path / "j" / "part-0.json").write_text(str({**sealed({"content": 1}), "content": 2}).replace("'", '"'))
    assert journal.get("0") is None
