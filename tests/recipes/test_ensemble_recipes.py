"""Recipes of Synergy-of-Experts and the ensembles: rows typed a second time, settings, small variants that train, gains
per expert.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from poise.core.errors import SettingsError
from poise.core.records import AttackRecord, EvaluationRecord
from poise.core.settings import to_json
from poise.engine import train
from poise.models import Collaboration
from poise.objectives import SynergyOfExperts
from poise.recipes import experiment, recipes
from poise.recipes.digits import INNER
from poise.recipes.ensembles_cifar10 import EPSILONS
from poise.recipes.ensembles_digits import BENCHMARK
from poise.recipes.synergy_of_experts import VARIANTS, gained, gains, growing, soe

# recipe, natural, PGD-50x5, adaptive, 3 variants, 30 variants: typed from the paper's tables a second time
PRINTED = (
    ("soe_cifar10_resnet20x3_eps0.01", 88.8, 72.0, 70.9, 85.2, 83.1),
    ("soe_cifar10_resnet20x3_eps0.04", 80.0, 38.7, 38.7, 76.6, 70.8),
    ("soe_cifar10_resnet20x3_eps0.07", 74.1, 24.0, 21.8, 70.2, 61.1),
    ("gal_adv_cifar10_resnet20x3_eps0.02", 85.4, 31.4, None, 48.7, 64.1),
    ("dverge_adv_cifar10_resnet20x3_eps0.03", 79.7, 41.1, None, 77.3, 73.5),
    ("more_adv_cifar10_resnet20x3_eps0.05", 78.2, 24.0, None, 73.2, 67.6),
    ("adp_adv_cifar10_resnet20x3_eps0.06", 66.4, 23.4, None, 60.4, 56.7),
)


@pytest.mark.parametrize("row", PRINTED, ids=[row[0] for row in PRINTED])
def test_published_numbers_are_the_papers(row: tuple[Any, ...]) -> None:
    name, *values = row
    found = experiment(name).published
    assert found is not None
    assert found.values == tuple(values)
    assert f"epsilon {name.rpartition('eps')[2]}" in found.table


def test_every_epsilon_has_the_method_and_every_baseline() -> None:
    for epsilon in EPSILONS:
        for name in ("soe", "gal_adv", "dverge_adv", "more_adv", "adp_adv", "vote_adv"):
            made: Any = experiment(f"{name}_cifar10_resnet20x3_eps{epsilon:g}")
            assert (made.published is None) == (name == "vote_adv")
            assert {attack.threat.epsilon for attack in made.protocol.attacks} == {epsilon}
            policy = next(iter(made.method.policies().values()))
            attack = (
                made.method.adversarial
                if name == "dverge_adv"
                else getattr(policy.objective, "adversarial", None) or policy.objective.inner
            )
            assert (attack.threat.epsilon, attack.step_size, attack.steps) == (epsilon, epsilon / 4, 10)
    for name in ("gal", "dverge", "more", "adp", "vote"):
        alone = experiment(f"{name}_cifar10_resnet20x3").published
        assert alone is None if name == "vote" else alone is not None and not alone.columns


def test_surrogates_are_held_out() -> None:
    """Neither a target nor another surrogate has a surrogate's seed, and DVERGE starts from none of them."""
    names = {f"ensemble{members}_cifar10_resnet20": 1000 + members for members in (3, 5, 8)} | {
        "surrogate_ensembles_digits": 1000
    }
    assert {name: experiment(name).seed for name in names} == names
    assert all(f"seed {seed}, held out" in recipes()[name].text for name, seed in names.items())
    others = [name for name in recipes() if "_cifar10_resnet20" in name or "_ensembles_digits" in name]
    assert {experiment(name).seed for name in others if name not in names} == {0}
    start = "dverge_start_cifar10_resnet20x3"
    assert experiment(start).model == experiment("ensemble3_cifar10_resnet20").model
    for name in ("dverge_cifar10_resnet20x3", "dverge_adv_cifar10_resnet20x3_eps0.05"):
        assert experiment(name).initial == f"runs/{start}/seed-0"
        said = f"first: poise train {start} --seeds 3 --out runs/{start}), with seed=1 also initial=runs/{start}/seed-1"
        assert said in recipes()[name].text


