"""Squeeze Training (Li et al. 2023): the rows of its Tables 1, 3, 5 and 6.

Preset: ResNet-18, SGD .9 with weight decay 5e-4, batches of 128, 120 epochs at .1 with drops at epochs 80 and 100,
epsilon 8/255, ten inner steps of 2/255; SVHN: 80 epochs at .01, drops at 50 and 65, inner steps of 1/255, no
augmentation. The best epoch is chosen by PGD-20 on the test set (SVHN: its first 10,000 images), as in the paper.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from poise.attacks import PGD, Ascent
from poise.data import CIFAR10, CIFAR100, SVHN, CropFlip, DataSource
from poise.engine.experiment import Experiment, Monitor, Published
from poise.evaluation import Protocol, plus_autoattack
from poise.evaluation import named as protocol_named
from poise.learners import AWP, SGD, Policy, Step, WeightPerturbation
from poise.methods import Joint
from poise.models import Network, ResNet18, WideResNet
from poise.objectives import AT, MART, NT, TRADES, Objective, SqueezeTraining, TwoExamples
from poise.recipes.registry import recipes
from poise.recipes.rows import add

Values = tuple[float | None, ...]
COLUMNS = ("natural", "FGSM", "PGD-20", "PGD-100", "CW-100", "AA")
PROTOCOL = protocol_named("squeeze").at()
TRADES_EVALUATION = plus_autoattack(protocol_named("pgd-trades").at())
AWP_005 = AWP(gamma=0.005, from_epoch=10)
DATA: dict[str, DataSource] = {"cifar10": CIFAR10(), "cifar100": CIFAR100(), "svhn": SVHN()}
TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "svhn": "SVHN"}
BETA = {"cifar10": 6.0, "cifar100": 4.0, "svhn": 8.0}
"""Of Squeeze Training; TRADES keeps 6 and MART 5."""


def inner(data: str, start: str = "gaussian", steps: int = 10) -> Ascent:
    return Ascent(step_size=1 / 255 if data == "svhn" else 2 / 255, steps=steps, start=start)  # type: ignore[arg-type]


def objectives(data: str) -> dict[str, Objective]:
    """The objectives of Table 1 by the method's name."""
    return {
        "nt": NT(),
        "at": AT(inner=inner(data, "uniform")),
        "trades": TRADES(inner=inner(data)),
        "mart": MART(inner=inner(data)),
        "st": SqueezeTraining(beta=BETA[data], inner=inner(data)),
        "trades_awp": TRADES(inner=inner(data), outer_order="adversarial_first"),
        "st_awp": SqueezeTraining(beta=BETA[data], inner=inner(data)),
    }


def policy(data: str, objective: Objective, perturbation: WeightPerturbation | None = None) -> Policy:
    if data == "svhn":
        optimizer, schedule = SGD(learning_rate=0.01), Step(at=(50, 65), factors=(0.1, 0.01))
    else:
        optimizer, schedule = SGD(learning_rate=0.1), Step(at=(80, 100), factors=(0.1, 0.01))
    augmentation = None if data == "svhn" else CropFlip()
    return Policy(
        objective=objective,
        optimizer=optimizer,
        schedule=schedule,
        perturbation=perturbation,
        augmentation=augmentation,
    )


def squeezed(
    data: str,
    objective: Objective,
    perturbation: WeightPerturbation | None = None,
    model: Network | None = None,
    row: Published | None = None,
    protocol: Protocol = PROTOCOL,
    also: tuple[Published, ...] = (),
) -> Experiment:
    """The paper's preset around an objective. also: rows of further tables."""
    select = Monitor(name="PGD-20", attack=PGD(), first=10_000 if data == "svhn" else None)
    return Experiment(
        data=DATA[data],
        model=model or ResNet18(),
        method=Joint(policy=policy(data, objective, perturbation)),
        epochs=80 if data == "svhn" else 120,
        selection="test",
        criterion="robust",
        monitors=(Monitor(first=select.first), select),
        protocol=protocol,
        published=row,
        also_published=also,
    )


def published(table: str, row: str, values: Values, columns: tuple[str, ...] = COLUMNS, **more: Any) -> Published:
    """A row; what the paper prints after its numbers are intervals of 7 runs."""
    interval: dict[str, Any] = {"plus_minus": "95 % interval"} if "spread" in more else {}
    return Published(table=f"Squeeze Training, {table}", row=row, columns=columns, values=values, **interval, **more)


METHODS = {
    "nt": "Natural training",
    "at": "Adversarial training",
    "trades": "TRADES",
    "mart": "MART",
    "st": "Squeeze Training",
    "trades_awp": "TRADES with AWP",
    "st_awp": "Squeeze Training with AWP",
}
AWP_NOTE = "gamma and first epoch of AWP are not stated; as for TRADES-AWP: .005, from epoch 10"


