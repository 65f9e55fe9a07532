"""Every ablation is the headline recipe with exactly the change that it names; each trains; rows are the published
ones.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from poise.core.batches import Now
from poise.core.settings import from_json, to_json
from poise.data import Digits, Split
from poise.engine import Experiment, train
from poise.engine.statistics import reestimate
from poise.learners import EMA, Adam, Constant
from poise.methods import Generalist, Joint
from poise.recipes import experiment, recipes
from poise.recipes.generalist_ablations import ABLATIONS

HEADLINES = {"digits": "generalist_digits", "cifar10": "generalist_cifar10_resnet18"}
ON = [
    (name, data)
    for name, ablation in ABLATIONS.items()
    for data in HEADLINES
    if data == "cifar10" or ablation.on_digits_too
]


def method_of(name: str) -> Generalist:
    method = experiment(name).method
    assert isinstance(method, Generalist)
    return method


def leaves(data: object, path: str = "") -> dict[str, object]:
    if isinstance(data, dict):
        return {key: value for name, part in data.items() for key, value in leaves(part, f"{path}.{name}").items()}
    return {path: tuple(data) if isinstance(data, list) else data}


@pytest.mark.parametrize(("name", "data"), ON)
def test_nothing_but_the_named_settings_differs_from_the_headline(name: str, data: str) -> None:
    made, base = experiment(f"ablation_{name}_{data}"), experiment(HEADLINES[data])
    told = ABLATIONS[name].cifar10 if data == "cifar10" else ABLATIONS[name].on_digits
    paths = {assignment.partition("=")[0] for assignment in told}
    same_but: dict[str, Any] = {"name": "x", "title": "", "published": None, "also_published": (), "save_every": 1}
    left, right = (leaves(to_json(dataclasses.replace(each, **same_but))) for each in (made, base))
    differing = {path.removeprefix(".") for path in left.keys() | right.keys() if left.get(path) != right.get(path)}
    assert all(any(path == told or path.startswith(f"{told}.") for told in paths) for path in differing), differing
    # the headline's own settings
    same = {
        ("wa_none", "digits"),
        ("wa_both", "cifar10"),
        ("c_2", "digits"),
        ("c_5", "cifar10"),
    }
    assert bool(differing) == ((name, data) not in same)


def test_what_the_changes_do() -> None:
    assert method_of("ablation_gamma_half_digits").gamma == Constant(at=0.5)
    assert to_json(method_of("ablation_gamma_0_cifar10").gamma)["values"] == [1, 1, 1, 0]
    assert [method_of(f"ablation_c_{c}_digits").redistribute_every for c in range(1, 16)] == list(range(1, 16))
    assert method_of("ablation_no_ema_cifar10").decay == 0
    assert [policy.average for policy in method_of("ablation_no_ema_cifar10").policies().values()] == [
        EMA(),
        EMA(),
    ], "all else unchanged"
    averages = {
        name: tuple(
            policy.average is not None for policy in method_of(f"ablation_wa_{name}_{data}").policies().values()
        )
        for name in ("none", "natural", "robust", "both")
        for data in HEADLINES
    }
    assert averages == {"none": (False, False), "natural": (True, False), "robust": (False, True), "both": (True, True)}
    assert method_of("ablation_wa_both_digits").robust.average == EMA(decay=0.95)
    rates = [
        policy.optimizer.learning_rate for policy in method_of("ablation_lr_0.1_0.001_cifar10").policies().values()
    ]
    assert rates == [0.1, 0.001]
    small = [policy.optimizer.learning_rate for policy in method_of("ablation_lr_0.01_0.1_digits").policies().values()]
    assert small == pytest.approx([0.05 / 3, 0.15], rel=1e-4)
    assert isinstance(method_of("ablation_adam_natural_digits").natural.optimizer, Adam)
    joint = experiment("at_adam_digits").method
    assert isinstance(joint, Joint) and isinstance(joint.policy.optimizer, Adam)


def test_published_rows() -> None:
    found = {name: experiment(f"ablation_{name}_cifar10").published for name in ABLATIONS}
    rows = {
        name: dict(zip(row.columns, row.values, strict=True))
        for name, row in found.items()
        if row is not None and row.columns
    }
    assert set(found) - set(rows) == {name for name, ablation in ABLATIONS.items() if ablation.published is None}
    assert all(
        row is not None and row.table.startswith("Zipper, ") and row.note
        for name, row in found.items()
        if name not in rows
    )
    assert {name: (row["natural"], row["AA"]) for name, row in rows.items()} == {
        "gamma_rising": (85.33, 47.58),
        "gamma_late": (86.01, 47.15),
        "no_ema": (88.33, 44.91),
        "lr_0.1_0.1": (90.12, 41.86),
        "lr_0.1_0.001": (90.45, 43.55),
        "lr_0.01_0.01": (88.40, 48.03),
        "lr_0.01_0.1": (88.25, 42.98),
    }
    assert experiment("ablation_gamma_rising_digits").published is None


@pytest.mark.parametrize("name", [*(f"ablation_{name}_{data}" for name, data in ON), "at_adam_digits"])
def test_recipes_survive_json_and_say_how_they_are_run(name: str) -> None:
    for quick in (False, True):
        made = experiment(name, quick)
        assert made.name == (f"{name}_quick" if quick else name)
        assert from_json(Experiment, to_json(made)) == made
    assert f"poise train {name}" in recipes()[name].text


TRAINED = ("gamma_0", "c_1", "every_step", "averages_reset", "buffers", "no_ema", "adam_both")


@pytest.mark.parametrize("name", TRAINED)
def test_quick_variants_train(name: str, tmp_path: Path) -> None:
    made = experiment(f"ablation_{name}_digits", quick=True)
    small = dataclasses.replace(
        made, data=Digits(train_images=128, test_images=40), epochs=2, monitors=made.monitors[:1]
    )
    network = train(small, tmp_path / "run").network("last")
    assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values())


# -- statistics estimated anew ----------------------------------------------------------------------------------------


def split(count: int) -> Split:
    generator = torch.Generator().manual_seed(0)
    return Split.of(
        torch.randint(256, (count, 3, 4, 4), generator=generator, dtype=torch.uint8),
        torch.zeros(count, dtype=torch.int64),
    )


@pytest.mark.parametrize(("images", "batches"), [(24, 3), (20, 2), (5, 1), (1000, 3)])
def test_statistics_are_the_means_over_whole_batches(images: int, batches: int) -> None:
    network = nn.Sequential(nn.BatchNorm2d(3)).double().eval()
    network[0].running_mean.fill_(7)  # type: ignore[union-attr, operator]
    reestimate(network, split(24), images, batch_size=8)
    size = min(8, images)
    x = split(24).pixels(dtype=torch.float64)[: batches * size].reshape(batches, size, 3, 16)
    norm = network[0]
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, x.mean((1, 3)).mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        norm.running_var, x.transpose(1, 2).reshape(batches, 3, -1).var(2).mean(0), rtol=1e-12, atol=1e-12
    )
    assert norm.momentum == 0.1 and not norm.training


def test_a_network_without_running_statistics_is_left_alone() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2), nn.BatchNorm1d(2, track_running_stats=False))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    reestimate(network, split(8), 8)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


# -- c counted in steps ---------------------------------------------------------------------------------------------


def test_c_may_count_steps_as_algorithm_1_does() -> None:
    method = Generalist(redistribute_unit="steps", redistribute_every=3, redistribute_from=0.5)
    moments = [Now(step // 4 + 1, step, 5, 4, 0) for step in range(20)]
    assert [now.step + 1 for now in moments if method._redistributes(now, "epoch_start")] == [12, 15, 18]
    assert method.redistribution_epochs(5) == [3, 4, 5]
    late = dataclasses.replace(method, redistribute="every_step")
    assert [now.step + 1 for now in moments if late._redistributes(now, "every_step")] == [12, 15, 18]
    assert not any(
        dataclasses.replace(method, redistribute="never")._redistributes(now, "epoch_start") for now in moments
    )


def test_learners_become_the_global_one_at_every_cth_step(tmp_path: Path) -> None:
    base = dataclasses.replace(
        experiment("generalist_digits", quick=True), data=Digits(train_images=128, test_images=20), epochs=2
    )
    method = dataclasses.replace(base.method, batch_size=32, redistribute_every=4, redistribute_from=0.5)  # type: ignore[call-arg]
    ends = {
        unit: train(
            dataclasses.replace(base, method=dataclasses.replace(method, redistribute_unit=unit)), tmp_path / unit
        )
        for unit in ("steps", "epochs")
    }
    weights = [run.network("last").state_dict() for run in ends.values()]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0]), (
        "in 2 epochs every 4th has no part"
    )


def test_experiments_from_before_the_unit_keep_their_groups() -> None:
    made = experiment(HEADLINES["cifar10"])
    data = to_json(made)
    assert "redistribute_unit" not in data["method"]
    assert from_json(Experiment, data) == made
    assert made.group == "generalist_cifar10_resnet18-cbaeb4e9"
    other = dataclasses.replace(made, method=dataclasses.replace(made.method, redistribute_unit="steps"))  # type: ignore[call-arg]
    assert other.group != made.group and not other.rows
