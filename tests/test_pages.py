"""Every piece of code on the pages of the docs runs, twice in one folder; it is made small, not left out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "pages.py"
LANGUAGES = ("python", "sh", "text", "json", "toml")
FAST = ("README.md", "docs/start.md", "docs/network.md", "docs/pitfalls.md")
SLOW = ("own-images", "objective", "methods", "reproduce", "trust", "gallery", "tracking", "hub")
"""Run by `make test-extras`, which has their optional packages."""
ELSEWHERE = ("docs/sweeps.md",)  # tests/sweeps/test_page.py, without processes of its own
FENCE = re.compile(r"^ *```(\w*)", re.MULTILINE)


def languages(page: Path) -> set[str]:
    return set(FENCE.findall(page.read_text())[::2])


def ran(page: Path, folder: Path) -> None:
    """Runs a page's code in a folder with two classes of photographs of several sizes."""
    for name, grey in (("cats", 50), ("dogs", 200)):
        (folder / "my_photos" / name).mkdir(parents=True, exist_ok=True)
        for number in range(45):
            pixels = np.full((16 + number % 7, 18, 3), grey, np.uint8)
            Image.fromarray(pixels).save(folder / "my_photos" / name / f"{number}.jpg")
    done = subprocess.run(
        [sys.executable, PAGES, page, "--small"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "POISE_BFLOAT16": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{page.name}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    assert re.search(r"^[1-9]\d* pieces of ", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("page", FAST)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path) -> None:
    ran(ROOT / page, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW)
def test_the_code_of_a_longer_page_runs(page: str, tmp_path: Path) -> None:
    ran(ROOT / "docs" / f"{page}.md", tmp_path)


def test_no_page_has_code_that_is_not_run() -> None:
    known = {*FAST, *ELSEWHERE, *(f"docs/{name}.md" for name in SLOW)}
    for page in sorted((ROOT / "docs").glob("*.md")):
        if languages(page) & {"python", "sh"}:
            assert f"docs/{page.name}" in known, f"{page.name} is in none of the lists of this file"


@pytest.mark.parametrize("page", ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_every_block_says_its_language(page: str) -> None:
    assert languages(ROOT / page) <= set(LANGUAGES), f"{page} has a block without a language, which nobody runs"


def test_a_page_that_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("```python\nraise ValueError('as it stands')\n```\n")
    with pytest.raises(AssertionError, match="as it stands"):
        ran(tmp_path / "page.md", tmp_path)
    (tmp_path / "page.md").write_text("```sh\npoise evaluate nowhere\n```\n")
    with pytest.raises(AssertionError, match="poise evaluate nowhere --first 4 ended with status 2"):
        ran(tmp_path / "page.md", tmp_path)
