"""A wheel of what git has, installed into an environment of its own, does what the checkout does."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def done(*command: object, cwd: Path, **environment: str) -> str:
    """What it printed. It must end well."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    ended = subprocess.run(
        [*map(str, command)], cwd=cwd, env=clean | environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of the files that git has, as they are now, in a folder that is no checkout."""
    tree = tmp_path_factory.mktemp("tree")
    for name in done("git", "ls-files", "-z", "src", "pyproject.toml", "README.md", "LICENSE", cwd=ROOT).split("\0"):
        if name and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("dist")
    done(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", out, tree, cwd=out)
    (path,) = out.glob("poise-*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_all_that_the_package_reads(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    kept = done("git", "ls-files", "-z", "src/poise", cwd=ROOT).split("\0")
    missing = {name.removeprefix("src/") for name in kept if name and (ROOT / name).is_file()} - set(names)
    assert not missing, f"in git and not in the wheel: {sorted(missing)}"
    assert not [name for name in names if not name.startswith(("poise/", "poise-"))]


@pytest.mark.slow
def test_pip_install_poise_from_the_wheel_trains_and_completes(wheel: Path, tmp_path: Path) -> None:
    """The heavy packages are those of this environment, laid behind the new one: what is tried is Poise's own part."""
    done(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    binary = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    site = done(binary / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    packages = dict.fromkeys([sysconfig.get_path("purelib"), *(p for p in sys.path if p.endswith("site-packages"))])
    # plain: nothing of this checkout's own .pth files
    (Path(site) / "behind.pth").write_text("".join(f"{folder}\n" for folder in packages))
    done(binary / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", wheel, cwd=tmp_path)
    where = done(binary / "python", "-c", "import poise; print(poise.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(site)
    assert "an epoch on 64 digits" in done(binary / "poise", "doctor", cwd=tmp_path, COLUMNS="200")
    small = ("epochs=1", "data.train_images=64", "data.test_images=8")
    done(binary / "poise", "train", "at_digits", "--quick", *small, "--out", "run", cwd=tmp_path)
    done(binary / "poise", "report", "run", cwd=tmp_path)
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    assert "zoo:at_mnist_slim" in done(binary / "poise", "list", "zoo", cwd=tmp_path, COLUMNS="200")
    completing = {"_POISE_COMPLETE": "complete_bash", "COMP_WORDS": "poise san", "COMP_CWORD": "1"}
    assert done(binary / "poise", cwd=tmp_path, **completing).split() == ["sanity"]
