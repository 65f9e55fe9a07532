"""The docs say what the code says, and the examples run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_generated_docs_are_current():
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


TWICE = "import runpy, sys; [runpy.run_path(sys.argv[1], run_name='__main__') for _ in range(2)]"
"""Runs a file twice in one process, which imports once."""


def run_in(folder: Path, *command: object) -> str:
    """What it printed. It must end well."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_short_and_run_twice_in_one_folder(path, tmp_path):
    assert len(path.read_text().splitlines()) <= 40
    run_in(tmp_path, sys.executable, "-c", TWICE, path)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/design.md", "benchmarks/README.md"])
def test_links_between_pages_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), f"{page} links to {target}"


def test_the_design_names_every_folder_of_the_house():
    text = (ROOT / "docs" / "design.md").read_text()
    for folder in sorted(
        child.name for child in (ROOT / "src" / "poise").iterdir() if (child / "__init__.py").exists()
    ):
        assert f"  {folder}/" in text, folder