def named(method: str, data: str, model: str) -> str:
    """at_cifar10_resnet18_st, ...: methods of other papers carry the preset's name."""
    return f"{method}_{data}_{model}" + ("" if method.startswith("st") else "_st")


# -- Table 5: natural accuracy and AA of the baselines ---------------------------------------------------------------

NATURAL_AND_AA = ("natural", "AA")
TABLE_5: dict[tuple[str, str, str], Values] = {
    ("resnet18", "cifar10", "nt"): (95.09, 0.0),
    ("resnet18", "cifar10", "at"): (82.66, 47.62),
    ("resnet18", "cifar10", "trades"): (82.51, 49.18),
    ("resnet18", "cifar10", "mart"): (81.15, 47.28),
    ("resnet18", "cifar100", "nt"): (76.33, 0.0),
    ("resnet18", "cifar100", "at"): (57.72, 24.67),
    ("resnet18", "cifar100", "trades"): (57.99, 24.58),
    ("resnet18", "cifar100", "mart"): (55.28, 25.15),
    ("wrn34-10", "cifar10", "nt"): (95.28, 0.0),
    ("wrn34-10", "cifar10", "at"): (86.90, 48.31),
    ("wrn34-10", "cifar10", "trades"): (84.80, 52.94),
    ("wrn34-10", "cifar10", "mart"): (83.62, 50.93),
    ("wrn34-10", "cifar100", "nt"): (79.42, 0.0),
    ("wrn34-10", "cifar100", "at"): (61.82, 25.39),
    ("wrn34-10", "cifar100", "trades"): (57.10, 26.76),
    ("wrn34-10", "cifar100", "mart"): (57.99, 27.12),
}
NETWORKS: dict[str, tuple[str, Network]] = {
    "resnet18": ("ResNet-18", ResNet18()),
    "wrn34-10": ("WRN-34-10", WideResNet()),
}


def in_table_5(model: str, data: str, method: str) -> tuple[Published, ...]:
    """The row of Table 5, which prints runs of Tables 1 and 3 again, most with other numbers; none where it has no such
    row.
    """
    values = TABLE_5.get((model, data, method))
    if values is None:
        return ()
    return (published("Table 5", f"{NETWORKS[model][0]}, {TITLES[data]}, {METHODS[method]}", values, NATURAL_AND_AA),)


# -- Table 1 ---------------------------------------------------------------------------------------------------------

