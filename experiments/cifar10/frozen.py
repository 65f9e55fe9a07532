"""The frozen checkout: one commit of the repository in an ignored folder with an environment of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from poise.core.errors import RunError

ROOT = Path(__file__).parents[2]


def git(folder: Path, *arguments: str) -> str:
    """What git says. Raises: RunError with git's own words."""
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def checked_out(folder: Path, commit: str, repository: Path = ROOT) -> Path:
    """The checkout of `commit` at `folder`, made where it is not there. Raises: RunError where another commit or a
    change lies there.
    """
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = folder.with_name(f".{folder.name}.part")
        git(folder.parent, "clone", "--quiet", "--no-hardlinks", "--no-checkout", str(repository), str(part))
        git(part, "checkout", "--quiet", "--detach", commit)
        part.rename(folder)
    there = git(folder, "rev-parse", "HEAD")
    if there != git(repository, "rev-parse", commit):
        raise RunError(
            f"{folder} is of commit {there[:12]}, and the study is of {commit[:12]}; remove the folder to make it again"
        )
    if changed := git(folder, "status", "--porcelain", "--untracked-files=no"):
        raise RunError(f"{folder} was changed ({changed.splitlines()[0].strip()}); remove the folder to make it again")
    return folder


def environment(checkout: Path) -> Path:
    """The interpreter of the checkout's own environment, with the tested versions of constraints.txt; made where it is
    not there.
    """
    python = checkout / ".venv/bin/python"
    if not (checkout / ".venv/complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(checkout / ".venv")], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "--constraint", "constraints.txt", "--editable", "."], cwd=checkout, check=True)
        (checkout / ".venv/complete").touch()
    return python
