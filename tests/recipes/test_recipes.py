"""Recipes: all build and survive JSON, their published rows are the papers', and small variants of every family
train.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.synthetic import WRITERS, write_mnist

from poise import recipes as package
from poise.core.batches import Now
from poise.core.errors import Interrupted, RunError, SettingsError
from poise.core.overrides import override
from poise.core.progress import Progress
from poise.core.settings import from_json, to_json
from poise.engine import Experiment, Run, finished, train
from poise.engine.experiment import never_redistributed, remarks
from poise.evaluation import named
from poise.methods import Generalist, Joint
from poise.recipes import experiment, recipes, register
from poise.recipes.rows import cost, forwards, redistributing
from poise.recipes.trades_matched import matched_beta, matched_trades, trades

OURS = ("digits", "mnist_slim", "mnist_smallcnn")
PAPERS = [name for name in recipes() if not any(word in name for word in OURS)]
KNOWN = {
    *("natural", "FGSM", "PGD-20", "PGD-40", "PGD-100", "PGD-40x5", "MIM-20", "CW-100"),
    *("APGD-CE", "APGD-DLR", "APGD-T", "FAB-T", "Square", "AA", "corruptions"),
    *("PGD-50x5", "AdaptivePGD-50x5", "soe-transfer-3", "soe-transfer-30"),
}


def test_there_are_recipes_for_every_table() -> None:
    tables = {experiment(name).published.table for name in PAPERS if experiment(name).published is not None}  # type: ignore[union-attr]
    for wanted in (
        *(
            f"Squeeze Training, {part}"
            for part in ("Table 1", "Table 3 ", "Table 4 ", "Table 5", "Table 6", "Appendix C", "Figure 6")
        ),
        *(
            "Generalist, Table 1 (CIFAR-10, ResNet-18)",
            "Generalist, Table 1 (CIFAR-10, WRN-32-10)",
            "Zipper, Table 2 (MNIST",
        ),
        *(
            "Zipper, Table 2 (SVHN",
            "Zipper, Table 3",
            "Zipper, Table 4",
            "Zipper, Table 5",
            "Zipper, Table 6",
            "Generalist, rebuttal",
        ),
    ):
        assert any(table.startswith(wanted) for table in tables), wanted


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_builds_survives_json_and_has_a_small_variant_and_a_text(name: str) -> None:
    made, quick = experiment(name), experiment(name, quick=True)
    assert made.name == name
    for each in (made, quick):
        assert from_json(Experiment, to_json(each)) == each
    assert quick != made
    assert quick.name == f"{name}_quick"
    assert quick.epochs <= 3
    text = recipes()[name].text
    assert f"Command: poise train {name} " in text
    assert re.search(r"^Cost: .* forwards an image.* epochs", text, re.M)
    assert re.search(r"^Published: \S", text, re.M)
    assert "see the module" not in text
    assert "\n" not in recipes()[name].line


@pytest.mark.parametrize("name", PAPERS)
def test_published_rows_are_whole_and_their_columns_known(name: str) -> None:
    row = experiment(name).published
    if row is None:
        assert "vote_" in name, "every recipe of a paper says where the paper has it"
        assert "no numbers" in recipes()[name].text
        return
    assert row.table
    assert row.row
    if not row.columns:
        assert re.search("no numbers|only the difference", row.note)
        assert row.note in recipes()[name].text
    assert set(row.columns) <= KNOWN
    assert all(value is None or 0 <= value <= 100 for value in row.values)
    if row.columns:
        measured = {attack.name for attack in experiment(name).protocol.attacks}
        own = {column for column in row.columns if column.startswith(("FGSM", "PGD", "MIM", "CW"))}
        assert own & measured or not own, "the protocol measures none of the paper's columns"


@pytest.mark.parametrize("name", PAPERS)
def test_texts_say_the_published_numbers(name: str) -> None:
    row = experiment(name).published
    if row is not None and row.values:
        for column in ("natural", "AA"):
            if column in row.columns and (value := row.values[row.columns.index(column)]) is not None:
                assert f"{value:.2f} {column}" in recipes()[name].line
        robust = [
            value
            for column, value in zip(row.columns, row.values, strict=True)
            if column != "natural" and value is not None
        ]
        if robust and "AA" not in row.columns:
            assert f"{min(robust):.2f} " in recipes()[name].line, (
                "a text praises a weaker attack than the strongest printed"
            )


def test_names_are_unique_and_taken_ones_refused() -> None:
    with pytest.raises(SettingsError, match="'at_digits' already"):
        register("at_digits", "text", lambda quick: experiment("at_digits"))


# recipe, column, value: typed from the papers' tables a second time
PRINTED: tuple[tuple[str, str, float], ...] = (
    ("at_cifar10_resnet18_st", "AA", 47.63),
    ("trades_cifar10_resnet18_st", "natural", 82.41),
    ("mart_cifar10_resnet18_st", "PGD-20", 54.02),
    ("st_cifar10_resnet18", "natural", 83.10),
    ("st_cifar10_resnet18", "FGSM", 59.51),
    ("st_cifar10_resnet18", "CW-100", 51.43),
    ("st_cifar10_resnet18", "AA", 50.50),
    ("trades_awp_cifar10_resnet18_st", "AA", 50.31),
    ("st_awp_cifar10_resnet18", "AA", 51.23),
    ("at_cifar100_resnet18_st", "FGSM", 31.81),
    ("st_cifar100_resnet18", "AA", 25.61),
    ("st_awp_cifar100_resnet18", "PGD-100", 32.16),
    ("at_svhn_resnet18_st", "natural", 89.21),
    ("trades_svhn_resnet18_st", "PGD-20", 54.49),
    ("st_svhn_resnet18", "AA", 50.54),
    ("st_awp_svhn_resnet18", "natural", 90.77),
    ("st_cifar10_wrn34-5", "PGD-20", 57.10),
    ("trades_cifar10_wrn34-5_st", "AA", 51.33),
    ("st_cifar10_wrn34-10", "AA", 53.54),
    ("mart_cifar10_wrn34-10_st", "natural", 84.17),
    ("rst_cifar10_wrn28-10", "PGD-40x5", 62.09),
    ("bat_rst_cifar10_wrn28-10", "natural", 89.61),
    ("gair_rst_cifar10_wrn28-10", "AA", 59.64),
    ("awp_rst_cifar10_wrn28-10", "natural", 88.25),
    ("rwp_rst_cifar10_wrn28-10", "AA", 60.36),
    ("st_rst_cifar10_wrn28-10", "natural", 90.40),
    ("nt_cifar100_wrn34-10_st", "natural", 79.42),
    ("at_cifar10_wrn34-10_st", "AA", 48.31),
    ("mart_cifar100_wrn34-10_st", "natural", 57.99),
    ("two_at_cifar10_resnet18", "FGSM", 57.26),
    ("two_trades_cifar100_resnet18", "PGD-100", 29.42),
    ("two_mart_svhn_resnet18", "AA", 44.78),
    ("two_trades_awp_svhn_resnet18", "CW-100", 54.72),
    ("st_cifar10_resnet18_k5", "AA", 49.52),
    ("trades_cifar10_resnet18_k20", "natural", 81.57),
    ("generalist_cifar10_resnet18", "AA", 46.07),
    ("generalist_cifar10_resnet18_code", "natural", 88.40),
    ("generalist_cifar10_resnet18_code", "AA", 48.03),
    ("iat_cifar10_resnet18_official", "natural", 93.55),
    ("fat_cifar10_resnet18", "AA", 43.14),
    ("iat_cifar10_resnet18", "Square", 49.30),
    ("rst_cifar10_resnet18", "FAB-T", 46.54),
    ("at_cifar10_wrn32-10", "AA", 46.11),
    ("trades_cifar10_wrn32-10", "APGD-DLR", 55.50),
    ("trades1_cifar10_wrn32-10", "PGD-100", 51.65),
    ("generalist_cifar10_wrn32-10", "AA", 52.91),
    ("trades_mnist_resnet18", "natural", 99.07),
    ("fat_mnist_resnet18", "AA", 90.04),
    ("fat_svhn_resnet18", "PGD-20", 53.61),
    ("generalist_svhn_resnet18", "AA", 45.41),
    ("at_half_cifar100_resnet18", "AA", 19.2),
    ("generalist_cifar100_resnet18", "MIM-20", 30.35),
    ("rst_cifar100_resnet18", "APGD-T", 21.66),
    ("at_tinyimagenet_resnet18", "corruptions", 21.93),
    ("trades1_tinyimagenet_resnet18", "Square", 24.55),
    ("generalist_tinyimagenet_resnet18", "natural", 48.1),
    ("at_cifar10_resnet18_l2", "CW-100", 60.77),
    ("generalist_cifar10_resnet18_l2", "AA", 72.1),
    ("trades_matched_cifar10_resnet18", "APGD-CE", 30.20),
    ("gowal2020_cifar10_wrn32-10", "AA", 55.01),
    ("gowal2020_cifar10_wrn32-10_clean90", "PGD-20", 51.28),
)


@pytest.mark.parametrize(("name", "column", "value"), PRINTED)
def test_published_numbers_are_the_papers(name: str, column: str, value: float) -> None:
    row = experiment(name).published
    assert row is not None
    assert row.values[row.columns.index(column)] == value


SPREADS = (
    ("st_cifar10_resnet18", (0.10, 0.22, 0.14, 0.16, 0.09, 0.07), 7),
    ("at_cifar10_resnet18_st", (0.12, 0.17, 0.16, 0.26, 0.24, 0.08), 7),
    ("trades_cifar10_resnet18_k20", (0.14, 0.09), None),
    ("fat_mnist_resnet18", (0.03, 0.1, 0.68), 5),
    ("trades_svhn_resnet18", (0.25, 0.71, 0.37), 5),
    ("mart_cifar10_resnet18_st", (0.17, 0.24, 0.29, 0.30, 0.27, 0.23), 7),
    ("trades_awp_cifar10_resnet18_st", (0.12, 0.14, 0.06, 0.14, 0.12, 0.10), 7),
    ("st_awp_cifar10_resnet18", (0.14, 0.14, 0.13, 0.13, 0.16, 0.12), 7),
    ("at_cifar100_resnet18_st", (0.21, 0.11, 0.11, 0.16, 0.08, 0.04), 7),
    ("trades_cifar100_resnet18_st", (0.15, 0.18, 0.18, 0.20, 0.16, 0.09), 7),
    ("mart_cifar100_resnet18_st", (0.10, 0.26, 0.18, 0.17, 0.11, 0.15), 7),
    ("st_cifar100_resnet18", (0.12, 0.23, 0.13, 0.17, 0.20, 0.07), 7),
    ("trades_awp_cifar100_resnet18_st", (0.07, 0.15, 0.14, 0.12, 0.10, 0.12), 7),
    ("st_awp_cifar100_resnet18", (0.08, 0.14, 0.14, 0.15, 0.11, 0.07), 7),
    ("at_svhn_resnet18_st", (0.27, 0.29, 0.29, 0.27, 0.18, 0.21), 7),
    ("trades_svhn_resnet18_st", (0.20, 0.18, 0.13, 0.15, 0.10, 0.16), 7),
    ("st_svhn_resnet18", (0.15, 0.22, 0.19, 0.22, 0.12, 0.10), 7),
    ("trades_awp_svhn_resnet18_st", (0.21, 0.19, 0.20, 0.22, 0.11, 0.12), 7),
    ("st_awp_svhn_resnet18", (0.19, 0.25, 0.17, 0.20, 0.19, 0.19), 7),
    ("two_trades_cifar10_resnet18", (0.07, None, 0.20, None, 0.29, None), 7),
    ("two_mart_cifar10_resnet18", (0.13, None, 0.27, 0.31, 0.18, None), 7),
    ("two_trades_awp_cifar10_resnet18", (0.07, 0.14, 0.11, None, None, None), 7),
    ("two_at_cifar100_resnet18", (0.11, None, None, 0.21, None, None), 7),
    ("two_trades_cifar100_resnet18", (0.18, 0.10, 0.24, 0.16, 0.31, 0.17), 7),
    ("two_at_svhn_resnet18", (0.15, None, None, None, None, None), 7),
    ("two_trades_svhn_resnet18", (0.13, 0.25, 0.20, 0.26, 0.24, 0.11), 7),
    ("trades_matched_cifar10_resnet18", (0.69, 0.56, 0.81), 5),
)


@pytest.mark.parametrize(("name", "spread", "runs"), SPREADS)
def test_published_spreads_are_the_papers(name: str, spread: tuple[float | None, ...], runs: int | None) -> None:
    row = experiment(name).published
    assert row is not None
    assert (row.spread, row.runs) == (spread, runs)


# -- settings --------------------------------------------------------------------------------------------------------

SETTINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "st_cifar10_resnet18",
        {"epochs": 120, "batch_size": 128, "rate": 0.1, "decay": 5e-4, "beta": 6, "epsilon": 8 / 255, "step": 2 / 255},
    ),
    ("st_cifar100_resnet18", {"beta": 4, "steps": 10}),
    (
        "st_svhn_resnet18",
        {"epochs": 80, "rate": 0.01, "beta": 8, "step": 1 / 255, "augmentation": None, "at": (50, 65)},
    ),
    ("trades_svhn_resnet18_st", {"beta": 6, "step": 1 / 255, "start": "gaussian"}),
    ("mart_cifar10_resnet18_st", {"beta": 5, "at": (80, 100)}),
    (
        "rst_cifar10_wrn28-10",
        {"epochs": 200, "batch_size": 256, "nesterov": True, "epsilon": 0.031, "step": 0.007, "beta": 6, "share": 0.5},
    ),
    ("st_rst_cifar10_wrn28-10", {"start": "unclamped_uniform", "outer_order": "adversarial_first", "epsilon": 0.031}),
    ("awp_rst_cifar10_wrn28-10", {"gamma": 0.005}),
    ("at_cifar10_wrn32-10", {"rate": 0.1, "decay": 7e-4, "values": (1, 1, 0.1, 0.05), "epochs": 120}),
    ("nt_cifar10_wrn32-10", {"rate": 0.1, "decay": 5e-4}),
    ("fat_cifar10_resnet18", {"rate": 0.01, "decay": 3.5e-3, "values": (1, 1, 0.1, 0.01)}),
    ("at_cifar100_resnet18", {"epochs": 200}),
    ("trades1_mnist_resnet18", {"epsilon": 0.3, "step": 0.01, "steps": 40, "augmentation": None, "beta": 1}),
    ("trades_mnist_resnet18", {"epsilon": 0.3, "step": 0.01, "steps": 40, "augmentation": None, "beta": 6}),
    ("trades_svhn_resnet18", {"epsilon": 8 / 255, "step": 2 / 255, "steps": 10, "beta": 6}),
    ("at_cifar10_resnet18_l2", {"epsilon": 128 / 255, "step": 15 / 255}),
    (
        "fat_cifar10_resnet18_official",
        {"rate": 0.1, "decay": 2e-4, "at": (60, 90, 110), "epsilon": 0.031, "step": 0.007},
    ),
    ("trades_awp_cifar10_wrn34-10_official", {"gamma": 0.005, "from_epoch": 10, "epochs": 200}),
    (
        "rst_raghunathan_cifar10_wrn28-10_official",
        {
            "epochs": 200,
            "batch_size": 256,
            "nesterov": True,
            "decay": 5e-4,
            "beta": 0.5,
            "share": 0.5,
            "epsilon": 0.031,
            "step": 0.007,
        },
    ),
    ("mart_cifar10_wrn34-10_official", {"beta": 6, "rate": 0.1, "decay": 7e-4, "epochs": 90, "epsilon": 0.031}),
    ("two_trades_cifar10_wrn34-10", {"beta": 6, "at": (80, 100), "epochs": 120}),
    ("two_rst_cifar10_wrn28-10", {"beta": 6, "batch_size": 256, "nesterov": True, "epochs": 200}),
    ("gowal2020_cifar10_wrn32-10", {"activation": "silu", "average": 0.995, "rate": 0.1, "decay": 7e-4}),
)


def looked_up(made: Experiment) -> dict[str, Any]:
    policy: Any = made.method.policies()["joint"]
    objective = getattr(policy.objective, "objective", policy.objective)
    inner = getattr(objective, "inner", None)
    return {
        "epochs": made.epochs,
        "batch_size": made.method.batch_size,
        "rate": policy.optimizer.learning_rate,
        "decay": policy.optimizer.weight_decay,
        "nesterov": policy.optimizer.nesterov,
        "at": getattr(policy.schedule, "at", None),
        "values": getattr(policy.schedule, "values", None),
        "augmentation": policy.augmentation,
        "share": policy.extra.share if policy.extra else None,
        "gamma": getattr(policy.perturbation, "gamma", None),
        "from_epoch": getattr(policy.perturbation, "from_epoch", None),
        "average": getattr(policy.average, "decay", None),
        "activation": getattr(made.model, "activation", None),
        "beta": getattr(objective, "beta", None),
        "outer_order": getattr(objective, "outer_order", None),
        **(
            {"epsilon": inner.threat.epsilon, "step": inner.step_size, "steps": inner.steps, "start": inner.start}
            if inner
            else {}
        ),
    }


@pytest.mark.parametrize(("name", "wanted"), SETTINGS, ids=[name for name, _ in SETTINGS])
def test_presets_are_the_papers(name: str, wanted: dict[str, Any]) -> None:
    found = looked_up(experiment(name))
    assert {key: found[key] for key in wanted} == wanted


@pytest.mark.parametrize(
    ("learner", "objective", "rate", "decay"), [("natural", "NT", 0.1, 5e-4), ("robust", "AT", 0.01, 3.5e-3)]
)
def test_the_headlines_learners_are_trained_as_generalists_paper_says(
    learner: str, objective: str, rate: float, decay: float
) -> None:
    made: Any = experiment("generalist_cifar10_resnet18")
    policy = made.method.policies()[learner]
    assert type(policy.objective).__name__ == objective and policy.average.decay == 0.999
    optimizer = policy.optimizer
    assert (optimizer.learning_rate, optimizer.momentum, optimizer.weight_decay) == (rate, 0.9, decay)
    assert made.method.gamma.values == (1, 1, 1, 0.5) and made.method.decay == 0.999
    assert made.method.redistribute_from * made.epochs == 75 and (made.epochs, made.method.redistribute_every) == (
        120,
        5,
    )


def test_the_released_code_is_judged_by_its_own_evaluator_and_carries_the_row_of_equal_rates() -> None:
    made: Any = experiment("generalist_cifar10_resnet18_code")
    ablation: Any = experiment("ablation_lr_0.01_0.01_cifar10")
    rates = [policy.optimizer.learning_rate for policy in made.method.policies().values()]
    assert made.protocol == named("zipper-compat").at()
    assert made.published.table == "Zipper, Table 7 (CIFAR-10, ResNet-18)"
    assert made.published.row == "NT={:g}, AT={:g}".format(*rates) == ablation.published.row


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("nt_cifar10_resnet18", 3),
        ("at_cifar10_resnet18", 23),
        ("trades_cifar10_resnet18", 28),
        ("st_cifar10_resnet18", 60),
        ("generalist_cifar10_resnet18", 26),
        ("two_at_cifar10_resnet18", 46),
        ("two_rst_cifar10_wrn28-10", 54),
        ("ablation_c_1_cifar10", 26),
        ("at_adam_digits", 13),
    ],
)
def test_costs_are_counted_in_forwards(name: str, count: int) -> None:
    made = experiment(name)
    assert sum(forwards(policy) for policy in made.method.policies().values()) == count
    assert f"Cost: {count} forwards" in recipes()[name].text


@pytest.mark.parametrize("name", ["nt", "at", "at_half", "trades", "trades1"])
def test_rows_whose_settings_the_paper_leaves_open_say_so(name: str) -> None:
    for model in ("resnet18", "wrn32-10"):
        assert re.search(r"^Settings: .*not state", recipes()[f"{name}_cifar10_{model}"].text, re.M)


def test_an_ablations_cost_is_its_headlines() -> None:
    """Its text is written without building it, which takes long for so many."""
    for name in (name for name in recipes() if name.startswith(("ablation_", "tuned_"))):
        assert f"Cost: {cost(experiment(name))}." in recipes()[name].text


def test_figure_6_has_the_betas_of_the_paper() -> None:
    families = {"trades_cifar10_resnet18_": 18, "st_cifar10_resnet18_": 14}
    for prefix, count in families.items():
        assert len([name for name in recipes() if name.startswith(prefix) and "_beta" in name]) == count
    for name in [name for name in recipes() if name.startswith(tuple(families)) and "_beta" in name]:
        objective: Any = experiment(name).method.policies()["joint"].objective
        assert name.endswith(f"_{objective.divergence}_beta{objective.beta:g}")


GENERALISTS = [name for name in recipes() if isinstance(experiment(name).method, Generalist)]


@pytest.mark.parametrize("name", GENERALISTS)
def test_a_small_generalist_redistributes(name: str) -> None:
    assert remarks(experiment(name, quick=True)) == []


def test_the_small_variant_of_the_idle_recipe_idles() -> None:
    quick: Any = experiment("generalist_cifar10_resnet18_idle", quick=True)
    idle = [
        epoch
        for epoch in range(1, quick.epochs + 1)
        if quick.method.is_idle("natural", Now(epoch, epoch - 1, quick.epochs, 1, 0))
    ]
    assert idle == [1]


@pytest.mark.parametrize(
    ("given", "epochs", "wanted"),
    [
        ((5, 0.625), 2, (2, 0.625)),
        ((2, 0.625), 3, (2, 0.625)),
        ((2, 0.75), 3, (2, 2 / 3)),
        ((15, 1.0), 4, (4, 1.0)),
        ((1, 0.0), 1, (1, 0.0)),
    ],
)
def test_redistribution_is_drawn_into_few_epochs_and_no_further(
    given: tuple[int, float], epochs: int, wanted: tuple[int, float]
) -> None:
    few = redistributing(Generalist(redistribute_every=given[0], redistribute_from=given[1]), epochs)
    assert few == Generalist(redistribute_every=wanted[0], redistribute_from=wanted[1])
    assert never_redistributed(Experiment(method=few, epochs=epochs)) == []
    assert redistributing(Joint(), epochs) == Joint()


# -- the small variants train ----------------------------------------------------------------------------------------


SAMPLE = (
    "at_cifar100_resnet18_st",
    "st_svhn_resnet18",
    "st_awp_cifar10_resnet18",
    "two_trades_cifar10_resnet18",
    "trades_cifar10_wrn34-5_st",
    "rst_cifar10_wrn28-10",
    "gair_rst_cifar10_wrn28-10",
    "rwp_rst_cifar10_wrn28-10",
    "st_rst_cifar10_wrn28-10",
    "collaborative_cifar10_resnet18",
    "fat_cifar10_resnet18",
    "rst_cifar10_resnet18",
    "generalist_cifar10_wrn32-10",
    "trades1_mnist_resnet18",
    "generalist_svhn_resnet18",
    "iat_cifar100_resnet18",
    "generalist_tinyimagenet_resnet18",
    "trades1_cifar10_resnet18_l2",
    "trades_matched_cifar10_resnet18",
    "gowal2020_cifar10_wrn32-10_clean90",
    "gairat_cifar10_wrn32-10_official",
    "bat_cifar10_resnet18_st",
    "at_rwp_cifar10_preactresnet18_official",
    "rst_raghunathan_cifar10_wrn28-10_official",
    "two_rst_cifar10_wrn28-10",
    "two_trades_cifar10_wrn34-5",
)


@pytest.mark.parametrize("name", SAMPLE)
def test_the_small_variant_of_every_family_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """On synthetic files in the official formats; fewer images and steps than `--quick` has, for the test's sake."""
    root = tmp_path / "data"
    root.mkdir()
    monkeypatch.setattr("poise.data.extra.cache_directory", lambda: tmp_path / "cache")
    data = "cifar100" if "cifar100" in name else next(key for key in WRITERS if key in name)
    for write in WRITERS[data]:
        write(root)
    quick: Any = experiment(name, quick=True)
    few: dict[str, Any] = {"train_images": 24, "test_images": 20, "verify": False}
    method: Any = dataclasses.replace(quick.method, batch_size=12)
    changed = dataclasses.replace(quick, data=dataclasses.replace(quick.data, **few), method=method)
    run = train(changed, tmp_path / "run", data_dir=root)
    facts = run.facts("last")
    assert facts["epoch"] == 2
    assert math.isfinite(facts["monitors"]["monitor/natural"])