TABLE_1: dict[tuple[str, str], Values] = {
    ("cifar10", "at"): (82.78, 56.94, 51.30, 50.88, 49.72, 47.63),
    ("cifar10", "trades"): (82.41, 58.47, 52.76, 52.47, 50.43, 49.37),
    ("cifar10", "mart"): (80.70, 58.91, 54.02, 53.58, 49.35, 47.49),
    ("cifar10", "st"): (83.10, 59.51, 54.62, 54.39, 51.43, 50.50),
    ("cifar10", "trades_awp"): (81.16, 57.86, 54.56, 54.45, 50.95, 50.31),
    ("cifar10", "st_awp"): (82.53, 59.73, 55.56, 55.47, 52.05, 51.23),
    ("cifar100", "at"): (57.27, 31.81, 28.66, 28.49, 26.89, 24.60),
    ("cifar100", "trades"): (57.94, 32.37, 29.25, 29.10, 25.88, 24.71),
    ("cifar100", "mart"): (55.03, 33.12, 30.32, 30.20, 26.60, 25.13),
    ("cifar100", "st"): (58.44, 33.35, 30.53, 30.39, 26.70, 25.61),
    ("cifar100", "trades_awp"): (58.76, 33.82, 31.53, 31.42, 27.03, 26.06),
    ("cifar100", "st_awp"): (59.06, 34.50, 32.22, 32.16, 27.83, 26.86),
    ("svhn", "at"): (89.21, 59.81, 51.18, 50.35, 48.39, 45.96),
    ("svhn", "trades"): (90.20, 66.40, 54.49, 54.18, 52.09, 49.51),
    ("svhn", "mart"): (88.70, 64.16, 54.70, 54.13, 46.95, 44.98),
    ("svhn", "st"): (90.68, 66.68, 56.35, 56.00, 52.57, 50.54),
    ("svhn", "trades_awp"): (89.80, 66.30, 59.01, 58.63, 54.72, 52.54),
    ("svhn", "st_awp"): (90.77, 67.77, 59.95, 59.76, 55.26, 53.37),
}
UNREADABLE: Values = (None,) * len(COLUMNS)
"""The intervals of a row, which are printed in every one."""
SPREAD_1: dict[tuple[str, str], Values] = {
    ("cifar10", "at"): (0.12, 0.17, 0.16, 0.26, 0.24, 0.08),
    ("cifar10", "trades"): (0.12, 0.19, 0.08, 0.13, 0.17, 0.08),
    ("cifar10", "mart"): (0.17, 0.24, 0.29, 0.30, 0.27, 0.23),
    ("cifar10", "st"): (0.10, 0.22, 0.14, 0.16, 0.09, 0.07),
    ("cifar10", "trades_awp"): (0.12, 0.14, 0.06, 0.14, 0.12, 0.10),
    ("cifar10", "st_awp"): (0.14, 0.14, 0.13, 0.13, 0.16, 0.12),
    ("cifar100", "at"): (0.21, 0.11, 0.11, 0.16, 0.08, 0.04),
    ("cifar100", "trades"): (0.15, 0.18, 0.18, 0.20, 0.16, 0.09),
    ("cifar100", "mart"): (0.10, 0.26, 0.18, 0.17, 0.11, 0.15),
    ("cifar100", "st"): (0.12, 0.23, 0.13, 0.17, 0.20, 0.07),
    ("cifar100", "trades_awp"): (0.07, 0.15, 0.14, 0.12, 0.10, 0.12),
    ("cifar100", "st_awp"): (0.08, 0.14, 0.14, 0.15, 0.11, 0.07),
    ("svhn", "at"): (0.27, 0.29, 0.29, 0.27, 0.18, 0.21),
    ("svhn", "trades"): (0.20, 0.18, 0.13, 0.15, 0.10, 0.16),
    ("svhn", "mart"): UNREADABLE,
    ("svhn", "st"): (0.15, 0.22, 0.19, 0.22, 0.12, 0.10),
    ("svhn", "trades_awp"): (0.21, 0.19, 0.20, 0.22, 0.11, 0.12),
    ("svhn", "st_awp"): (0.19, 0.25, 0.17, 0.20, 0.19, 0.19),
}
"""95 % intervals of 7 runs."""
DOUBTFUL = {
    ("cifar100", "at"): "the natural accuracy is hard to read in print",
    ("cifar100", "trades_awp"): "the natural accuracy is hard to read in print: 58.76 or 58.70",
    ("svhn", "mart"): "PGD-100, CW and AA are hard to read in print, the intervals not at all",
    ("cifar10", "mart"): "hard to read in print",
}


def _table_1(data: str, method: str, values: Values) -> None:
    more: dict[str, Any] = {"spread": SPREAD_1[data, method], "runs": 7, "note": DOUBTFUL.get((data, method), "")}
    row = published("Table 1", f"{TITLES[data]}, {METHODS[method]}", values, **more)
    perturbation = AWP_005 if method.endswith("awp") else None

    def make() -> Experiment:
        return squeezed(
            data, objectives(data)[method], perturbation, row=row, also=in_table_5("resnet18", data, method)
        )

    note = AWP_NOTE if perturbation is not None else ""
    add(named(method, data, "resnet18"), f"{METHODS[method]} (preset st), ResNet-18 on {TITLES[data]}", make, note)


for (_data, _method), _values in TABLE_1.items():
    _table_1(_data, _method, _values)

# -- Table 6: two adversarial examples -------------------------------------------------------------------------------

TABLE_6: dict[tuple[str, str], Values] = {
    ("cifar10", "at"): (82.72, 57.26, 51.51, 50.93, 49.91, 47.56),
    ("cifar10", "trades"): (82.59, 58.77, 53.25, 52.96, 51.03, 49.47),
    ("cifar10", "mart"): (80.27, 58.86, None, 54.16, 49.48, 47.61),
    ("cifar10", "trades_awp"): (81.43, 58.59, 55.13, 54.99, 51.64, 50.50),
    ("cifar100", "at"): (56.57, 31.71, 28.52, 28.27, 27.11, 24.64),
    ("cifar100", "trades"): (57.99, 32.18, 29.99, 29.42, 25.90, 24.77),
    ("cifar100", "mart"): (55.06, 32.40, 30.52, 30.17, 26.42, 24.92),
    ("cifar100", "trades_awp"): (58.86, 34.11, 31.55, 31.64, 27.07, 26.17),
    ("svhn", "at"): (87.39, 58.66, 50.35, 49.44, 46.45, 44.26),
    ("svhn", "trades"): (88.16, 63.23, 55.06, 54.54, 51.00, 48.81),
    ("svhn", "mart"): (86.72, 62.23, 55.08, 54.43, 46.77, 44.78),
    ("svhn", "trades_awp"): (90.32, 67.55, 58.67, 58.35, 54.72, 52.67),
}
SPREAD_6: dict[tuple[str, str], Values] = {
    ("cifar10", "at"): UNREADABLE,
    ("cifar10", "trades"): (0.07, None, 0.20, None, 0.29, None),
    ("cifar10", "mart"): (0.13, None, 0.27, 0.31, 0.18, None),
    ("cifar10", "trades_awp"): (0.07, 0.14, 0.11, None, None, None),
    ("cifar100", "at"): (0.11, None, None, 0.21, None, None),
    ("cifar100", "trades"): (0.18, 0.10, 0.24, 0.16, 0.31, 0.17),
    ("cifar100", "mart"): UNREADABLE,
    ("cifar100", "trades_awp"): UNREADABLE,
    ("svhn", "at"): (0.15, None, None, None, None, None),
    ("svhn", "trades"): (0.13, 0.25, 0.20, 0.26, 0.24, 0.11),
    ("svhn", "mart"): UNREADABLE,
    ("svhn", "trades_awp"): UNREADABLE,
}
"""95 % intervals of 7 runs, as far as they can be read."""
DOUBTFUL_6 = {("cifar10", "mart"): "PGD-20 cannot be read in print", ("cifar100", "at"): "CW is hard to read in print"}


