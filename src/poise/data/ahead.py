"""Batches of decoded images ahead of the steps that need them, by worker processes of torch's DataLoader."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from poise.core.errors import DataError, SettingsError
from poise.data.images import bombs_refused
from poise.data.split import Split

Job = tuple[Tensor, Tensor | None]
"""The rows of a step's images, int64 [B], and the boxes that are cut out of them, int64 [B, 4], or None."""


def workers() -> int:
    """Processes that decode: POISE_WORKERS, else one for each CPU of this rank, at most 8; 0 decodes in this process.

    Raises: SettingsError where POISE_WORKERS is no number from 0.
    """
    workers_setting = os.environ.get("POISE_WORKERS")
    if workers_setting is None:
        return min(8, max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    if not workers_setting.isdecimal():
        raise SettingsError(f"POISE_WORKERS = {workers_setting!r}: must be a whole number from 0")
    return int(workers_setting)


class Ahead:
    """The images of step after step of a split that is decoded as it is needed. What it gives depends on the step only.

    job: what a step shows; it is asked in this process, so that workers draw nothing.
    """

    def __init__(self, split: Split, job: Callable[[int], Job], pin: bool = False) -> None:
        self.split, self.job, self.pin, self.workers = split, job, pin, workers()
        self._jobs: dict[int, Job] = {}
        self._batches: Iterator[Any] = iter(())
        self._next = -1

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """(rows, uint8 images [B, C, H, W]) of the step. Raises: DataError naming an image that cannot be decoded."""
        if self.workers == 0:
            rows, boxes = self.job(step)
            return rows, self.split.images_at(rows, boxes)
        if step != self._next:
            self._begin(step)
        images = next(self._batches)
        if isinstance(images, DataError):
            self._next, self._batches = -1, iter(())
            raise images
        self._next = step + 1
        return self._jobs.pop(step)[0], images

    def _begin(self, step: int) -> None:
        self._jobs.clear()
        # runs no main module again, shares memory
        fork = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
        options: dict[str, Any] = {"num_workers": self.workers, "batch_size": None, "multiprocessing_context": fork}
        with warnings.catch_warnings():
            # of forks beside threads: workers call Pillow and NumPy only, which hold no lock of this process's threads
            warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
            warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
            loader = DataLoader(_Decoded(self.split), sampler=_Steps(self, step), pin_memory=self.pin, **options)
            self._batches = iter(loader)

    def remembered(self, step: int) -> Job:
        """The step's job, kept until its batch is asked for."""
        self._jobs[step] = self.job(step)
        return self._jobs[step]


class _Steps(Sampler[Job]):
    """The jobs of all steps from one on, without end."""

    def __init__(self, ahead: Ahead, step: int) -> None:
        self.ahead, self.step = ahead, step

    def __iter__(self) -> Iterator[Job]:
        step = self.step
        while True:
            yield self.ahead.remembered(step)
            step += 1


class _Decoded(Dataset[Tensor]):
    """The images of a job, or the DataError that keeps them from being decoded: raised in a worker it would lose its
    sentence.
    """

    def __init__(self, split: Split) -> None:
        self.split = split

    def __getitem__(self, job: Job) -> Tensor | DataError:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, boxes = job
        try:
            with bombs_refused():
                return self.split.images_at(rows, boxes)
        except DataError as error:
            return error
