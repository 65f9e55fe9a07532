"""TensorBoard: event files in a folder."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from poise.core.errors import RunError
from poise.interop.trackers.tracker import Identity, Point, Tracker


class TensorBoardTracker(Tracker):
    """In RUN/tensorboard; with a place in PLACE/NAME-KEY. Numbers are float32 there."""

    word = "tensorboard"
    packages = ("tensorboard",)
    writer: Any = None

    def open(self, run: Identity) -> None:
        from torch.utils.tensorboard import SummaryWriter

        usual = run.folder / "tensorboard"
        self.folder = Path(self.place).expanduser() / f"{run.name}-{run.key[:6]}" if self.place else usual
        before = self.folder.is_dir() and any(self.folder.glob("events.out.tfevents.*"))
        self.steps = _steps_in(self.folder) if before else {}
        self.writer = SummaryWriter(str(self.folder))
        if not before:
            from torch.utils.tensorboard.summary import hparams

            settings = {name: value for name, value in run.settings.items() if isinstance(value, int | float | str)}
            for summary in hparams(settings, {}):
                self.writer.file_writer.add_summary(summary)
            self.writer.add_text("settings", f"```json\n{json.dumps(dict(run.settings), indent=1)}\n```")
            self.writer.flush()

    def known(self) -> Mapping[str, set[int]]:
        return self.steps

    def log(self, points: Sequence[Point]) -> None:
        for tag, value, step in points:
            self.writer.add_scalar(tag, value, step)
            self.steps.setdefault(tag, set()).add(step)
        self.writer.flush()

    def results(self, columns: Mapping[str, float], table: str, step: int) -> None:
        values = _last_values(self.folder)
        self.log([(tag, value, step) for tag, value in columns.items() if not _same(values.get(tag), value)])
        self.writer.add_text("records", table, step)
        self.writer.flush()

    def page(self, file: Path) -> None:
        """Beside the event files, as TensorBoard shows no pages."""
        shutil.copyfile(file, self.folder / "report.html")

    def close(self, finished: bool) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


def _read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import (  # pyright: ignore[reportMissingImports]
        EventAccumulator,
    )

    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 1})
    try:
        accumulator.Reload()
    except Exception as error:  # whatever a damaged file makes it raise
        raise RunError(f"{folder} holds event files that TensorBoard cannot read: {error}") from None
    return accumulator


def _steps_in(folder: Path) -> dict[str, set[int]]:
    events = _read(folder)
    return {tag: {event.step for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def _last_values(folder: Path) -> dict[str, float]:
    with contextlib.suppress(RunError):
        events = _read(folder)
        return {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}
    return {}


def _same(before: float | None, value: float) -> bool:
    """Whether it is the number that was written as float32."""
    return before is not None and abs(before - value) <= 1e-6 * max(1.0, abs(value))