# -- TRADES at a given natural accuracy ------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [0.88, 0.8991, 0.93])
def test_the_matched_beta_is_found_by_halving(target: float) -> None:
    asked: list[float] = []

    def natural(beta: float) -> float:
        asked.append(beta)
        return 0.94 - 0.07 * beta**0.5

    beta = matched_beta(natural, target, tolerance=0.0005, most=20)
    assert abs(0.94 - 0.07 * beta**0.5 - target) <= 0.0005
    assert len(asked) == len(set(asked)) <= 12


def test_a_noisy_accuracy_ends_at_the_nearest_beta_seen() -> None:
    seen: dict[float, float] = {}

    def natural(beta: float) -> float:
        seen[beta] = 0.95 - 0.1 * beta + 0.004 * math.sin(60 * beta)
        return seen[beta]

    beta = matched_beta(natural, 0.9, tolerance=0, most=4)
    assert len(seen) == 6
    assert abs(seen[beta] - 0.9) == min(abs(value - 0.9) for value in seen.values())


@pytest.mark.parametrize(("target", "low", "high"), [(0.99, 0, 1), (0.5, 0, 1), (0.9, 0.5, 0.5), (0.9, -1, 1)])
def test_accuracies_out_of_reach_are_refused(target: float, low: float, high: float) -> None:
    with pytest.raises(SettingsError, match=r"reaches|must be 0 <= low < high"):
        matched_beta(lambda beta: 0.95 - 0.1 * beta, target, low, high)