def test_phases_have_equal_epochs_and_all_repeats_are_named() -> None:
    whole, first, second = (
        experiment(f"soe_cifar10_resnet20x3_eps0.03{ending}") for ending in ("", "_phase1", "_phase2")
    )
    assert whole.epochs == first.epochs == second.epochs == 150
    shares = [made.method.policies()["joint"].objective.phase_two_from for made in (first, whole, second)]  # type: ignore[attr-defined]
    assert shares == [1, 2 / 3, 0]
    assert all("seed=2" in made.text for name, made in recipes().items() if name.startswith("soe_cifar10"))


@pytest.mark.parametrize("ending", VARIANTS)
def test_a_variant_changes_what_it_says_and_nothing_else(ending: str) -> None:
    plain, changed = soe(0.03), experiment(f"soe_cifar10_resnet20x3_eps0.03_{ending}")
    ours, theirs = (made.method.policies()["joint"].objective for made in (plain, changed))
    assert isinstance(theirs, SynergyOfExperts)
    different = {
        field.name for field in dataclasses.fields(theirs) if getattr(ours, field.name) != getattr(theirs, field.name)
    }
    assert different == set(VARIANTS[ending][1]) - {"confidence"}
    assert (plain.model != changed.model) == ("confidence" in VARIANTS[ending][1])


def test_the_released_code_and_the_paper_as_printed_are_recipes_of_their_own() -> None:
    released: Any = experiment("soe_cifar10_resnet20x3_eps0.03_compat").method
    inner = released.policy.objective.inner
    assert (inner.step_size, inner.start, inner.steps, inner.threat.epsilon) == (0.01, "zero", 10, 0.03)
    assert (released.policy.objective.surrogate, released.policy.objective.craft_mode) == ("released", "training")
    printed: Any = experiment("soe_cifar10_resnet20x3_eps0.03_paper")
    objective = printed.method.policy.objective
    assert (objective.update, objective.detach_features, objective.clean_term) == ("per_source", True, False)
    assert (printed.model.confidence, objective.surrogate, printed.published.columns) == ("evaluator", "smooth", ())


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_what_is_compared_on_digits_has_about_as_many_parameters() -> None:
    counts = {name: parameters(experiment(name).model.build((1, 8, 8), 10, 0)) for name in BENCHMARK}
    assert set(counts.values()) <= set(range(18_500, 20_100)), counts
    assert {(experiment(name).epochs, experiment(name).method.batch_size) for name in BENCHMARK} == {(45, 128)}


@pytest.mark.parametrize("name", ["soe_ensembles_digits", "dverge_ensembles_digits", "vote_ensembles_digits"])
def test_the_small_variant_on_digits_trains(tmp_path: Path, name: str) -> None:
    made: Any = experiment(name, quick=True)
    made = dataclasses.replace(
        made, data=dataclasses.replace(made.data, train_images=130, test_images=20), monitor_every=3
    )
    run = train(made, tmp_path / "run")
    assert math.isfinite(run.facts("last")["monitors"]["monitor/natural"])


