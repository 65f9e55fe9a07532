"""Which objectives are compared on small data, under what, and which orderings their papers claim.

    python -m experiments.cross_validation objectives            on digits: five folds, three seeds
    python -m experiments.cross_validation objectives_mnist      on MNIST: one seed, AutoAttack on 500 images

The recipes are those of `poise.recipes.compared` on digits and on 10,000 images of MNIST with the slim net.
"""

from __future__ import annotations

from experiments.suites import AUTOATTACK, Claim, Suite
from poise.attacks import AutoAttack
from poise.evaluation import Protocol, strict
from poise.recipes import digits, mnist
from poise.recipes.compared import compared
from poise.reports.statistics import NATURAL, WORST

ROWS = tuple(compared(digits.INNER, digits.EPOCHS, digits.RATE))
OBJECTIVES_DIGITS = tuple(f"{row}_digits" for row in ROWS)
OBJECTIVES_MNIST = tuple(f"{row}_mnist_slim" for row in ROWS)
DIGITS_PROTOCOL = strict(digits.THREAT, step_size=0.02)
DIGITS_SECOND = Protocol(name="autoattack-100", attacks=(AutoAttack(threat=digits.THREAT),), first=100)
"""Of each fold; on all images AutoAttack takes longer than training does."""
MNIST_PROTOCOL = Protocol(name="autoattack-500", attacks=(AutoAttack(threat=mnist.THREAT),), first=500)

GENERALIST_1 = "Generalist, Table 1"
ST_1 = "Squeeze Training, Table 1"
ST_FIGURE_6 = "Squeeze Training, Figure 6"
ORDERINGS: tuple[tuple[str, str, str, str], ...] = (
    # better, worse, column, source
    ("at", "nt", WORST, "Madry et al. 2018"),
    ("nt", "at", NATURAL, GENERALIST_1),
    ("at_half", "at", NATURAL, GENERALIST_1),
    ("at", "at_half", WORST, GENERALIST_1),
    ("trades", "at", WORST, ST_1),
    ("trades", "trades1", WORST, GENERALIST_1),
    ("trades1", "trades", NATURAL, GENERALIST_1),
    ("mart", "at", WORST, f"{ST_1} (PGD-20; not AA)"),
    ("mart", "trades", WORST, f"{ST_1} (PGD-20; not AA)"),
    ("fat", "at", NATURAL, "Zhang et al. 2020; Generalist, Table 1"),
    ("fat_trades", "trades", NATURAL, "Zhang et al. 2020"),
    ("fat_mart", "mart", NATURAL, "Zhang et al. 2020"),
    ("iat", "at", NATURAL, "Lamb et al. 2019; Generalist, Table 1"),
    ("rst", "at", NATURAL, GENERALIST_1),
    ("gairat", "at", WORST, "Zhang et al. 2021 (PGD-20; not AA)"),
    ("bat", "trades", WORST, "Kim et al. 2023"),
    ("n_fgsm", "nt", WORST, "de Jorge et al. 2022"),
    ("fgsm_pgi", "nt", WORST, "Jia et al. 2022"),
    ("free_at", "nt", WORST, "Shafahi et al. 2019"),
    ("rebat", "at", WORST, "Wang et al. 2023 (ReBAT)"),
    ("adr", "at", WORST, "Wu et al. 2024"),
    ("rpat", "at", NATURAL, "Wang & Liu 2025"),
    ("rpat", "at", WORST, "Wang & Liu 2025"),
    ("st", "at", NATURAL, ST_1),
    ("st", "at", WORST, ST_1),
    ("st", "trades", NATURAL, ST_1),
    ("st", "trades", WORST, ST_1),
    ("st", "mart", NATURAL, ST_1),
    ("st", "mart", WORST, ST_1),
    ("st", "two_trades", NATURAL, "Squeeze Training, Tables 1 and 6"),
    ("st", "two_trades", WORST, "Squeeze Training, Tables 1 and 6"),
    ("two_trades", "trades", WORST, "Squeeze Training, Tables 1 and 6"),
    ("st_js", "trades", WORST, ST_FIGURE_6),
    ("st_l2", "trades", WORST, ST_FIGURE_6),
    ("st_mixed", "st", "PGD-20", "Squeeze Training, Section 4.2: gradients are masked"),
    ("st", "st_mixed", WORST, "Squeeze Training, Section 4.2: gradients are masked"),
    ("collaborative", "nt", WORST, "Squeeze Training, Section 3"),
    ("at_awp", "at", WORST, "Wu et al. 2020"),
    ("trades_awp", "trades", WORST, ST_1),
    ("trades", "trades_awp", NATURAL, ST_1),
    ("at_rwp", "at_awp", WORST, "Yu et al. 2022"),
    ("trades_rwp", "trades_awp", WORST, "Squeeze Training, Table 4 (within RST)"),
    ("trades_rwp", "trades_awp", NATURAL, "Squeeze Training, Table 4 (within RST)"),
    *(
        ("generalist", other, NATURAL, GENERALIST_1)
        for other in ("at", "at_half", "trades", "trades1", "fat", "iat", "rst")
    ),
    *(("generalist", other, WORST, GENERALIST_1) for other in ("at", "at_half", "trades1", "fat", "iat", "rst")),
)


def claims(data: str) -> tuple[Claim, ...]:
    """The orderings among the recipes on "digits" or "mnist_slim".

    Under AutoAttack, which is the worst case on MNIST and a column of its own on digits, whatever the papers do not
    except from it.
    """
    found = []
    for better, worse, column, source in ORDERINGS:
        if column == "PGD-20" and data != "digits":  # under AutoAttack alone
            continue
        found.append(Claim(f"{better}_{data}", f"{worse}_{data}", column, source))
        if column == WORST and data == "digits" and "not AA" not in source:
            found.append(Claim(f"{better}_{data}", f"{worse}_{data}", AUTOATTACK, source))
    return tuple(found)


CLAIMS = claims("digits")
SUITE = Suite(
    recipes=OBJECTIVES_DIGITS, baseline="at_digits", protocol=DIGITS_PROTOCOL, second=DIGITS_SECOND, claims=CLAIMS
)
SUITE_MNIST = Suite(
    recipes=OBJECTIVES_MNIST,
    baseline="at_mnist_slim",
    protocol=MNIST_PROTOCOL,
    claims=claims("mnist_slim"),
    folds=1,
    seeds=1,
)
SUITES = {"objectives": lambda out: SUITE, "objectives_mnist": lambda out: SUITE_MNIST}
