"""The pilot: rate and decay of NT and of AT, each by a few epochs on a part of the training images, judged on held-out
ones only.
"""

from __future__ import annotations

import dataclasses
import math

from experiments.cifar10.design import AT_ROW, GRID, PILOT_HOURS, Rate, Rates, Row, Unit, experiment
from experiments.cifar10.place import Place
from poise.core.documents import read_lines
from poise.engine import Experiment, train_or_resume

TASKS = {"nt": ("natural", Row("nt", "NT", "nt")), "at": ("PGD-20", AT_ROW)}
"""By whose rates are chosen: the held-out accuracy that judges, and the row trained."""


def pilot(place: Place, precision: str) -> None:
    """Train what is missing and write results/pilot.json. Once the pilot's hours are over, what was not tried does not
    count.
    """
    chosen = {}
    for name, (monitor, row) in TASKS.items():
        seen: list[tuple[Rate, float]] = []
        for rate in GRID:
            if spent(place) >= PILOT_HOURS:
                break
            label = f"pilot-{name}-{rate.learning_rate:g}-{rate.weight_decay:g}"
            with place.timed(label, "pilot"):
                run = train_or_resume(tried(place, row, rate, precision), place.runs / label, device="cpu")
            seen.append((rate, float(run.facts("last")["monitors"][f"monitor/{monitor}"])))
        tried_ = [{**dataclasses.asdict(rate), "held_out": value} for rate, value in seen]
        chosen[name] = {"judged_by": f"held-out {monitor}", "chosen": dataclasses.asdict(best(seen)), "tried": tried_}
    place.decide("pilot", {**chosen, "core_hours": round(spent(place), 3), "precision": precision})


def tried(place: Place, row: Row, rate: Rate, precision: str) -> Experiment:
    """One run of the pilot."""
    data, share, epochs = place.scale.pilot
    made = experiment(Unit(row, 0), place.scale, Rates(rate, rate), precision)
    return dataclasses.replace(
        made, name=f"{made.name}-pilot", data=data, held_out=share, epochs=epochs, monitor_every=epochs
    )


def best(seen: list[tuple[Rate, float]]) -> Rate:
    """The rate of largest held-out accuracy; among equals the default, then the first; the default where nothing was
    tried.
    """
    if not seen:
        return Rate()
    most = max((value for _, value in seen if not math.isnan(value)), default=None)
    first = [rate for rate, value in seen if value == most]
    return Rate() if Rate() in first or not first else first[0]


def spent(place: Place) -> float:
    """Core-hours of the pilot so far."""
    return (
        sum(line["core_seconds"] for line in read_lines(place.results / "hours.jsonl") if line["what"] == "pilot")
        / 3600
    )
