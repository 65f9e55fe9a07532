"""Generalist's ablations: one change of settings each, on CIFAR-10 as published and on digits, where they run in
seconds.

Tables and figures are those of Zipper (Generalist's first version). Figures 2, 3 and 4 are plots, so their recipes
carry no numbers; Tables 7, 8 and 9 carry theirs. On digits a factor of 3 in a learning rate stands for the paper's 10,
which would leave networks there at chance.
"""

from __future__ import annotations

import dataclasses
import math

from poise.core.overrides import override
from poise.engine.experiment import Experiment, Published
from poise.learners import Adam
from poise.methods import Joint
from poise.objectives import AT
from poise.recipes.digits import INNER, digits, generalist_digits, policy
from poise.recipes.generalist_cifar10 import (
    AUGMENTATION,
    COLUMNS,
    SCHEDULE,
    cifar10,
    generalist_cifar10_resnet18,
    of_zipper,
    plotted,
    robust,
)
from poise.recipes.registry import Make
from poise.recipes.rows import own, redistributing, register

Pair = tuple[tuple[str, ...], tuple[str, ...]]
"""Settings on CIFAR-10 and on digits."""


@dataclasses.dataclass(frozen=True)
class Ablation:
    """What is changed, in words and in settings; `digits` where the numbers on digits are others than on CIFAR-10."""

    line: str
    cifar10: tuple[str, ...]
    digits: tuple[str, ...] | None = None
    published: Published | None = None
    figure: str = "Algorithm 1, what it leaves open"
    """Where the paper has what has no numbers."""
    on_digits_too: bool = True
    """False where it is nothing of its own on digits, whose learners have no averages."""

    @property
    def on_digits(self) -> tuple[str, ...]:
        return self.cifar10 if self.digits is None else self.digits


def _gamma(*values: float) -> tuple[str, ...]:
    return (f"method.gamma.values={','.join(map(str, values))}",)


def _rates(natural: float, adversarial: float) -> Pair:
    def of(first: float, second: float) -> tuple[str, ...]:
        return (
            f"method.natural.optimizer.learning_rate={first:g}",
            f"method.robust.optimizer.learning_rate={second:g}",
        )

    return of(natural, adversarial), of(
        *(0.05 * 3 ** round(math.log10(ratio)) for ratio in (natural / 0.1, adversarial / 0.01))
    )


def _averages(*learners: str) -> Pair:
    """Own averages on these learners and no others; the headline on CIFAR-10 has them on both, the one on digits on
    neither.
    """
    off = tuple(f"method.{name}.average=none" for name in ("natural", "robust") if name not in learners)
    on = [(f"method.{name}.average=EMA", f"method.{name}.average.decay=0.95") for name in learners]
    return off, tuple(setting for pair in on for setting in pair)


def _adam(*learners: str) -> Pair:
    def of(rate: float) -> tuple[str, ...]:
        pairs = [
            (f"method.{name}.optimizer=Adam", f"method.{name}.optimizer.learning_rate={rate:g}") for name in learners
        ]
        return tuple(setting for pair in pairs for setting in pair)

    return of(1e-4), of(1e-3)


RATES = ("natural", "AA")
UNDECAYED = ", Adam without weight decay, of which the paper says nothing"
GAMMA, AVERAGES, OPTIMIZERS = "Figure 2", "Figure 3a", "Figure 3b"
NO_EMA = (
    "alpha' = 0, and all else unchanged: the learners' own averages are what is mixed. The row is inconsistent: AA lies"
    " above APGD-T"
)

