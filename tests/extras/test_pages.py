"""Every command and every program on the pages about optional parts runs, in the order in which one reads them."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from poise.cli import main

DOCS = Path(__file__).parents[2] / "docs"
NEEDS: dict[str, tuple[str, ...]] = {"tracking.md": ("tensorboard", "mlflow"), "hub.md": ()}


@pytest.mark.parametrize("page", NEEDS)
def test_what_is_typed_on_the_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in NEEDS[page]:
        pytest.importorskip(package, reason=f"{package} is in the extras")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "WANDB_", "HF_"))]:
        monkeypatch.delenv(name)
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    typed = 0
    for language, block in blocks:
        if language == "python":
            exec(compile(block, page, "exec"), {"__name__": "__main__"})
            continue
        for line in block.splitlines():
            if line.startswith("poise "):
                monkeypatch.setattr("sys.argv", shlex.split(line.partition("  #")[0]))
                with pytest.raises(SystemExit) as ended:
                    main()
                assert not ended.value.code, line
                typed += 1
    assert typed > 1