def _table_6(data: str, method: str, values: Values) -> None:
    more: dict[str, Any] = {"spread": SPREAD_6[data, method], "runs": 7, "note": DOUBTFUL_6.get((data, method), "")}
    row = published("Table 6", f"{TITLES[data]}, {METHODS[method]}, two examples", values, **more)

    def make() -> Experiment:
        objective = TwoExamples(objective=objectives(data)[method])  # type: ignore[arg-type]
        return squeezed(data, objective, AWP_005 if method.endswith("awp") else None, row=row)

    line = f"{METHODS[method]} with the mean over two adversarial examples (preset st), ResNet-18 on {TITLES[data]}"
    add(f"two_{method}_{data}_resnet18", line, make, AWP_NOTE if method.endswith("awp") else "")


for (_data, _method), _values in TABLE_6.items():
    _table_6(_data, _method, _values)

# -- Table 3: wide networks, evaluated as TRADES does ----------------------------------------------------------------

SHORT = ("natural", "PGD-20", "AA")
TABLE_3: dict[tuple[int, str], Values] = {
    (5, "trades"): (83.11, 55.78, 51.33),
    (5, "st"): (83.14, 57.10, 52.21),
    (10, "trades"): (84.80, 56.65, 52.94),
    (10, "mart"): (84.17, None, 51.10),
    (10, "st"): (84.92, 57.73, 53.54),
}


def _table_3(width: int, method: str, values: Values) -> None:
    note = "PGD-20 as TRADES evaluates: 20 steps of .003, epsilon .031"
    row = published("Table 3 (CIFAR-10)", f"WRN-34-{width}, {METHODS[method]}", values, SHORT, note=note)

    def make() -> Experiment:
        objective, model, also = (
            objectives("cifar10")[method],
            WideResNet(width=width),
            in_table_5(f"wrn34-{width}", "cifar10", method),
        )
        return squeezed("cifar10", objective, model=model, row=row, also=also, protocol=TRADES_EVALUATION)

    add(named(method, "cifar10", f"wrn34-{width}"), f"{METHODS[method]} (preset st), WRN-34-{width} on CIFAR-10", make)


for (_width, _method), _values in TABLE_3.items():
    _table_3(_width, _method, _values)

# -- Table 5: what Tables 1 and 3 do not have -------------------------------------------------------------------------


def _table_5(model: str, data: str, method: str) -> None:
    title, network = NETWORKS[model]
    (row,) = in_table_5(model, data, method)

    def make() -> Experiment:
        experiment = squeezed(data, objectives(data)[method], model=network, row=row)
        return dataclasses.replace(experiment, criterion="sum") if method == "nt" else experiment

    note = (
        "settings of natural training are not stated; the preset's without attack, best natural accuracy"
        if method == "nt"
        else ""
    )
    add(named(method, data, model), f"{METHODS[method]} (preset st), {title} on {TITLES[data]}", make, note)


for _model, _data, _method in TABLE_5:
    if named(_method, _data, _model) not in recipes():
        _table_5(_model, _data, _method)

# -- Figure 11: natural training on SVHN ------------------------------------------------------------------------------


def _natural_svhn() -> Experiment:
    row = published("Figure 11 (SVHN, ResNet-18)", METHODS["nt"], (), (), note="a picture; no numbers are printed")
    return dataclasses.replace(squeezed("svhn", objectives("svhn")["nt"], row=row), criterion="sum")


add(
    named("nt", "svhn", "resnet18"),
    f"{METHODS['nt']} (preset st), ResNet-18 on {TITLES['svhn']}",
    _natural_svhn,
    "settings of natural training are not stated; the preset's without attack, best natural accuracy",
)