def on_digits(beta: float) -> Experiment:
    """TRADES at this beta on so few digits that two epochs take less than a second."""
    made: Any = experiment("trades_digits", quick=True)
    policy = made.method.policy
    policy = dataclasses.replace(policy, objective=dataclasses.replace(policy.objective, beta=beta), average=None)
    data = dataclasses.replace(made.data, train_images=60, test_images=40)
    method = dataclasses.replace(made.method, policy=policy, batch_size=30)
    return dataclasses.replace(made, data=data, method=method, epochs=2, monitors=made.monitors[:1])


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_matched_trades_returns_the_run_nearest_to_the_target_and_takes_finished_runs_as_they_are(
    tmp_path: Path,
) -> None:
    low, high = (train(on_digits(beta), tmp_path / f"beta-{beta:g}") for beta in (0.0, 1.0))
    natural = [run.facts()["monitors"]["monitor/natural"] for run in (low, high)]
    before = contents(tmp_path)
    for target, wanted in ((natural[0] + 0.001, low), (natural[1] - 0.001, high)):
        # whatever the two reach is near enough
        nearest = matched_trades(tmp_path, target, on_digits, tolerance=1, device="cpu")
        assert nearest.path in ([wanted.path] if natural[0] != natural[1] else [low.path, high.path])
    assert contents(tmp_path) == before


