"""Weights & Biases: a run of a project, on its server or offline in files that `wandb sync` uploads later."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from poise.core.documents import opened, parse, sealed
from poise.core.errors import StorageError
from poise.core.files import read_text, write_text
from poise.interop.trackers.tracker import Identity, Point, Tracker

_NOTE = ".wandb.json"
"""In the run folder: the last step that was put down, as what lies offline cannot be asked."""


class WandbTracker(Tracker):
    """The place is a project, by default poise. WANDB_MODE=offline keeps all in the run folder."""

    word = "wandb"
    packages = ("wandb",)

    def open(self, run: Identity) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self.wandb: Any = wandb
        self.note = run.folder / _NOTE
        with _told():
            self.run: Any = wandb.init(
                project=self.place or "poise",
                id=run.key,
                name=run.name,
                group=run.group,
                dir=str(run.folder),
                config=dict(run.settings),
                resume="allow",
                settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
            )
        self.steps = _noted(self.note)

    def known(self) -> Mapping[str, set[int]]:
        return self.steps

    def log(self, points: Sequence[Point]) -> None:
        by_step: dict[int, dict[str, float]] = {}
        for tag, value, step in points:
            by_step.setdefault(step, {})[tag] = value
        with _told():
            for step, values in sorted(by_step.items()):
                self.run.log(values, step=step)
                for tag in values:
                    self.steps.setdefault(tag, set()).add(step)
        steps_logged = {tag: sorted(steps) for tag, steps in self.steps.items()}
        write_text(self.note, json.dumps(sealed({"steps": steps_logged})))

    def results(self, columns: Mapping[str, float], table: str, step: int) -> None:
        with _told():
            self.run.summary.update(dict(columns))
            self.run.notes = table

    def page(self, file: Path) -> None:
        with _told():
            artifact = self.wandb.Artifact(f"report-{self.run.id}", type="report")
            artifact.add_file(str(file))
            self.run.log_artifact(artifact)

    def close(self, finished: bool) -> None:
        with _told():
            self.run.finish(exit_code=0 if finished else 255)


def _noted(note: Path) -> dict[str, set[int]]:
    try:
        return {tag: set(steps) for tag, steps in opened(parse(read_text(note)))["steps"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Raises: StorageError in one sentence, without what was sent."""
    try:
        yield
    except Exception as error:  # of many libraries
        hint = "log in by `wandb login`, or set WANDB_MODE=offline"
        raise StorageError(f"Weights & Biases cannot be used ({type(error).__name__}): {hint}") from None
