"""Digits: scikit-learn's 1,797 real 8x8 images, embedded, so that everything can be tried in seconds on two cores.

The settings are ours (no paper uses this data): Linf .2, PGD-5 with steps of .4 epsilon, 45 epochs. The natural task is
nearly solved, so there is little to trade: here Generalist is a position on the trade-off between AT and the half-half
loss, not a win over AT. `{row}_digits` for every row of `compared`.
"""

from __future__ import annotations

import dataclasses

from poise.attacks import PGD, Ascent
from poise.data import Digits, Shift
from poise.engine.experiment import Experiment, Monitor
from poise.evaluation import strict
from poise.learners import EMA, SGD, PiecewiseLinear, Policy
from poise.methods import Generalist, Method
from poise.models import DigitsCNN
from poise.objectives import NT, Objective
from poise.recipes.compared import Row, compared
from poise.recipes.rows import register
from poise.threats import Linf

THREAT = Linf(epsilon=0.2)
INNER = Ascent(threat=THREAT, step_size=0.4 * 0.2, steps=5)
EPOCHS, QUICK_EPOCHS, RATE = 45, 3, 0.05
AROUND = Generalist(decay=0.95, redistribute_every=2)
"""Generalist on digits: c = 2, t' at 62.5 %, gamma (1, 1, 1, .5)."""


def policy(objective: Objective) -> Policy:
    """The one policy of all digits recipes."""
    schedule = PiecewiseLinear(values=(1, 1, 0.3, 0.1))
    return Policy(
        objective=objective,
        optimizer=SGD(learning_rate=RATE),
        schedule=schedule,
        average=EMA(decay=0.95),
        augmentation=Shift(pixels=1),
    )


def digits(name: str, title: str, method: Method, quick: bool) -> Experiment:
    """The experiment around a method: 45 epochs, three in the quick variant; selection by the last epoch, as nothing is
    published.
    """
    monitor = PGD(threat=THREAT, step_size=0.05, steps=10)
    experiment = Experiment(
        name=name,
        title=title,
        data=Digits(),
        model=DigitsCNN(),
        method=method,
        epochs=EPOCHS,
        selection="test",
        criterion="last",
        monitors=(Monitor(), Monitor(name="pgd-10", attack=monitor)),
        monitor_every=3,
        save_every=5,
        protocol=strict(THREAT, step_size=0.02),
    )
    return (
        dataclasses.replace(experiment, name=f"{name}_quick", epochs=QUICK_EPOCHS, monitor_every=1)
        if quick
        else experiment
    )


def on_digits(row: str, quick: bool = False) -> Experiment:
    """The experiment of a row of `compared`."""
    row_compared = compared(INNER, QUICK_EPOCHS if quick else EPOCHS, RATE)[row]
    return digits(f"{row}_digits", row_compared.title, row_compared.method(policy(NT()), AROUND), quick)


def generalist_digits(quick: bool) -> Experiment:
    """Generalist on digits, which the ablations start from."""
    return on_digits("generalist", quick)


def _register(name: str, row: Row) -> None:
    register(f"{name}_digits", f"{row.line}, on digits (Linf .2)", lambda quick: on_digits(name, quick))


for _name, _row in compared(INNER, EPOCHS, RATE).items():
    _register(_name, _row)