def test_matched_trades_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    wanted = train(on_digits(1.0), tmp_path / "unbroken").facts("last")["sha256"]

    class Stops(Progress):
        """Asks to stop in the first epoch of the second run, as ctrl-c does."""

        def epoch(self, epoch: int, epochs: int, numbers: Any) -> None:
            if (tmp_path / "beta-1").exists():
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        matched_trades(tmp_path, 0.5, on_digits, tolerance=1, progress=Stops())
    first = contents(tmp_path / "beta-0")
    assert not finished(Run.open(tmp_path / "beta-1"))
    matched_trades(tmp_path, 0.5, on_digits, tolerance=1)
    assert contents(tmp_path / "beta-0") == first
    assert Run.open(tmp_path / "beta-1").facts("last")["sha256"] == wanted


def test_matched_trades_refuses_runs_of_another_experiment(tmp_path: Path) -> None:
    matched_trades(tmp_path, 0.5, on_digits, tolerance=1)
    other = (
        r"beta-0 was started with other settings \(trades_digits_quick, seed 0\): seed is 0 there and 1 here; take"
        r" another folder"
    )
    with pytest.raises(RunError, match=other):
        matched_trades(tmp_path, 0.5, lambda beta: dataclasses.replace(on_digits(beta), seed=1), tolerance=1)


def test_beta_is_the_only_thing_swept() -> None:
    swept, named = override(trades(0.3), {"method.beta": "0.5"}), trades(0.5)
    assert swept == dataclasses.replace(named, title="TRADES, beta 0.5", published=None)


def test_mnist_is_padded_where_the_recipe_says_so(tmp_path: Path) -> None:
    from poise.data import MNIST

    write_mnist(tmp_path)
    plain, padded = (MNIST(padding=padding, verify=False).load(tmp_path) for padding in (0, 2))
    assert padded.shape == (1, 32, 32)
    assert padded.train.images[:, :, 2:-2, 2:-2].equal(plain.train.images)
    assert int(padded.train.images.sum()) == int(plain.train.images.sum())
    assert padded.train.labels.equal(plain.train.labels)


def test_every_module_of_recipes_registers_its_recipes_on_import() -> None:
    folder = Path(package.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "compared", "evidence", "registry", "rows"}
    assert modules <= set(package.__all__)
