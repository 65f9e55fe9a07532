"""Seconds on the clock of commands that need no network: `poise --help` and `poise report RUN...`, with torch's import
blocked.

    python -m benchmarks command [--quick] [--rounds N]

Each round starts a new interpreter; in it `import torch` raises, so that a command that needed it would fail here.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring import Figure, page, table

BLOCK = """
import sys


class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch is blocked")


sys.meta_path.insert(0, NoTorch())
"""
"""A `sitecustomize` that is first on the path of every interpreter started here."""


def make_runs(folder: Path, count: int) -> list[Path]:
    """Small runs on digits, trained and evaluated: NT and AT in turn, each with the seeds 0, 1, ..."""
    import poise
    from poise.evaluation import Protocol
    from poise.verbs.evaluate import evaluate

    protocol = Protocol(attacks=(poise.attacks.FGSM(), poise.attacks.PGD(steps=2)))
    paths = []
    for number in range(count):
        recipe, seed = ("nt_digits", "at_digits")[number % 2], number // 2
        experiment = dataclasses.replace(poise.recipe(recipe, quick=True), epochs=1, seed=seed, protocol=protocol)
        run = poise.train(experiment, out=folder / f"{recipe}-{seed}", device="cpu")
        for which in ("selected", "last"):
            evaluate(run, checkpoint=which, device="cpu")
        paths.append(run.path)
    return paths


def seconds(arguments: Sequence[str], environment: dict[str, str], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds on the clock and of the processor, of `rounds` fresh interpreters. One more goes before, for the files'
    caches.

    Raises: CalledProcessError where the command fails.
    """
    command = [str(Path(sys.executable).with_name("poise")), *arguments]
    clock, processor = [], []
    for _ in range(rounds + 1):
        before, begun = os.times(), time.perf_counter()
        subprocess.run(command, env=environment, check=True, capture_output=True)
        clock.append(time.perf_counter() - begun)
        after = os.times()
        processor.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return clock[1:], processor[1:]


def main(quick: bool, rounds: int) -> str:
    """Run it and return the page."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        runs = [str(path) for path in make_runs(folder / "runs", 1 if quick else 4)]
        (folder / "block").mkdir()
        (folder / "block" / "sitecustomize.py").write_text(BLOCK)
        path = os.pathsep.join([str(folder / "block"), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": path}
        rows = []
        for arguments, limit in (
            (["--help"], 0.5),
            (["report", *runs], 2.0),
            (["report", *runs, "--format", "markdown"], 2.0),
        ):
            shown = " ".join(["poise", *(part for part in arguments if part not in runs)])
            shown += f" ({len(runs)} runs)" if arguments[0] == "report" else ""
            rows.append(
                [
                    shown,
                    *(Figure.of(values).text() for values in seconds(arguments, environment, rounds)),
                    f"{limit:.1f}",
                ]
            )
    body = (
        table(["command", "seconds on the clock", "of the processor", "must hold: clock under"], rows)
        + "\n\nA fresh interpreter each time, torch's import blocked. On a quiet machine the two columns agree."
    )
    return page("The command's front door", "python -m benchmarks command", {"Seconds": body})
