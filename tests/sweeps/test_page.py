"""docs/sweeps.md: what it types runs, and what it says of the code is so."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from poise.sweeps.engines import TRIES
from poise.sweeps.tasks import PATIENCE

PAGE = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text()


def commands() -> list[list[str]]:
    """Those of blocks of a shell; what needs a cluster is text."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [shlex.split(line)[1:] for language, block in blocks if language == "sh" for line in block.splitlines()]


@pytest.mark.slow
def test_every_command_runs_and_ends_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], here: Any
) -> None:
    from poise.cli import main

    # workers would each import torch anew
    monkeypatch.setattr("poise.sweeps.sweep.engine_of", lambda on, jobs: here())
    monkeypatch.chdir(tmp_path)
    typed = commands()
    assert [words[0] for words in typed].count("sweep") == 4
    for words in typed:
        monkeypatch.setattr(sys, "argv", ["poise", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code, (words, capsys.readouterr())
    out = capsys.readouterr().out
    assert "8 runs" in out
    assert "2 runs: 2 evaluated" in out
    assert {path.name for path in tmp_path.iterdir()} == {"swept", "halved"}
    assert len(list((tmp_path / "halved").glob("rung-*.json"))) == 2


def test_numbers_in_words_are_the_codes() -> None:
    assert ("up to three tries" in PAGE, TRIES) == (True, 3)
    assert ("at most half an hour" in PAGE, PATIENCE) == (True, 1800)