@pytest.mark.parametrize(
    "name",
    [
        "ensemble3_cifar10_resnet20",
        "soe_cifar10_resnet20x2_eps0.03",
        "gal_adv_cifar10_resnet20x3_eps0.01",
        "more_cifar10_resnet20x3",
        "dverge_adv_cifar10_resnet20x3_eps0.07",
    ],
)
def test_the_small_variant_on_cifar10_trains(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 3072), dtype=np.uint8)
    for part in (*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"):
        (folder / part).write_bytes(pickle.dumps({"labels": [index % 10 for index in range(50)], "data": pixels}, 2))
    made: Any = experiment(name, quick=True)
    data = dataclasses.replace(made.data, train_images=16, test_images=20, verify=False)
    method = dataclasses.replace(made.method, batch_size=16)
    run = train(dataclasses.replace(made, data=data, method=method), tmp_path / "run", data_dir=tmp_path / "data")
    assert run.facts("last")["epoch"] == 2
    assert math.isfinite(run.facts("last")["monitors"]["monitor/natural"])


def of(wrong: list[int], digest: str = "a") -> EvaluationRecord:
    labels = [0] * 10
    attack = AttackRecord(
        "s: MPGD-100", {"type": "Saved", "digest": digest}, [int(place in wrong) for place in range(10)], 0.1
    )
    fixed: dict[str, Any] = dict.fromkeys(
        ("model", "checkpoint", "model_digest", "run", "group", "dataset", "split", "started", "device"), ""
    )
    return EvaluationRecord(
        **fixed,
        seed=0,
        evaluation_seed=0,
        classes=["0", "1"],
        protocol="t",
        labels=labels,
        natural=labels,
        attacks=[attack],
        seconds=0,
        versions={},
    )


def test_gain_per_added_expert() -> None:
    found = gains({3: [of([0])], 1: [of([0, 1, 2, 3, 4])], 2: [of([0, 1])]})
    assert [(gain.members, gain.values) for gain in found] == [(1, (0.5,)), (2, (0.8,)), (3, (0.9,))]
    assert [gain.gain for gain in found] == pytest.approx([0, 0.3, 0.1])
    assert [gain.text for gain in found] == [
        "1 expert: 50.00 %, +0.00",
        "2 experts: 80.00 %, +30.00",
        "3 experts: 90.00 %, +10.00",
    ]
    with pytest.raises(SettingsError, match="same attacks on the same images"):
        gains({1: [of([0])], 2: [of([0], digest="b")]})


def test_gain_per_added_expert_is_of_means_over_seeds() -> None:
    made = {ending: experiment(f"soe_ensembles_digits{ending}") for ending in ("_x2", "")}
    seeds = [dataclasses.replace(made[ending], seed=seed) for ending in ("", "_x2") for seed in range(2)]
    records = [of([0]), of([0, 1, 2]), of([0, 1, 2]), of([0, 1, 2, 3, 4])]
    assert gained(seeds, records) == [
        "2 experts: 60.00 ± 14.14 % (2 seeds), +0.00",
        "3 experts: 80.00 ± 14.14 % (2 seeds), +20.00",
    ]
    assert gained(seeds[:2], records[:2]) == []


def test_collaborations_that_differ_in_their_experts_only_are_known():
    three, two, hard = (experiment(f"soe_ensembles_digits{ending}") for ending in ("", "_x2", "_hard"))
    assert growing([two, three]) and not growing([three]) and not growing([three, three])
    assert growing([two, dataclasses.replace(three, seed=5), three])
    grid = [f"soe_cifar10_resnet20x{members}_eps0.03" for members in range(1, 6)]
    assert growing([experiment(name) for name in grid])
    texts = {name: recipes()[name].text for name in grid}
    assert all(f"poise evaluate runs/{name} --protocol soe-lambdas" in text for name, text in texts.items())
    asked = f"poise transfer {' '.join(f'runs/{name}' for name in grid)} --surrogate runs/ensemble3_cifar10_resnet20"
    assert [asked in text for text in texts.values()] == [True, True, False, True, True]
    assert "poise transfer runs/soe_cifar10_resnet20x3_eps0.03 --surrogate" in texts[grid[2]]
    assert not growing([two, hard]) and not growing([two, experiment("adp_ensembles_digits")])


@pytest.mark.parametrize("ending", [*VARIANTS, "x1", "x2", "x4", "x5"])
def test_every_variant_has_a_small_form_on_digits(ending: str):
    made = experiment(f"soe_ensembles_digits_{ending}", quick=True)
    assert isinstance(made.model, Collaboration)
    objective = made.method.policies()["joint"].objective
    changes = {"members": int(ending[1:])} if ending[0] == "x" else VARIANTS[ending][1]
    for name, value in changes.items():
        if name == "inner":
            assert (objective.inner.start, objective.inner.step_size) == (value["start"], INNER.step_size)  # type: ignore[attr-defined]
            continue
        assert getattr(made.model if name in ("members", "confidence") else objective, name) == value


# -- settings, typed a second time from the papers and their code
# -----------------------------------------------------------------

ADAM = {
    "optimizer.type": "Adam",
    "optimizer.learning_rate": 1e-3,
    "optimizer.weight_decay": 1e-4,
    "optimizer.stability": 1e-7,
}
PLAIN_SGD = {
    "optimizer.type": "SGD",
    "optimizer.learning_rate": 0.1,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-4,
}
NORMALISED = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.201]}


