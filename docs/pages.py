"""Runs the code of a page of the docs, in the order in which it stands there: python docs/pages.py docs/start.md

Blocks of ```python are executed, one after the other in one module; one with a title is written into a file of that
name. In blocks of ```sh lines that begin with `poise` are typed, and `python FILE` is executed; other lines install or
launch and are left to whoever reads. Everything happens in the present folder. With --small whatever trains or
evaluates does as little as it can.
"""

from __future__ import annotations

import argparse
import contextlib
import linecache
import os
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

BLOCK = re.compile(r"^( *)```(\w+)([^\n]*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
SNIPPET = re.compile(r"^--8<--\n(.*)\n--8<--$", re.MULTILINE)
LEFT = ("pip", "python3", ".", "make", "git", "torchrun", "sbatch", "tensorboard", "mlflow", "poise-", "cd", "export")
"""How lines begin that are not run."""
FEWER = ("epochs=1", "data.train_images=120", "data.test_images=20")
SMALLER = {
    "evaluate": ("--first", "4"),
    "show": ("--no-estimate",),
    "sanity": ("--first", "16", "--set", "queries=10", "--set", "substitute_steps=2"),
    "transfer": ("--first", "4"),
    "agreement": ("--first", "4"),
    "attack": ("--first", "4"),
    "reproduce": ("--dry-run",),
}
"""What makes a verb quick to try."""


@dataclass(frozen=True)
class Block:
    """A piece of code of a page: its language, title (a file's name) and text."""

    language: str
    title: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """The pieces of code of a page, files that it includes among them."""
    for indent, language, rest, text in BLOCK.findall(page.read_text()):
        title = re.search(r'title="(.*?)"', rest)
        whole = SNIPPET.sub(lambda match: (Path(__file__).parents[1] / match[1]).read_text(), text)
        lines = [line.removeprefix(indent) for line in whole.splitlines()]
        yield Block(language, title[1] if title else "", "\n".join(lines))


def typed(block: Block) -> list[list[str]]:
    """The lines of a shell block that are run, as words."""
    text = re.sub(r"\\\n\s*", "", block.text)
    lines = [line.partition("  #")[0].strip() for line in text.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if line and line[0] not in LEFT]


def run(page: Path, small: bool = False) -> int:
    """Run a page's code; returns how many pieces were run. Raises: whatever they raise."""
    module, count = ModuleType("page"), 0
    sys.modules["page"] = module
    with _smaller() if small else contextlib.nullcontext():
        for block in blocks(page):
            if block.title:
                Path(block.title).parent.mkdir(parents=True, exist_ok=True)
                Path(block.title).write_text(f"{block.text}\n")
            elif block.language == "python":
                name = f"<{page.name}, piece {count + 1}>"
                linecache.cache[name] = (len(block.text), None, block.text.splitlines(True), name)
                exec(compile(block.text, name, "exec"), vars(module))
                count += 1
            elif block.language == "sh":
                for words in typed(block):
                    _type(words, small)
                    count += 1
    return count


def _type(words: list[str], small: bool) -> None:
    if words[0] == "python":
        runpy.run_path(words[1], run_name="__main__")
        return
    if words[0] != "poise":
        raise SystemExit(f"{shlex.join(words)}: neither poise nor python, nor known to be left out")
    from poise.cli import main

    before, sys.argv = sys.argv, ["poise", *words[1:], *(_less(words[1:]) if small else ())]
    try:
        main()
    except SystemExit as end:
        flawed = words[1] == "sanity" and end.code == 1  # what was trained so little may be
        if end.code and not (small and flawed):
            raise SystemExit(f"{shlex.join(sys.argv)} ended with status {end.code}") from None
    finally:
        sys.argv = before


def _less(words: list[str]) -> tuple[str, ...]:
    """What makes this line quick to try."""
    if words[0] != "train":
        return SMALLER.get(words[0], ())
    if "--resume" in words:
        return ()
    if any(word.startswith("--data") for word in words):
        return (FEWER[0], 'protocol.attacks=[{"type": "FGSM"}]')
    return FEWER if "--quick" in words else ("--quick", *FEWER)


@contextlib.contextmanager
def _smaller() -> Iterator[None]:
    """poise.train and poise.evaluate do less."""
    import poise

    begun, judged = poise.train, poise.evaluate

    def train(what: Any = None, out: Any = None, **given: Any) -> Any:
        if isinstance(what, str) and not Path(what).exists():
            what = poise.override(poise.recipe(what, True), list(FEWER))
        elif what is None:
            given["epochs"] = 1
        return begun(what, out, **given)

    def evaluate(*given: Any, **named: Any) -> Any:
        return judged(*given, **{"first": 4, **named})

    with _put(poise, "train", train), _put(poise, "evaluate", evaluate):
        yield


@contextlib.contextmanager
def _put(module: ModuleType, name: str, part: Callable[..., Any]) -> Iterator[None]:
    setattr(module, name, part)
    try:
        yield
    finally:
        delattr(module, name)  # the front page looks it up again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--small", action="store_true")
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path.insert(0, str(Path.cwd()))
    print(f"{run(asked.page, asked.small)} pieces of {asked.page} were run")


if __name__ == "__main__":
    main()
