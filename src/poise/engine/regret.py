"""Zipper's theory as numbers (Section 3.4): regrets of the base learners, and Theorem 1's bound on the global learner's
error.

Losses lie in [0, 1] and are of fixed images, so that every function l_a^t is the same for all t; the infimum over all
weights is replaced by the minimum over all networks seen. The theorem asks for convex losses, so for networks this is a
diagnostic, not a guarantee.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Losses = Mapping[str, float]
"""A network's loss on each task, in [0, 1]."""


def subproblem_regret(suffered: Sequence[float], seen: Sequence[float]) -> float:
    """sum_t l(theta^t) - T min over seen theta of l(theta) (Definition 2). Never negative if the theta^t are among
    those seen.
    """
    return sum(suffered) - len(suffered) * min(seen)


def deviation(rounds: int, delta: float) -> float:
    """2 sqrt((2 / T) log(1 / delta)): what chance adds to the bound (Theorem 1)."""
    return 2 * math.sqrt(2 / rounds * math.log(1 / delta))


def regrets(history: Sequence[Mapping[str, Losses]], tasks: Mapping[str, str], delta: float) -> dict[str, float]:
    """Regrets and bound after the rounds of `history`.

    history: for each round, the losses of every network by its name, "global" among them; tasks: each base learner's
    task.
    Returns the regret of every base learner, "tradeoff" R_T (Definition 1: their mean), "global" the global learner's
    present loss on all tasks, "best" the least such loss of a network seen, "deviation" and "bound" on the former: best
    + R_T / T + deviation; and for every base learner "NAME suffered", its mean loss over the rounds, and "NAME least",
    the least on its task of a network seen, from which runs are compared against the best network of them all.
    """
    networks = [losses for moment in history for losses in moment.values()]
    result = {
        name: subproblem_regret([moment[name][task] for moment in history], [losses[task] for losses in networks])
        for name, task in tasks.items()
    }
    tradeoff = sum(result.values()) / len(result)
    parts = {
        f"{name} suffered": sum(moment[name][task] for moment in history) / len(history) for name, task in tasks.items()
    }
    parts |= {f"{name} least": min(losses[task] for losses in networks) for name, task in tasks.items()}

    def overall(losses: Losses) -> float:
        return sum(losses[task] for task in tasks.values()) / len(tasks)

    best = min(map(overall, networks))
    chance = deviation(len(history), delta)
    bound = best + tradeoff / len(history) + chance
    present = overall(history[-1]["global"])
    return {
        **result,
        **parts,
        "tradeoff": tradeoff,
        "global": present,
        "best": best,
        "deviation": chance,
        "bound": bound,
    }
