"""The tables and figures of Squeeze Training (Li et al., ICLR 2023)."""

from __future__ import annotations

from poise.core.papers import SQUEEZE_TRAINING
from poise.recipes.items.item import Item, Line, Picture, add
from poise.recipes.squeeze_training import (
    METHODS,
    SPREAD_1,
    TABLE_1,
    TABLE_3,
    TABLE_5,
    TABLE_6,
    TITLES,
    named,
    published,
)
from poise.recipes.squeeze_training_ablations import DIVERGENCES, FIGURE_6
from poise.recipes.squeeze_training_extra import WITH_EXTRA

TITLE = "Squeeze Training, {}"
ON_DIGITS = {"rst": "rst_digits", "bat_rst": "bat_digits", "gair_rst": "gair_rst_digits", "st_rst": "st_digits"}
"""What stands on digits for the rows with extra images, of which there are none there; weight perturbations with AT's.
"""


def divergent(method: str, divergence: str, beta: float) -> Line:
    """A point of Figure 6."""
    label = f"{METHODS[method]}, {DIVERGENCES[divergence]}"
    digits = f"{method}_digits method.divergence={divergence} method.beta={beta:g}"
    return Line(
        f"{label}, beta {beta:g}", f"{method}_cifar10_resnet18_{divergence}_beta{beta:g}", digits, family=label, x=beta
    )


def normal_and_robust(data: str) -> tuple[Line, ...]:
    """The two networks of the pictures of collaborative examples."""
    return tuple(Line(METHODS[name], named(name, data, "resnet18"), f"{name}_digits") for name in ("nt", "at"))


def of_table_1(data: str) -> Item:
    lines = tuple(
        Line(
            METHODS[method],
            named(method, data, "resnet18"),
            f"{method}_digits" if method != "st_awp" else "",
            f"{TITLES[data]}, {METHODS[method]}",
        )
        for where, method in TABLE_1
        if where == data
    )
    return Item(
        f"st/table1-{data}",
        f"Table 1: {TITLES[data]}, ResNet-18",
        SQUEEZE_TRAINING,
        lines,
        TITLE.format("Table 1"),
        runs=7,
    )


def of_table_6(data: str) -> Item:
    """The paper's rows, of which those of ST are Table 1's again, then the form that the text calls less effective."""
    two = [method for where, method in TABLE_6 if where == data]
    digits = {"trades": "two_trades_digits"}
    lines = [
        Line(f"{METHODS[method]}, two examples", f"two_{method}_{data}_resnet18", digits.get(method, ""))
        for method in two
    ]
    for method, place in (("st", 3), ("st_awp", 5)):
        row = published(
            "Table 6",
            f"{TITLES[data]}, {METHODS[method]}",
            TABLE_1[data, method],
            spread=SPREAD_1[data, method],
            runs=7,
        )
        on_digits = "st_digits" if method == "st" else ""
        lines.insert(place, Line(METHODS[method], named(method, data, "resnet18"), on_digits, instead=row))
    lines += [
        Line(
            f"{METHODS[method]}, the larger of two examples",
            f"two_{method}_{data}_resnet18 method.policy.objective.reduce=max",
            f"{digits[method]} method.policy.objective.reduce=max" if method in digits else "",
        )
        for method in two
    ]
    return Item(
        f"st/table6-{data}",
        f"Table 6: two examples, {TITLES[data]}",
        SQUEEZE_TRAINING,
        tuple(lines),
        TITLE.format("Table 6"),
        runs=7,
    )


