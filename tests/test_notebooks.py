"""The notebooks run from the first cell to the last; `make test-extras` has what executes them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_and_is_linked(path: Path) -> None:
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells and not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    assert f"notebooks/{path.name}" in (FOLDER.parent / "notebooks.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_says_its_epochs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("POISE_BFLOAT16", "0")
    notebook = nbformat.read(path, as_version=4)
    shown: list[str] = []

    def kept(cell: object, cell_index: int, **_: object) -> None:
        shown.extend(str(output) for output in getattr(cell, "outputs", []))

    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", on_cell_executed=kept)
    client.execute(cwd=str(tmp_path))
    assert re.search(r"epoch 1/\d+", " ".join(shown)), "an epoch's line stands below its cell"
    assert not any("Traceback" in text for text in shown)
