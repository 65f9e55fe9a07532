"""Where files are written: through links, and never over what is no file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from poise.core.errors import StorageError
from poise.core.files import check_writable, whole_file, write_bytes


def by_whole_file(path: Path, data: bytes) -> None:
    with whole_file(path) as file:
        file.write(data)


@pytest.mark.parametrize("write", [write_bytes, by_whole_file])
def test_a_link_stays_one_and_a_pipe_is_refused(tmp_path: Path, write: Callable[[Path, bytes], object]) -> None:
    place, link, pipe = tmp_path / "real" / "record", tmp_path / "latest", tmp_path / "pipe"
    place.parent.mkdir()
    link.symlink_to(place)
    os.mkfifo(pipe)
    write(link, b"one")
    write(link, b"two")
    assert link.is_symlink() and place.read_bytes() == b"two"
    for attempt in (lambda: write(pipe, b""), lambda: check_writable(pipe)):
        with pytest.raises(StorageError, match="pipe cannot be written: it is a device or a pipe, must be a file"):
            attempt()
    assert pipe.is_fifo() and sorted(path.name for path in tmp_path.iterdir()) == ["latest", "pipe", "real"]


def test_a_file_that_breaks_off_while_it_is_written_was_never_there(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"old")
    for name in ("kept", "new"):
        with pytest.raises(ZeroDivisionError), whole_file(tmp_path / name) as file:
            file.write(b"half")
            raise ZeroDivisionError
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("kept", b"old")]
