"""The tables and figures of Synergy-of-Experts (Cui et al., NeurIPS 2022)."""

from __future__ import annotations

from poise.core.papers import SYNERGY
from poise.recipes.ensembles_cifar10 import EPSILONS
from poise.recipes.items.item import Item, Line, Picture, add

METHODS = ("GAL", "DVERGE", "MoRE", "ADP", "SoE")


def of(method: str, epsilon: float) -> Line:
    """A method trained with, and judged within, one epsilon; on digits there is one of each, within .2."""
    stem = "soe" if method == "SoE" else f"{method.lower()}_adv"
    digits = f"{method.lower()}_ensembles_digits" if epsilon == 0.03 else ""
    return Line(
        f"{method}, epsilon {epsilon:g}",
        f"{stem}_cifar10_resnet20x3_eps{epsilon:g}",
        digits,
        family=method,
        x=epsilon,
        short=method,
    )


GRID = tuple(of(method, epsilon) for method in METHODS for epsilon in EPSILONS)
PRINTED = "Synergy-of-Experts, Tables 1 to 3"
add(
    Item(
        "soe/table1",
        "Table 1: white-box and adaptive attacks",
        SYNERGY,
        GRID,
        PRINTED,
        Picture("sweep", ("natural", "PGD-50x5"), "epsilon"),
        protocols=("soe-lambdas",),
    ),
    Item(
        "soe/fig5",
        "Figure 5: adaptive attacks over lambda",
        SYNERGY,
        tuple(of("SoE", epsilon) for epsilon in EPSILONS),
        picture=Picture("sweep", ("AdaptivePGD-50x5-confidence", "AdaptivePGD-50x5-mismatch"), "lambda"),
        protocols=("soe-lambdas",),
    ),
    Item(
        "soe/fig6",
        "Figure 6: predicted labels along the adversarial and a random direction, of each sub-model and of the whole",
        SYNERGY,
        (
            Line("vote", "vote_adv_cifar10_resnet20x3_eps0.03", "vote_ensembles_digits"),
            Line("SoE", "soe_cifar10_resnet20x3_eps0.03", "soe_ensembles_digits"),
        ),
        picture=Picture("labels", (), "random", images=1),
    ),
)
