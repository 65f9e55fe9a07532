"""Digits: scikit-learn's 1,797 real 8x8 images, embedded, so that everything can be tried in seconds on two cores.

The settings are ours (no paper uses this data). The natural task is nearly solved, so there is little to trade: here Generalist
is a position on the trade-off between AT and the half-half loss, not a win over AT.
"""

from __future__ import annotations

import dataclasses

from poise.attacks import PGD, Ascent
from poise.data import Digits, Shift
from poise.engine.experiment import Experiment, Monitor
from poise.evaluation import strict
from poise.learners import EMA, SGD, PiecewiseLinear, Policy
from poise.methods import Generalist, Joint, Method
from poise.models import DigitsCNN
from poise.objectives import AT, MART, NT, TRADES, Objective
from poise.recipes.registry import recipe
from poise.threats import Linf

THREAT = Linf(epsilon=0.2)
INNER = Ascent(threat=THREAT, step_size=0.4 * 0.2, steps=5)
GAUSSIAN = Ascent(threat=THREAT, step_size=0.4 * 0.2, steps=5, start="gaussian")


def policy(objective: Objective) -> Policy:
    """The one policy of all digits recipes."""
    schedule = PiecewiseLinear(values=(1, 1, 0.3, 0.1))
    return Policy(
        objective=objective,
        optimizer=SGD(learning_rate=0.05),
        schedule=schedule,
        average=EMA(decay=0.95),
        augmentation=Shift(pixels=1),
    )


def digits(name: str, title: str, method: Method, quick: bool) -> Experiment:
    """The experiment around a method: 45 epochs, three in the quick variant; selection by the last epoch, as nothing is published."""
    monitor = PGD(threat=THREAT, step_size=0.05, steps=10)
    made = Experiment(
        name=name,
        title=title,
        data=Digits(),
        model=DigitsCNN(),
        method=method,
        epochs=45,
        selection="test",
        criterion="last",
        monitors=(Monitor(), Monitor(name="pgd-10", attack=monitor)),
        monitor_every=3,
        save_every=5,
        protocol=strict(THREAT, step_size=0.02),
    )
    return dataclasses.replace(made, name=f"{name}_quick", epochs=3, monitor_every=1) if quick else made


@recipe
def nt_digits(quick: bool) -> Experiment:
    """Natural training on digits.

    Command: poise train nt_digits --out runs/nt
    """
    return digits("nt_digits", "NT", Joint(policy=policy(NT())), quick)


@recipe
def at_digits(quick: bool) -> Experiment:
    """Adversarial training on digits, Linf 0.2.

    Command: poise train at_digits --out runs/at
    """
    return digits("at_digits", "AT", Joint(policy=policy(AT(inner=INNER))), quick)


@recipe
def at_half_digits(quick: bool) -> Experiment:
    """Half-half adversarial training (beta 1/2) on digits.

    Command: poise train at_half_digits --out runs/at-half
    """
    return digits("at_half_digits", "AT half-half", Joint(policy=policy(AT(beta=0.5, inner=INNER))), quick)


@recipe
def trades_digits(quick: bool) -> Experiment:
    """TRADES with beta 6 on digits.

    Command: poise train trades_digits --out runs/trades
    """
    return digits("trades_digits", "TRADES", Joint(policy=policy(TRADES(beta=6, inner=GAUSSIAN))), quick)


@recipe
def trades1_digits(quick: bool) -> Experiment:
    """TRADES with beta 1 on digits.

    Command: poise train trades1_digits --out runs/trades1
    """
    return digits("trades1_digits", "TRADES, beta 1", Joint(policy=policy(TRADES(beta=1, inner=GAUSSIAN))), quick)


@recipe
def mart_digits(quick: bool) -> Experiment:
    """MART with beta 5 on digits.

    Command: poise train mart_digits --out runs/mart
    """
    return digits("mart_digits", "MART", Joint(policy=policy(MART(beta=5, inner=GAUSSIAN))), quick)


@recipe
def generalist_digits(quick: bool) -> Experiment:
    """Generalist on digits: natural and robust base learners, c = 2, t' at 62.5 %, gamma (1, 1, 1, .5).

    Command: poise train generalist_digits --out runs/generalist
    """
    method = Generalist(
        natural=dataclasses.replace(policy(NT()), average=None),
        robust=dataclasses.replace(policy(AT(inner=INNER)), average=None),
        decay=0.95,
        redistribute_every=2,
    )
    return digits("generalist_digits", "Generalist", method, quick)