ABLATIONS: dict[str, Ablation] = {
    # the mixing ratio: Figure 2 and Table 9
    "gamma_half": Ablation(
        "gamma = .5 throughout (Fig. 2)", ("method.gamma=Constant", "method.gamma.at=0.5"), figure=GAMMA
    ),
    "gamma_0": Ablation("gamma (1, 1, 1, 0), the text's best (Fig. 2)", _gamma(1, 1, 1, 0), figure=GAMMA),
    "gamma_25": Ablation(
        "gamma (1, 1, 1, .25): the sweep of the last breakpoint (Fig. 2)", _gamma(1, 1, 1, 0.25), figure=GAMMA
    ),
    "gamma_40": Ablation("gamma (1, 1, 1, .4), the released code's", _gamma(1, 1, 1, 0.4)),
    "gamma_75": Ablation(
        "gamma (1, 1, 1, .75): the sweep of the last breakpoint (Fig. 2)", _gamma(1, 1, 1, 0.75), figure=GAMMA
    ),
    "gamma_early": Ablation("gamma (1, 1, .8, .2) (Fig. 2)", _gamma(1, 1, 0.8, 0.2), figure=GAMMA),
    "gamma_rising": Ablation(
        "gamma (.25, .5, .75, 1) (Table 9)",
        _gamma(0.25, 0.5, 0.75, 1),
        published=of_zipper(
            9,
            "gamma = (0.25, 0.5, 0.75, 1)",
            COLUMNS,
            85.33,
            52.48,
            52.46,
            54.26,
            52.16,
            49.64,
            50.76,
            47.85,
            48.49,
            57.49,
            47.58,
        ),
    ),
    "gamma_late": Ablation(
        "gamma (.75, .75, .75, 1) (Table 9)",
        _gamma(0.75, 0.75, 0.75, 1),
        published=of_zipper(
            9,
            "gamma = (0.75, 0.75, 0.75, 1)",
            COLUMNS,
            86.01,
            52.56,
            52.50,
            54.54,
            52.32,
            49.56,
            50.98,
            47.80,
            48.73,
            57.62,
            47.15,
        ),
    ),
    # the frequency of redistribution: Figure 2
    **{
        f"c_{c}": Ablation(
            f"redistribution every {c} epochs (Fig. 2)", (f"method.redistribute_every={c}",), figure=GAMMA
        )
        for c in range(1, 16)
    },
    # when redistribution begins: t'
    **{
        f"from_{percent}": Ablation(
            f"redistribution from {percent} % of training on", (f"method.redistribute_from={percent / 100}",)
        )
        for percent in (0, 25, 50, 75)
    },
    # how it is done
    "never": Ablation("no redistribution: the global learner only averages", ("method.redistribute=never",)),
    "every_step": Ablation(
        "redistribution after every step of its epochs, as released", ("method.redistribute=every_step",)
    ),
    "after_first_step": Ablation(
        "redistribution after the first step of its epochs", ("method.redistribute=after_first_step",)
    ),
    "momentum_reset": Ablation("redistribution resets the optimizers' momentum", ("method.momentum=reset",)),
    "averages_reset": Ablation(
        "own averages on both learners, reset by redistribution",
        ("method.averages=reset",),
        (*_averages("natural", "robust")[1], "method.averages=reset"),
    ),
    "buffers": Ablation(
        "BatchNorm statistics of the deployed network estimated anew instead of mixed",
        ("reestimate=10240",),
        ("reestimate=1280",),
    ),
    # averages: Figure 3a (of base learners) and Table 8 (of the global one)
    "wa_none": Ablation("no own average on either learner (Fig. 3a)", *_averages(), figure=AVERAGES),
    "wa_natural": Ablation("own average on the natural learner only (Fig. 3a)", *_averages("natural"), figure=AVERAGES),
    "wa_robust": Ablation("own average on the robust learner only (Fig. 3a)", *_averages("robust"), figure=AVERAGES),
    "wa_both": Ablation("own averages on both learners (Fig. 3a)", *_averages("natural", "robust"), figure=AVERAGES),
    "no_ema": Ablation(
        "no EMA of the global learner: alpha' = 0 (Table 8)",
        ("method.decay=0",),
        published=of_zipper(
            8,
            "Zipper w/o EMA",
            COLUMNS,
            88.33,
            49.13,
            49.14,
            51.68,
            49.80,
            45.36,
            47.88,
            44.25,
            45.24,
            55.89,
            44.91,
            note=NO_EMA,
        ),
    ),
    "no_average": Ablation(
        "the mix of raw weights, no average of any learner",
        ("method.decay=0", *_averages()[0]),
        on_digits_too=False,
    ),
    # learning rates of the natural and the robust learner: Table 7 (its first row is the headline)
    "lr_0.1_0.1": Ablation(
        "learning rates .1 and .1 (Table 7)",
        *_rates(0.1, 0.1),
        published=of_zipper(7, "NT=0.1, AT=0.1", RATES, 90.12, 41.86),
    ),
    "lr_0.1_0.001": Ablation(
        "learning rates .1 and .001 (Table 7)",
        *_rates(0.1, 0.001),
        published=of_zipper(7, "NT=0.1, AT=0.001", RATES, 90.45, 43.55),
    ),
    "lr_0.01_0.01": Ablation(
        "learning rates .01 and .01 (Table 7)",
        *_rates(0.01, 0.01),
        published=of_zipper(7, "NT=0.01, AT=0.01", RATES, 88.40, 48.03),
    ),
    "lr_0.01_0.1": Ablation(
        "learning rates .01 and .1 (Table 7)",
        *_rates(0.01, 0.1),
        published=of_zipper(7, "NT=0.01, AT=0.1", RATES, 88.25, 42.98),
    ),
    # optimizers: Figure 3b (the pair of two SGDs is the headline)
    "adam_natural": Ablation(
        f"Adam for the natural learner, SGD for the robust one{UNDECAYED} (Fig. 3b)",
        *_adam("natural"),
        figure=OPTIMIZERS,
    ),
    "adam_robust": Ablation(
        f"SGD for the natural learner, Adam for the robust one{UNDECAYED} (Fig. 3b)",
        *_adam("robust"),
        figure=OPTIMIZERS,
    ),
    "adam_both": Ablation(
        f"Adam for both learners{UNDECAYED} (Fig. 3b)", *_adam("natural", "robust"), figure=OPTIMIZERS
    ),
}


