"""Squeeze Training (Li et al. 2023): Appendix C (inner steps, two examples on wide networks), the families of Figure 6,
and Equation 5.
"""

from __future__ import annotations

from typing import Any

from poise.engine.experiment import Experiment, Published
from poise.models import VGG16, Network, ResNet18, WideResNet
from poise.objectives import TRADES, CollaborativeTraining, SqueezeTraining, TwoExamples
from poise.recipes.rows import add
from poise.recipes.squeeze_training import (
    METHODS,
    NATURAL_AND_AA,
    TITLES,
    TRADES_EVALUATION,
    inner,
    published,
    squeezed,
)

# -- Appendix C: the number of inner steps ---------------------------------------------------------------------------

add(
    "st_cifar10_resnet18_k5",
    "Squeeze Training with five inner steps (preset st), ResNet-18 on CIFAR-10",
    lambda: squeezed(
        "cifar10",
        SqueezeTraining(inner=inner("cifar10", steps=5)),
        row=published("Appendix C (CIFAR-10, ResNet-18)", "ST, K = 5", (84.37, 49.52), NATURAL_AND_AA),
    ),
)
add(
    "trades_cifar10_resnet18_k20",
    "TRADES with twenty inner steps (preset st), ResNet-18 on CIFAR-10",
    lambda: squeezed(
        "cifar10",
        TRADES(inner=inner("cifar10", steps=20)),
        row=published(
            "Appendix C (CIFAR-10, ResNet-18)", "TRADES, K = 20", (81.57, 49.76), NATURAL_AND_AA, spread=(0.14, 0.09)
        ),
    ),
)

# -- Appendix C: two adversarial examples on wide networks -----------------------------------------------------------

TWO_NOTE = "only the difference to one example is printed: {natural} natural, {autoattack} AA"
"""No numbers of their own: the appendix says how far TRADES moves."""


def _two(width: int, natural: str, autoattack: str) -> None:
    note = TWO_NOTE.format(natural=natural, autoattack=autoattack)
    row = published("Appendix C (CIFAR-10, wide networks)", f"WRN-34-{width}, TRADES, two examples", (), (), note=note)

    def make() -> Experiment:
        objective = TwoExamples(objective=TRADES(inner=inner("cifar10")))
        return squeezed("cifar10", objective, model=WideResNet(width=width), row=row, protocol=TRADES_EVALUATION)

    line = f"TRADES with the mean over two adversarial examples (preset st), WRN-34-{width} on CIFAR-10"
    add(f"two_trades_cifar10_wrn34-{width}", line, make)


_two(5, "-.02", "-.12")
_two(10, "-.71", "-1.18")

# -- Figure 6: divergences and their weights -------------------------------------------------------------------------

FIGURE_6: dict[str, dict[str, tuple[int, ...]]] = {
    "trades": {
        "kl": (2, 4, 6, 8, 10),
        "squared_l2": (6, 8, 16, 24),
        "js": (16, 24, 32, 48),
        "symmetric_kl": (4, 6, 8, 12, 16),
    },
    "st": {"squared_l2": (2, 3, 4, 6, 8), "js": (6, 8, 12, 16), "symmetric_kl": (2, 4, 6, 8, 10)},
}
DIVERGENCES = {"kl": "KL", "squared_l2": "squared l2", "js": "JS", "symmetric_kl": "symmetric KL"}


def _figure_6(method: str, divergence: str, beta: int) -> None:
    family: Any = TRADES if method == "trades" else SqueezeTraining
    title = f"{METHODS[method]}, {DIVERGENCES[divergence]}, beta {beta}"
    row = Published(
        table="Squeeze Training, Figure 6 (CIFAR-10, ResNet-18)", row=title, note="a plot; no numbers are printed"
    )

    def make() -> Experiment:
        return squeezed("cifar10", family(beta=beta, divergence=divergence, inner=inner("cifar10")), row=row)

    add(f"{method}_cifar10_resnet18_{divergence}_beta{beta}", f"{title} (preset st), ResNet-18 on CIFAR-10", make)


for _method, _family in FIGURE_6.items():
    for _divergence, _betas in _family.items():
        for _beta in _betas:
            _figure_6(_method, _divergence, _beta)

# -- Equation 5: collaborative examples only -------------------------------------------------------------------------


def _collaborative(data: str, name: str, title: str, model: Network, figure: str = "") -> None:
    note = f"{figure}no numbers are printed"
    row = published(f"Equation 5 ({TITLES[data]})", f"{title}, collaborative examples", (), (), note=note)
    line = f"Training with collaborative examples (Eq. 5; preset st), {title} on {TITLES[data]}"
    add(
        f"collaborative_{data}_{name}",
        line,
        lambda: squeezed(data, CollaborativeTraining(), model=model, row=row),
        "beta is not stated; 6",
    )


for _data, _name, _title, _network, _figure in (
    ("cifar10", "resnet18", "ResNet-18", ResNet18(), "Figure 4(a) plots it; "),
    ("cifar100", "resnet18", "ResNet-18", ResNet18(), "Figure 4(b) plots it; "),
    ("cifar10", "vgg16", "VGG-16", VGG16(), ""),
    ("cifar10", "wrn34-10", "WRN-34-10", WideResNet(), ""),
):
    _collaborative(_data, _name, _title, _network, _figure)
