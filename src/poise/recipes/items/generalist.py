"""The tables and figures of Generalist (Wang & Wang, CVPR 2023), of Zipper, its first version, and of that version's
rebuttal.
"""

from __future__ import annotations

import dataclasses

from poise.core.papers import GENERALIST
from poise.recipes.generalist_transfer import TARGETS, TITLES, candidates
from poise.recipes.items.item import Item, Line, Picture, add
from poise.recipes.registry import experiment
from poise.recipes.zipper_baselines import CIFAR100_TABLE, L2_TABLE, MNIST_TABLE, SVHN_TABLE, TINY_TABLE

METHODS = {
    "nt": "NT",
    "at": "AT (beta=1)",
    "at_half": "AT (beta=1/2)",
    "trades": "TRADES (lambda=6)",
    "trades1": "TRADES (lambda=1)",
    "fat": "FAT",
    "iat": "IAT",
    "rst": "RST",
    "generalist": "Generalist",
}
LEARNERS = ("natural", "robust", "global")
SHOWN = ("natural", "PGD-20", "CW-100", "robust")
"""The columns of the figures."""


def rows(where: str, *methods: str) -> tuple[Line, ...]:
    return tuple(Line(METHODS[name], f"{name}_{where}", f"{name}_digits") for name in methods)


def ablated(name: str, label: str = "", **more: str | float) -> Line:
    """A line of an ablation on CIFAR-10, and on digits."""
    return Line(label or name.replace("_", " "), f"ablation_{name}_cifar10", f"ablation_{name}_digits", **more)  # type: ignore[arg-type]


FIRST_PRINT: dict[str, dict[str, dict[str, float]]] = {
    "cifar10_resnet18": {
        "trades": {"APGD-T": 47.93},
        "trades1": {"APGD-T": 40.32, "AA": 40.38},
        "iat": {"AA": 35.14},
        "generalist": {"APGD-T": 45.37},
    },
    "cifar10_wrn32-10": {
        "at": {"FAB-T": 46.11, "AA": 48.17},
        "fat": {"APGD-T": 46.17, "FAB-T": 44.73, "AA": 46.70},
        "iat": {"FAB-T": 43.78, "AA": 43.85},
        "rst": {"APGD-T": 41.52, "AA": 45.78},
    },
}
"""Cells of Table 1 that Zipper, the first version, prints otherwise: AA above its own components in most of them, so
that cells were swapped there.
"""


def both_prints(where: str) -> tuple[Line, ...]:
    """The rows of Table 1, with Zipper's print of those that it prints otherwise."""
    lines = []
    for name, line in zip(METHODS, rows(where, *METHODS), strict=True):
        row_published, cells = experiment(line.recipe).published, FIRST_PRINT[where].get(name)
        if cells is None or row_published is None:
            lines.append(line)
            continue
        values = tuple(
            cells.get(column, value) for column, value in zip(row_published.columns, row_published.values, strict=True)
        )
        note = f"its {' and '.join(cells)} {'are' if len(cells) > 1 else 'is'} printed otherwise in the later version"
        table = row_published.table.replace("Generalist", "Zipper")
        row = dataclasses.replace(row_published, table=table, values=values, note=note, of="")
        lines.append(dataclasses.replace(line, beside=row))
    return tuple(lines)


HEADLINE = Line("Generalist", "generalist_cifar10_resnet18", "generalist_digits")
CIFAR10 = rows("cifar10_resnet18", *METHODS)


def table(name: str, title: str, where: str, printed: str, *methods: str, **more: object) -> Item:
    return Item(f"zipper/{name}", title, GENERALIST, rows(where, *methods), printed, **more)  # type: ignore[arg-type]


def named(line: Line, label: str, **more: str | float | bool) -> Line:
    """The line under the name that it has there, which is its row's too."""
    return dataclasses.replace(line, label=label, row=label, **more)  # type: ignore[arg-type]


def untuned(target: str) -> Item:
    """The choices of gamma and c where they were made, and where they were taken over."""
    source, lines = TARGETS[target], list[Line]()
    for choice, (there, here) in candidates(target).items():
        label, on_digits = choice.replace("_", " "), f"ablation_{choice}_digits"
        digits = "generalist_digits" if choice == "headline" else on_digits
        lines.append(Line(f"{label}, on {source}", there, digits, family="source"))
        lines.append(Line(f"{label}, on {TITLES.get(target, target)}", here, family="target"))
    return Item(
        f"rebuttal/untuned-{target.partition('_')[0]}{'-slim' if target.endswith('slim') else ''}",
        f"Rebuttal to R6: gamma and c chosen on {source}, and taken over on {TITLES.get(target, target)}",
        GENERALIST,
        tuple(lines),
        untuned=True,
        also=("rebuttal/untuned",) if target == "mnist_resnet18" else (),
    )


