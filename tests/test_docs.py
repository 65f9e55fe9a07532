"""The docs say what the code says, and the examples run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
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


def blocks(language: str) -> list[str]:
    """The README's blocks of code in this language, "" for those that are typed in a shell."""
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def test_the_readmes_python_runs_twice_in_one_folder(tmp_path):
    (code,) = blocks("python")
    small = (
        'poise.override(poise.recipe("generalist_digits", True), ["epochs=1", "data.train_images=200",'
        ' "data.test_images=20"])'
    )
    quick = code.replace('poise.train("generalist_digits"', f"poise.train({small}")
    assert quick != code
    (tmp_path / "readme.py").write_text(quick)
    run_in(tmp_path, sys.executable, "-c", TWICE, "readme.py")
    assert (tmp_path / "runs" / "first" / "records" / "selected.json").exists()
    assert (tmp_path / "report.html").exists()


SHORTER = {
    "train generalist_digits": ["--quick"],
    "evaluate": ["--first", "4"],
    "show": ["--no-estimate"],
    "sanity": ["--first", "16", "--set", "queries=10", "--set", "substitute_steps=2"],
    "transfer": ["--first", "4"],
    "agreement": ["--first", "4"],
    "reproduce": ["--dry-run"],
}
"""What makes a typed line of the README quick to try."""


@pytest.mark.slow
def test_the_readmes_typed_lines_run_twice_in_one_folder(tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    typed = [line.partition("  #")[0].strip() for block in blocks("") for line in block.splitlines()]
    typed = [line for line in typed if line.startswith("poise ")]
    assert len(typed) > 8
    for _ in range(2):
        for line in typed:
            words = shlex.split(line)[1:]
            more = next((more for start, more in SHORTER.items() if line.removeprefix("poise ").startswith(start)), [])
            run_in(tmp_path, sys.executable, "-c", "from poise.cli import main; main()", *words, *more)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/design.md", "benchmarks/README.md"])
def test_links_between_pages_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), f"{page} links to {target}"


def test_the_readme_names_every_folder_of_the_house():
    text = (ROOT / "README.md").read_text()
    for folder in sorted(
        child.name for child in (ROOT / "src" / "poise").iterdir() if (child / "__init__.py").exists()
    ):
        assert f"  {folder}/" in text, folder
