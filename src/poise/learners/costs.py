"""What a step costs, counted in forwards of the network: for placing learners on ranks, and for the texts of recipes.

A forward is 1, a backward pass to images 1, one to weights 2; tests count what the objectives really ask.
"""

from __future__ import annotations

from poise.learners.learner import Policy


def forwards(policy: Policy) -> int:
    """Forwards that an image costs in a step: an ascent step 2, a forward with its backward in the outer loss 3."""
    return sum(parts(policy))


def parts(policy: Policy) -> tuple[int, int]:
    """(crafting, descending) in forwards; a weight perturbation asks the outer loss again while descending."""
    cost = policy.objective.forwards()
    again = 0 if policy.perturbation is None else policy.perturbation.gradients
    return cost.crafting, cost.descending + (cost.descending - cost.moving) * again
