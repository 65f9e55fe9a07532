"""Evaluating what was trained: float32, on the rounded weights as they are shipped, every prediction kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from experiments.cifar10.design import THREAT, Unit, protocols
from experiments.cifar10.place import Place
from experiments.cifar10.training import shipped
from poise.core.errors import Interrupted
from poise.core.progress import Progress
from poise.evaluation import evaluate
from poise.evaluation.sanity import inspect


class Stoppable(Progress):
    """Stops an evaluation, with what it has found kept, once a signal has come."""

    def __init__(self, signals: Sequence[int]) -> None:
        self.signals = signals

    def begin(self, what: str, total: int, unit: str, cost: float = 0.0) -> Callable[[int], None]:
        return lambda done: self.check()

    def note(self, text: str, share: float | None = None) -> None:
        self.check()

    def check(self) -> None:
        if self.signals:
            raise Interrupted("stopped, with what was found kept; to go on: python -m experiments.cifar10 run")


def evaluated(place: Place, unit: Unit, readout: str, protocol: str, signals: Sequence[int] = ()) -> None:
    """Write the record of a readout under a protocol. Raises: Interrupted once a signal has come."""
    facts, path = place.facts(unit), place.record(unit, readout, protocol)
    assert facts is not None
    notes = {
        "trained_in": facts["precision"],
        "processors": facts["processors"],
        "commit": place.commit,
        "trained_at": facts["commit"],
    }
    evaluate(
        shipped(place, unit, readout),
        place.scale.data.load(),
        protocols(place.scale)[protocol],
        journal=place.runs / "unfinished" / f"{unit.name}-{path.stem}",
        out=path,
        progress=Stoppable(signals),
        named=unit.row.title,
        checkpoint=readout,
        run=unit.name,
        group=facts["group"],
        seed=unit.seed,
        notes=notes,
    )


def inspected(place: Place, unit: Unit) -> None:
    """Write the verdict of `sanity` on a run's last weights, or on the middle of the weight line."""
    data = place.scale.data.load()
    split = data.test.first(place.scale.inspected)
    network = shipped(place, unit, "mixture-0.5" if unit.row.name == "line" else "last")
    verdict = inspect(
        network,
        split.pixels(),
        split.labels,
        THREAT,
        ids=split.ids,
        named=unit.row.title,
        run=unit.name,
        checkpoint="last",
        dataset=data.name,
    )
    verdict.write(place.verdict(unit))