POINTS = tuple(
    divergent(method, divergence, beta)
    for method, family in FIGURE_6.items()
    for divergence, betas in family.items()
    for beta in betas
)
add(
    *(of_table_1(data) for data in TITLES),
    Item("st/table2", "Table 2: divergences and their weights", SQUEEZE_TRAINING, POINTS),
    Item(
        "st/table3",
        "Table 3: wide networks on CIFAR-10",
        SQUEEZE_TRAINING,
        tuple(
            Line(
                f"WRN-34-{width}, {METHODS[method]}",
                named(method, "cifar10", f"wrn34-{width}"),
                f"{method}_digits",
                short=METHODS[method],
            )
            for width, method in TABLE_3
        ),
        TITLE.format("Table 3 (CIFAR-10)"),
    ),
    Item(
        "st/table4",
        "Table 4: with 500,000 pseudo-labelled images, WRN-28-10",
        SQUEEZE_TRAINING,
        tuple(
            Line(title, f"{name}_cifar10_wrn28-10", ON_DIGITS.get(name, f"at_{name.partition('_')[0]}_digits"))
            for name, (title, *_) in WITH_EXTRA.items()
        ),
        TITLE.format("Table 4 (CIFAR-10 with 500K, WRN-28-10)"),
    ),
    Item(
        "st/table5",
        "Table 5: natural accuracy and AutoAttack of the baselines",
        SQUEEZE_TRAINING,
        tuple(
            Line(
                f"{model}, {TITLES[data]}, {METHODS[method]}",
                named(method, data, model),
                f"{method}_digits",
                short=METHODS[method],
            )
            for model, data, method in TABLE_5
        ),
        TITLE.format("Table 5"),
    ),
    *(of_table_6(data) for data in TITLES),
    Item(
        "st/appendix-c",
        "Appendix C: the number of inner steps",
        SQUEEZE_TRAINING,
        (
            Line("ST, K = 5", "st_cifar10_resnet18_k5", "st_digits method.inner.steps=3"),
            Line("TRADES, K = 20", "trades_cifar10_resnet18_k20", "trades_digits method.inner.steps=10"),
        ),
        TITLE.format("Appendix C (CIFAR-10, ResNet-18)"),
        runs=7,
    ),
    *(
        Item(
            f"st/fig1-{name}",
            f"Figure 1: cross-entropy of collaborative examples by their budget, {title}",
            SQUEEZE_TRAINING,
            tuple(
                Line(METHODS[method], named(method, data, model), f"{method}_digits")
                for method in ("nt", "at", "trades", "mart")
            ),
            picture=Picture("budget", (), "perturbation budget"),
        )
        for name, title, data, model in (
            ("a", "ResNet-18, CIFAR-10", "cifar10", "resnet18"),
            ("b", "WRN-34-10, CIFAR-10", "cifar10", "wrn34-10"),
            ("c", "ResNet-18, CIFAR-100", "cifar100", "resnet18"),
            ("d", "WRN-34-10, CIFAR-100", "cifar100", "wrn34-10"),
        )
    ),
    Item(
        "st/fig2",
        "Figure 2: a benign image and its collaborative forms for a normal and a robust network",
        SQUEEZE_TRAINING,
        tuple(
            Line(METHODS[method], named(method, "cifar10", "resnet18"), f"{method}_digits") for method in ("nt", "at")
        ),
        picture=Picture("grid", (), images=1),
    ),
    *(
        Item(
            f"st/fig11-{part}",
            f"Figure 11: collaborative examples of a normal and a robust network, {TITLES[data]}",
            SQUEEZE_TRAINING,
            tuple(
                Line(METHODS[method], named(method, data, "resnet18"), f"{method}_digits") for method in ("nt", "at")
            ),
            picture=Picture("grid", (), images=6),
        )
        for part, data in (("a", "cifar10"), ("b", "svhn"), ("c", "cifar100"))
    ),
    Item(
        "st/fig3",
        "Figure 3: loss around an image, along the collaborative direction u and a random one v",
        SQUEEZE_TRAINING,
        tuple(
            Line(METHODS[method], named(method, "cifar100", "resnet18"), f"{method}_digits")
            for method in ("nt", "trades")
        ),
        picture=Picture("surface", (), "u", images=1),
    ),
    Item(
        "st/fig7",
        "Figure 7: angles between adversarial and collaborative perturbations by the number of steps",
        SQUEEZE_TRAINING,
        tuple(
            Line(METHODS[method], named(method, "cifar10", "resnet18"), f"{method}_digits")
            for method in ("nt", "trades")
        ),
        picture=Picture("histogram", (), "angle, degrees"),
    ),
    Item(
        "st/fig4",
        "Figure 4: training with collaborative examples only (Eq. 5)",
        SQUEEZE_TRAINING,
        (
            Line("CIFAR-10", "collaborative_cifar10_resnet18", "collaborative_digits"),
            Line("CIFAR-100", "collaborative_cifar100_resnet18", ""),
        ),
        picture=Picture("curves", (), "epoch", (("accuracy", ("monitor/",)),)),
    ),
    Item(
        "st/fig5",
        "Figure 5: losses of the kinds of examples that TRADES meets in training",
        SQUEEZE_TRAINING,
        (Line("TRADES", "trades_cifar10_resnet18_st", "trades_digits"),),
        picture=Picture(
            "curves", (), "epoch", (("cross-entropy", ("watch/", "loss/")), ("share", ("share/", "ratio/")))
        ),
    ),
    Item(
        "st/fig6",
        "Figure 6: natural against robust accuracy by divergence",
        SQUEEZE_TRAINING,
        POINTS,
        picture=Picture("trade-off"),
    ),
    Item(
        "st/fig8",
        "Figure 8: losses of the kinds of examples that ST meets in training",
        SQUEEZE_TRAINING,
        (Line("ST", "st_cifar10_resnet18", "st_digits"),),
        picture=Picture(
            "curves", (), "epoch", (("cross-entropy", ("watch/", "loss/")), ("share", ("share/", "ratio/")))
        ),
    ),
    *(
        Item(
            f"st/fig{number}",
            f"Figure {number}: accuracies in training, {title}",
            SQUEEZE_TRAINING,
            tuple(Line(label, recipe, digits) for label, recipe, digits in lines),
            picture=Picture("curves", (), "epoch", (("accuracy", ("monitor/",)),)),
        )
        for number, title, lines in (
            (
                9,
                "ResNet-18",
                [(METHODS[m], named(m, "cifar10", "resnet18"), f"{m}_digits") for m in ("at", "trades", "mart", "st")],
            ),
            (
                10,
                "with extra images",
                [("RST", "rst_cifar10_wrn28-10", "rst_digits"), ("ST-RST", "st_rst_cifar10_wrn28-10", "st_digits")],
            ),
        )
    ),
    Item(
        "st/section4.2",
        "Section 4.2: one divergence inside and another outside, which masks gradients",
        SQUEEZE_TRAINING,
        (
            Line("ST, symmetric KL in both", "st_cifar10_resnet18", "st_digits"),
            Line("ST, JS inside", "st_cifar10_resnet18 method.inner_divergence=js", "st_mixed_digits"),
            Line(
                "ST, squared l2 inside",
                "st_cifar10_resnet18 method.inner_divergence=squared_l2",
                "st_digits method.inner_divergence=squared_l2",
            ),
        ),
        sanity=True,
    ),
)