def under(prefix: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{path}": value for path, value in settings.items()}


STEPS_100_150 = under("method.policy", {"schedule.at": [101, 151], "schedule.factors": [0.1, 0.01]})
FAMILIES: dict[str, dict[str, Any]] = {
    "adp_cifar10_resnet20x3": {
        **under("method.policy", ADAM),
        **STEPS_100_150,
        "method.policy.objective.alpha": 2,
        "method.policy.objective.beta": 0.5,
        "epochs": 200,
        "model.member.activation": "relu",
    },
    "gal_cifar10_resnet20x3": {
        **under("method.policy", ADAM),
        **STEPS_100_150,
        **under("method.policy.objective", {"weight": 0.5, "noise": 0.045, "noise_probability": 0.5}),
        "epochs": 200,
        "model.member.activation": "leaky_relu",
    },
    "dverge_cifar10_resnet20x3": {
        **under("method.policy", PLAIN_SGD),
        **STEPS_100_150,
        **under("method.distillation", {"threat.epsilon": 0.07, "step_size": 0.007, "steps": 10, "start": "zero"}),
        "method.momentum": 1,
        "method.include_logits": True,
        "method.natural_until": 0,
        "epochs": 200,
    },
    "more_cifar10_resnet20x3": {
        **under("method.policy", PLAIN_SGD),
        **under("method.policy", {"schedule.at": [51, 76], "schedule.factors": [0.1, 0.01]}),
        "epochs": 100,
        "model.type": "Mixture",
        "model.gate.type": "ResNet20",
    },
    "soe_cifar10_resnet20x3_eps0.03": {
        **under("method.policy", PLAIN_SGD),
        **under("method.policy", {"schedule.at": [51, 76, 101, 126], "schedule.factors": [0.1, 0.01, 0.1, 0.01]}),
        **under(
            "method.policy.objective",
            {"surrogate": "smooth", "sigma": 1, "confidence_weight": 1, "phase_two_from": 2 / 3},
        ),
        "epochs": 150,
        "model.confidence": "rectified",
    },
}


def flattened(settings: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(settings, dict):
        return {prefix: settings}
    return {
        path: value
        for name, part in settings.items()
        for path, value in flattened(part, f"{prefix}.{name}".lstrip(".")).items()
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_settings_of_each_ensemble_are_its_authors(name: str) -> None:
    found = flattened(to_json(experiment(name)))
    common = {"model.member.type": "ResNet20", "model.members": 3, "model.member.width": 16, "method.batch_size": 128}
    wanted = {**FAMILIES[name], **under("model.member.normalise", NORMALISED), **common}
    assert {path: found[path] for path in wanted} == {
        path: pytest.approx(value) if isinstance(value, float | list) else value for path, value in wanted.items()
    }


def test_leaky_members_of_gal_have_the_published_slope() -> None:
    made = experiment("gal_cifar10_resnet20x3").model.build((3, 32, 32), 10, seed=0)
    slopes = {module.negative_slope for module in made.modules() if isinstance(module, nn.LeakyReLU)}
    assert slopes == {0.1} and not any(isinstance(module, nn.ReLU) for module in made.modules())