def _named(made: Experiment, name: str, title: str, quick: bool) -> Experiment:
    if quick:
        made = dataclasses.replace(made, method=redistributing(made.method, made.epochs))
    return dataclasses.replace(made, name=f"{name}_quick" if quick else name, title=title)


def _register(name: str, line: str, where: str, build: Make) -> None:
    """A recipe whose text says what is changed, beside how it is run, its cost and what was published."""
    register(
        name, f"Generalist on {where}, {line}", lambda quick: _named(build(quick), name, f"Generalist: {line}", quick)
    )


def _with_row(made: Experiment, ablation: Ablation) -> Experiment:
    """The experiment with the ablation's row."""
    return dataclasses.replace(
        made, published=ablation.published or plotted(ablation.figure, ablation.line), also_published=()
    )


def _on_cifar10(ablation: Ablation) -> Make:
    return lambda quick: _with_row(override(generalist_cifar10_resnet18(quick), list(ablation.cifar10)), ablation)


def _on_digits(ablation: Ablation) -> Make:
    return lambda quick: override(generalist_digits(quick), list(ablation.on_digits))


for _name, _ablation in ABLATIONS.items():
    if _ablation.on_digits_too:
        _register(f"ablation_{_name}_digits", _ablation.line, "digits", _on_digits(_ablation))
    _register(f"ablation_{_name}_cifar10", _ablation.line, "CIFAR-10 (ResNet-18)", _on_cifar10(_ablation))


def at_adam_digits(quick: bool) -> Experiment:
    """The joint baseline of Fig. 3b on digits."""
    adam = dataclasses.replace(policy(AT(inner=INNER)), optimizer=Adam(learning_rate=1e-3))
    return digits("at_adam_digits", "AT, Adam", Joint(policy=adam), quick)


def at_adam_cifar10_resnet18(quick: bool) -> Experiment:
    """The joint baseline of Fig. 3b."""
    adam = dataclasses.replace(
        robust(AT()), optimizer=Adam(learning_rate=1e-4), schedule=SCHEDULE, augmentation=AUGMENTATION
    )
    return cifar10("at_adam_cifar10_resnet18", Joint(policy=adam), plotted(OPTIMIZERS, "AT by Adam"), quick)


own(
    at_adam_digits,
    f"Adversarial training by Adam on digits: the joint baseline of Fig. 3b (by SGD: at_digits){UNDECAYED}",
)
own(
    at_adam_cifar10_resnet18,
    "Adversarial training by Adam, ResNet-18 on CIFAR-10: the joint baseline of Fig. 3b (by SGD:"
    f" at_cifar10_resnet18){UNDECAYED}",
)
