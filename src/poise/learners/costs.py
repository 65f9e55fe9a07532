"""What a step costs, counted in forwards of the network: for placing learners on ranks, and for the texts of recipes.

A forward is 1, a backward pass to images 1, one to weights 2; tests count what the objectives really ask.
"""

from __future__ import annotations

from poise.learners.learner import Policy
from poise.learners.perturbations import AWP, RWP
from poise.objectives import AT, BAT, FAT, GAIRAT, GAIRRST, NT, RST, TRADES, Objective, SqueezeTraining, TwoExamples
from poise.objectives.objective import searches_of


def forwards(policy: Policy) -> int:
    """Forwards that an image costs in a step: an ascent step 2, a forward with its backward in the outer loss 3."""
    return sum(parts(policy))


def parts(policy: Policy) -> tuple[int, int]:
    """(crafting, descending) in forwards; a weight perturbation asks the outer loss again while descending."""
    inner, outer = _parts(policy.objective)
    again = {AWP: 1, RWP: getattr(policy.perturbation, "steps", 0)}.get(type(policy.perturbation), 0)  # type: ignore[arg-type]
    return inner, outer + (outer - _moving(policy.objective)) * again


def _moving(objective: Objective) -> int:
    """Of the outer loss, the forwards that only move running statistics; weight perturbations leave them out."""
    within = _moving(objective.objective) if isinstance(objective, FAT | TwoExamples) else int(isinstance(objective, TRADES))
    return 2 * within if isinstance(objective, TwoExamples) else within


def _parts(objective: Objective) -> tuple[int, int]:
    """(crafting, outer loss) in forwards. Of an objective that isn't listed: its ascents, and two forwards in the outer loss."""
    steps = sum(ascent.steps for ascent in searches_of(objective))
    match objective:
        case NT():
            return 0, 3
        case FAT():  # at most
            return _parts(objective.objective)
        case TwoExamples():
            inner, outer = _parts(objective.objective)
            return 2 * inner, 2 * outer
        case AT():
            return 2 * steps, 3 if objective.beta == 1 else 6
        case TRADES():  # the third forward moves running statistics only
            return 2 * steps + 1, 7
        case BAT():
            return 2 * steps, 3 * (objective.bridges + 1)
        case GAIRAT():
            return 2 * steps, 3
        case GAIRRST():
            return 4 * steps + 1, 9
        case SqueezeTraining():  # the natural graph is kept, so each step costs two forwards and three backwards
            return 5 * steps + 1, 9
        case RST():
            return 2 * steps + 1, 6
        case _:
            return 2 * steps, 6