TABLE_1 = "Generalist, Table 1 (CIFAR-10, {})"
TABLE_7, TABLE_8, TABLE_9 = (f"Zipper, Table {number} (CIFAR-10, ResNet-18)" for number in (7, 8, 9))
add(
    Item(
        "generalist/table1a",
        "Table 1a: CIFAR-10, ResNet-18, Linf 8/255",
        GENERALIST,
        both_prints("cifar10_resnet18"),
        TABLE_1.format("ResNet-18"),
        also=("zipper/table1a",),
    ),
    Item(
        "generalist/table1b",
        "Table 1b: CIFAR-10, WRN-32-10, Linf 8/255",
        GENERALIST,
        both_prints("cifar10_wrn32-10"),
        TABLE_1.format("WRN-32-10"),
        also=("zipper/table1b",),
    ),
    table("table2-mnist", "Table 2: MNIST", "mnist_resnet18", MNIST_TABLE.table, "trades", "fat", "generalist", runs=5),
    table("table2-svhn", "Table 2: SVHN", "svhn_resnet18", SVHN_TABLE.table, "trades", "fat", "generalist", runs=5),
    table("table3", "Table 3: CIFAR-100", "cifar100_resnet18", CIFAR100_TABLE.table, *METHODS),
    table(
        "table4",
        "Table 4: TinyImageNet",
        "tinyimagenet_resnet18",
        TINY_TABLE.table,
        "nt",
        "at",
        "trades1",
        "generalist",
        corruptions=True,
    ),
    table(
        "table5", "Table 5: CIFAR-10, L2 128/255", "cifar10_resnet18_l2", L2_TABLE.table, "at", "trades1", "generalist"
    ),
    Item(
        "zipper/table6",
        "Table 6: time of training",
        GENERALIST,
        (
            Line("TRADES", "trades_matched_cifar10_resnet18", "trades_digits method.beta=0.5", minutes=414),
            named(HEADLINE, "Zipper (Serial)", minutes=397),
            named(HEADLINE, "Zipper (Parallel)", minutes=342, by_learner=True),
        ),
        "Zipper, Table 6 (CIFAR-10, ResNet-18)",
        runs=5,
        minutes=True,
        also=("rebuttal/timing",),
    ),
    Item(
        "zipper/table7",
        "Table 7: learning rates of the natural and the adversarial learner",
        GENERALIST,
        (
            named(HEADLINE, "NT=0.1, AT=0.01"),
            *(
                named(ablated(f"lr_{natural}_{robust}"), f"NT={natural}, AT={robust}")
                for natural, robust in (("0.1", "0.1"), ("0.1", "0.001"), ("0.01", "0.01"), ("0.01", "0.1"))
            ),
        ),
        TABLE_7,
        also=("rebuttal/learning-rates",),
    ),
    Item(
        "zipper/table8",
        "Table 8: without EMA of the global learner",
        GENERALIST,
        (
            named(CIFAR10[4], "TRADES (lambda=1)"),
            named(ablated("no_ema"), "Zipper w/o EMA"),
            named(HEADLINE, "Zipper with EMA"),
        ),
        TABLE_8,
    ),
    Item(
        "zipper/table9",
        "Table 9: further mixing ratios",
        GENERALIST,
        (
            named(HEADLINE, "gamma = (1, 1, 1, 0.5)"),
            named(ablated("gamma_rising"), "gamma = (0.25, 0.5, 0.75, 1)"),
            named(ablated("gamma_late"), "gamma = (0.75, 0.75, 0.75, 1)"),
        ),
        TABLE_9,
    ),
    Item(
        "zipper/fig2-gamma",
        "Figure 2: the mixing ratio gamma",
        GENERALIST,
        (
            ablated("gamma_half", ".5", family="gamma"),
            ablated("gamma_0", "(1, 1, 1, 0)", family="gamma"),
            ablated("gamma_early", "(1, 1, .8, .2)", family="gamma"),
            ablated("gamma_25", "(1, 1, 1, .25)", family="gamma"),
            dataclasses.replace(HEADLINE, label="(1, 1, 1, .5)", family="gamma"),
            ablated("gamma_75", "(1, 1, 1, .75)", family="gamma"),
        ),
        picture=Picture("bars", SHOWN),
    ),
    Item(
        "zipper/fig2",
        "Figure 2: the frequency of communication c",
        GENERALIST,
        tuple(ablated(f"c_{c}", f"c = {c}", family="c", x=float(c)) for c in range(1, 16)),
        picture=Picture("sweep", SHOWN, "c in epochs"),
        also=("zipper/fig2-c",),
    ),
    Item(
        "zipper/fig3a",
        "Figure 3a: averages of the base learners",
        GENERALIST,
        tuple(
            ablated(f"wa_{learner}", label)
            for learner, label in (("none", "none"), ("natural", "NT"), ("robust", "AT"), ("both", "both"))
        ),
        picture=Picture("bars", SHOWN),
        also=("generalist/fig4a-averages",),
    ),
    Item(
        "zipper/fig3b",
        "Figure 3b: optimizers",
        GENERALIST,
        (
            Line("AT, SGD", "at_cifar10_resnet18", "at_digits"),
            Line("AT, Adam", "at_adam_cifar10_resnet18", "at_adam_digits"),
            dataclasses.replace(HEADLINE, label="SGD, SGD"),
            ablated("adam_natural", "Adam, SGD"),
            ablated("adam_robust", "SGD, Adam"),
            ablated("adam_both", "Adam, Adam"),
        ),
        picture=Picture("bars", SHOWN),
    ),
    Item(
        "generalist/fig1",
        "Figure 1: natural against robust accuracy",
        GENERALIST,
        tuple(dataclasses.replace(line, family=line.label.partition(" ")[0]) for line in CIFAR10),
        TABLE_1.format("ResNet-18"),
        Picture("trade-off"),
    ),
    Item(
        "zipper/fig4a",
        "Figure 4a: accuracy by class",
        GENERALIST,
        (CIFAR10[0], CIFAR10[4], CIFAR10[3], CIFAR10[5], CIFAR10[8]),
        picture=Picture("bars", ("natural", "robust"), "class"),
    ),
    *(
        Item(
            f"zipper/{name}",
            title,
            GENERALIST,
            (CIFAR10[3], CIFAR10[5], CIFAR10[8]),
            picture=Picture("grid", (), chosen=chosen),  # type: ignore[arg-type]
        )
        for name, title, chosen in (
            ("fig4b", "Figure 4b: images that TRADES and FAT get wrong and Generalist right", "only the last"),
            ("fig7", "Figure 7: images that Generalist gets wrong and TRADES or FAT right", "not the last"),
        )
    ),
    Item(
        "zipper/fig1",
        "Figure 1: the pipeline",
        GENERALIST,
        (),
        picture=Picture("diagram", ()),
        also=("generalist/fig2", "rebuttal/pipeline"),
    ),
    Item(
        "zipper/fig5",
        "Figure 5: base learners and the global learner in training",
        GENERALIST,
        (Line("Generalist", "generalist_diagnosed_cifar10_resnet18", "generalist_diagnosed_digits"),),
        picture=Picture(
            "curves",
            (),
            "epoch",
            (
                ("accuracy", tuple(f"diagnosis/{who}/{what}" for who in LEARNERS for what in LEARNERS[:2])),
                ("distance", ("diagnosis/distance/",)),
                ("regret", ("regret/tradeoff", "regret/bound")),
            ),
        ),
    ),
    Item(
        "zipper/fig6",
        "Figure 6: t-SNE of what the base learners are attacked with, around redistributions",
        GENERALIST,
        (
            Line(
                "Generalist",
                "generalist_diagnosed_cifar10_resnet18 keep_epochs=79,80,84,85,89,90,94,95,99,100",
                "generalist_diagnosed_digits",
            ),
        ),
        picture=Picture("embedding"),
    ),
    Item(
        "rebuttal/gowal",
        "Generalist beside AT with the settings of Gowal et al. 2020, WRN-32-10",
        GENERALIST,
        (
            Line("AT, settings of Gowal et al.", "gowal2020_cifar10_wrn32-10", "at_digits"),
            Line("the same at 90 % natural accuracy", "gowal2020_cifar10_wrn32-10_clean90", "at_half_digits"),
            Line("Generalist", "generalist_cifar10_wrn32-10", "generalist_digits"),
        ),
        "Generalist, ",
    ),
    Item(
        "theory/regret",
        "Tradeoff regret and the bound of Theorem 1 in training",
        GENERALIST,
        (Line("Generalist", "generalist_diagnosed_cifar10_resnet18", "generalist_diagnosed_digits"),),
        picture=Picture("curves", (), "epoch", (("regret", ("regret/",)),)),
    ),
    Item(
        "theory/meta-gradient",
        "Appendix B.1: how far Equation 12 is from the exact meta-gradient, on quadratics",
        GENERALIST,
        (),
        picture=Picture("sweep", (), "tau"),
    ),
    Item(
        "rebuttal/clustered",
        "Rebuttal to R5: natural images and adversarial ones, embedded together by the features of one network",
        GENERALIST,
        (named(CIFAR10[1], "AT"), named(CIFAR10[0], "NT")),
        picture=Picture("embedding", ("natural", "adversarial")),
    ),
    *(untuned(target) for target in TARGETS),
)
