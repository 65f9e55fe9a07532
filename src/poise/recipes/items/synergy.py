"""The tables and figures of Synergy-of-Experts (Cui et al., NeurIPS 2022)."""

from __future__ import annotations

from poise.core.papers import SYNERGY
from poise.recipes.ensembles_cifar10 import EPSILONS
from poise.recipes.items.item import Item, Line, Picture, add
from poise.recipes.synergy_of_experts import MEMBERS_GRID

METHODS = ("GAL", "DVERGE", "MoRE", "ADP", "SoE")
ON_DIGITS = 0.03
"""The epsilon that what is on digits stands for; there it is .2."""


def of(method: str, epsilon: float) -> Line:
    """A method trained with, and judged within, one epsilon."""
    stem = "soe" if method == "SoE" else f"{method.lower()}_adv"
    return Line(
        f"{method}, epsilon {epsilon:g}",
        f"{stem}_cifar10_resnet20x3_eps{epsilon:g}",
        f"{method.lower()}_ensembles_digits" if epsilon == ON_DIGITS else "",
        family=method,
        x=epsilon,
        short=method,
    )


def experts(members: int, epsilon: float, form: str = "") -> Line:
    """So many experts. form: the recipe's ending."""
    digits = f"soe_ensembles_digits{form}" if members == 3 else f"soe_ensembles_digits_x{members}" if not form else ""
    return Line(
        f"{members} expert{'s' * (members > 1)}, epsilon {epsilon:g}",
        f"soe_cifar10_resnet20x{members}_eps{epsilon:g}{form}",
        digits if epsilon == ON_DIGITS else "",
        family=f"epsilon {epsilon:g}",
        x=float(members),
        short=f"{members} expert{'s' * (members > 1)}",
    )


GRID = tuple(of(method, epsilon) for method in METHODS for epsilon in EPSILONS)
PRINTED = "Synergy-of-Experts, Tables 1 to 3"
WHITE_BOX = ("natural", "PGD-50x5", "AdaptivePGD-50x5, the stronger one as a whole", "AdaptivePGD-50x5")
add(
    Item(
        "soe/table1",
        "Table 1: white-box and adaptive attacks",
        SYNERGY,
        GRID,
        PRINTED,
        Picture("sweep", ("natural", "PGD-50x5"), "epsilon"),
        protocols=("soe-lambdas",),
        across=WHITE_BOX,
    ),
    *(
        Item(
            f"soe/table{number}",
            f"Table {number}: transfer from {variants} variants, all or nothing",
            SYNERGY,
            GRID,
            PRINTED,
            Picture("sweep", (protocol,), "epsilon"),
            transfer=protocol,
            across=(protocol,),
        )
        for number, variants, protocol in ((2, 3, "soe-transfer-3"), (3, 30, "soe-transfer-30"))
    ),
    *(
        Item(
            f"soe/section4.5{name}",
            f"Section 4.5: what each expert gains under transfer{words}",
            SYNERGY,
            tuple(experts(members, epsilon, form) for epsilon in MEMBERS_GRID for members in range(1, 6)),
            picture=Picture("sweep", ("soe-transfer-3",), "experts"),
            transfer="soe-transfer-3",
            gains=True,
        )
        for name, words, form in (("", "", ""), ("-printed", ", as the paper prints the algorithm", "_paper"))
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
    *(
        Item(f"soe/{name}", title, SYNERGY, (), picture=Picture(kind, ()))  # type: ignore[arg-type]
        for name, kind, title in (
            ("fig1", "plane", "Figure 1: areas of vulnerability, on a problem in the plane"),
            ("fig2a", "plane", "Figure 2a: which sub-model learns which data, on a problem in the plane"),
            ("fig2b", "diagram", "Figure 2b: a sub-model of two heads"),
            ("fig3", "diagram", "Figure 3: how the sub-models of a collaboration are optimised"),
            ("fig4", "diagram", "Figure 4: the two phases of training"),
        )
    ),
)
