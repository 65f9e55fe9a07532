"""What a program may have called while a run goes on: after each epoch, after each evaluation, at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from poise.core.distributed import join
from poise.core.errors import Interrupted, SettingsError
from poise.core.progress import Progress, Unbroken
from poise.core.records import EvaluationRecord
from poise.engine.runs import Run


class Callback:
    """Does nothing; subclasses override what they need. Of several ranks the first calls them.

    They are called when what they are told of lies in the run's folder: an epoch's checkpoint is written before
    `epoch`, a record before `evaluation`. So what one raises costs nothing of the training: it is said, and that
    callback is left out from there on. Only `Interrupted` stops the run, which can be gone on with (where several
    ranks train it, it is said like all else).
    """

    def epoch(self, run: Run, line: Mapping[str, Any]) -> None:
        """An epoch is over; line: its line in metrics.jsonl. A run that goes on may train, and tell, an epoch again
        that lies after its checkpoint.
        """

    def evaluation(self, run: Run, record: EvaluationRecord) -> None:
        """The run was evaluated, or was before."""

    def end(self, run: Run) -> None:
        """Nothing more comes of what was called: the run is finished, evaluated as asked, paused or broken off."""


class Callbacks(Callback):
    """Several callbacks, called one after the other; whichever raises is left out from there on."""

    def __init__(self, given: Sequence[Callback] = (), progress: Progress | None = None, alone: bool = True) -> None:
        self.left = list(check_callbacks(given))
        self.progress = Unbroken(progress or Progress())
        self.alone = alone
        """Whether no other rank waits for this one."""

    @classmethod
    def of_all(cls, given: Sequence[Callback], progress: Progress | None = None) -> Callbacks:
        """Those that this rank calls: the first one all of them, the others none."""
        world = join()
        callbacks = check_callbacks(given)
        return cls(callbacks if world.leads else (), progress, alone=world.size == 1)

    def epoch(self, run: Run, line: Mapping[str, Any]) -> None:
        self._call("epoch", lambda callback: callback.epoch(run, dict(line)))

    def evaluation(self, run: Run, record: EvaluationRecord) -> None:
        self._call("evaluation", lambda callback: callback.evaluation(run, record))

    def end(self, run: Run) -> None:
        self._call("end", lambda callback: callback.end(run))

    def _call(self, name: str, ask: Callable[[Callback], None]) -> None:
        for callback in list(self.left):
            try:
                ask(callback)
            except Exception as error:  # whatever a user's code raises
                if isinstance(error, Interrupted) and self.alone:
                    raise
                self.left.remove(callback)
                reason = f"{type(error).__name__}: {error}".partition("\n")[0]
                self.progress.say(
                    f"the callback {type(callback).__name__} is left out from here on, as its {name} raised {reason};"
                    " nothing of the run is lost"
                )


def check_callbacks(given: Sequence[Callback]) -> Sequence[Callback]:
    """Raises: SettingsError for what is none."""
    for callback in given if isinstance(given, list | tuple) else [given]:
        if not isinstance(callback, Callback):
            name = callback.__name__ if isinstance(callback, type) else type(callback).__name__
            raise SettingsError(f"callbacks: {name} is none, must be a list of objects of classes of poise.Callback")
    return given
