"""Every question of every kind of subject: a run, its folder, a module with images, weights in a file, several
together.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import poise
from poise.attacks import PGD
from poise.core.errors import DataError, InputError, RunError, SettingsError
from poise.core.records import EvaluationRecord
from poise.data import Digits
from poise.engine import Run
from poise.evaluation import Protocol
from poise.evaluation.sanity import Effort
from poise.losses import cross_entropy
from poise.models import DigitsCNN, EnsembleModule
from poise.threats import L1, L2, Linf

QUICK = PGD(threat=Linf(epsilon=0.1), step_size=0.05, steps=2)
EFFORT = Effort(
    steps=2, autoattack_steps=2, targets=1, queries=10, gradient_examples=16, gradient_samples=2, substitute_steps=2
)
TOY = Protocol(name="toy", attacks=(QUICK,))


@pytest.fixture(scope="module")
def data() -> Any:
    return Digits(train_images=120, test_images=40).load()


@pytest.fixture
def kinds(finished: dict[str, Run], data: Any, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Arguments that name a subject, by its kind."""
    run, other = finished.values()
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(safetensors.torch.save(run.network().state_dict()))
    pair = (data.test.pixels(), data.test.labels)
    return {
        "run": {"asked": run},
        "folder": {"asked": str(run.path)},
        "checkpoint": {"asked": run, "checkpoint": "last"},
        "module": {"asked": run.network(), "data": pair},
        "weights": {"asked": weights, "network": DigitsCNN(width=4), "data": data},
        "several": {"asked": [run, other]},
        "mixed": {"asked": [run, poise.Subject.of(other.network(), pair)], "output": "mean-probabilities"},
    }


KINDS = ("run", "folder", "checkpoint", "module", "weights", "several", "mixed")


@pytest.mark.parametrize("kind", KINDS)
def test_every_question_is_answered_for_every_kind(
    kinds: dict[str, dict[str, Any]], finished: dict[str, Run], tmp_path: Path, kind: str
) -> None:
    asked, data_set = kinds[kind], Digits(train_images=120, test_images=40).load()
    network = poise.load(**asked)
    split = data_set.test
    with torch.no_grad():
        natural = network(split.pixels()).argmax(1)
    record = poise.evaluate(**asked, protocol=TOY, out=tmp_path / "record.json")
    assert record.natural == natural.tolist()
    assert EvaluationRecord.read(tmp_path / "record.json") == record
    made = poise.attack(**asked, by=QUICK, first=30, out=tmp_path / "x.safetensors", seed=record.evaluation_seed)
    assert made.predicted.tolist() == network(made.x_adv).argmax(1).tolist()
    findings = poise.sanity(**asked, first=16, threat=Linf(epsilon=0.1), out=tmp_path / "sanity.json", effort=EFFORT)
    assert (findings.count, findings.path) == (16, tmp_path / "sanity.json")
    poise.pseudo_label(**asked, images=None, out=tmp_path / "pool.npz")
    with np.load(tmp_path / "pool.npz") as pool:
        assert set(pool["label"].tolist()) <= set(range(10))
    agreed = poise.agreement(
        asked["asked"] if kind != "weights" else poise.Subject.of(**asked),
        finished["seed-3"],
        **{k: v for k, v in asked.items() if k == "data"},
        protocol=TOY,
    )
    assert agreed.a.natural == record.natural
    poise.export(**asked, to=tmp_path / "weights.safetensors")
    exported = safetensors.torch.load_file(tmp_path / "weights.safetensors")
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in exported.items())


def test_arrays_in_any_form_are_the_images_of_a_data_set(finished: dict[str, Run], data: Any) -> None:
    network, split = finished["seed-0"].network(), data.test
    wanted = poise.evaluate(network, data, TOY)
    for x in (split.pixels(), split.pixels().numpy(), split.images, split.images.numpy()):
        record = poise.evaluate(network, (x, split.labels.tolist()), TOY)
        assert record.natural == wanted.natural
        assert record.notes["images"] == poise.evaluate(network, (split.images, split.labels), TOY).notes["images"]
    finer = split.pixels() * 0.9999
    record = poise.evaluate(network, (finer, split.labels), TOY)
    assert record.notes["images"] != wanted.notes["images"]
    with torch.no_grad():
        assert record.natural == network(finer).argmax(1).tolist()


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (torch.rand(4, 1, 8, 8) * 255, [0, 1, 2, 3], "divide by 255"),
        (torch.full((4, 1, 8, 8), torch.nan), [0, 1, 2, 3], "NaN"),
        (torch.rand(4, 64), [0, 1, 2, 3], r"must be \[N, C, H, W\]"),
        (torch.rand(4, 1, 8, 8), [0, 1, 2], "one label per image"),
        (torch.rand(4, 1, 8, 8), [0.0, 1.0, 2.0, 3.0], "must be whole numbers"),
        (torch.rand(4, 1, 8, 8), [0, 1, 2, -1], "label -1"),
        (torch.rand(0, 1, 8, 8), [], "with N at least 1"),
        ("nothing", [0], "x is str"),
    ],
)
def test_arrays_that_are_no_images_are_refused(finished: dict[str, Run], x: Any, y: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        poise.evaluate(finished["seed-0"].network(), (x, y), TOY)


def test_a_module_comes_back_as_it_was_and_nothing_is_written_unasked(
    finished: dict[str, Run], data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network = finished["seed-0"].network().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    record = poise.evaluate(network, data, TOY)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(RunError, match="nothing was written"):
        record.path  # noqa: B018
    assert not list(tmp_path.iterdir())


def test_the_record_of_a_run_says_its_training_seed_and_draws_by_it_unless_told_otherwise(
    finished: dict[str, Run],
) -> None:
    record = poise.evaluate(finished["seed-3"])
    assert (record.seed, record.evaluation_seed) == (3, 3)
    other = poise.evaluate(finished["seed-3"], seed=5)
    assert (other.seed, other.evaluation_seed) == (3, 5)
    assert (record.path.name, other.path.name) == ("selected.json", "selected-seed5.json")
    assert other.natural == record.natural


@pytest.mark.parametrize("form", ["vote", "mean-probabilities", "mean_logits"])
def test_a_list_answers_as_one_ensemble(finished: dict[str, Run], data: Any, form: Any) -> None:
    runs = list(finished.values())
    record = poise.evaluate([runs[0].path, runs[1]], output=form)
    network = EnsembleModule([run.network() for run in runs], form.replace("-", "_"))
    with torch.no_grad():
        assert record.natural == network(data.test.pixels()).argmax(1).tolist()
    assert [member["run"] for member in record.notes["ensemble"]["members"]] == ["seed-0", "seed-3"]


def networks_file(folder: Path) -> None:
    (folder / "nets_of_test.py").write_text(
        "from poise.models import DigitsCNN\n\n"
        "def plain():\n    return DigitsCNN(width=4).build((1, 8, 8), 10, 0)\n\n"
        "def of_classes(classes):\n    return DigitsCNN(width=4).build((1, 8, 8), classes, 0)\n\n"
        "def by_name(width=4, num_classes=2):\n    return DigitsCNN(width=width).build((1, 8, 8), num_classes, 0)\n\n"
        "def of_any(*arguments, width=4):\n    return DigitsCNN(width=width).build((1, 8, 8), 10, 0)\n"
    )


@pytest.mark.parametrize("function", ["plain", "of_classes", "by_name", "of_any"])
def test_a_function_that_takes_the_number_of_classes_is_given_it(
    finished: dict[str, Run], data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    monkeypatch.chdir(tmp_path)
    networks_file(tmp_path)
    torch.save(finished["seed-0"].network().state_dict(), tmp_path / "mine.pt")
    record = poise.evaluate("mine.pt", data, TOY, network=f"nets_of_test:{function}")
    assert record.natural == poise.evaluate(finished["seed-0"]).natural


@pytest.mark.parametrize(
    ("asked", "given", "error", "words"),
    [
        (lambda runs: 7, {}, SettingsError, "int cannot be asked about"),
        (
            lambda runs: runs[0],
            {"network": "ResNet18"},
            SettingsError,
            "network = 'ResNet18' is nothing of a run; leave it out",
        ),
        (
            lambda runs: runs[0].network(),
            {"checkpoint": "last"},
            SettingsError,
            "checkpoint = 'last' is nothing of a module",
        ),
        (lambda runs: runs[0].network(), {}, SettingsError, "comes without images; give data"),
        (
            lambda runs: runs[0].path / "checkpoints" / "last.safetensors",
            {},
            SettingsError,
            "say by network= what builds",
        ),
        (lambda runs: [runs[0]], {}, SettingsError, "at least two members"),
        (lambda runs: [runs[0], runs[0].path], {}, SettingsError, "is named twice"),
        (
            lambda runs: runs,
            {"output": "median"},
            SettingsError,
            "output = 'median': must be one of mean-probabilities",
        ),
        (lambda runs: runs[0].path / "nothing", {}, RunError, "there is no run folder"),
        (lambda runs: runs[0].path.parent, {}, RunError, "the runs inside it are seed-0, seed-3"),
        (lambda runs: runs[0], {"watch": None}, SettingsError, r"belongs to poise\.evaluation\.evaluate"),
        (lambda runs: runs[0], {"data": 7}, InputError, r"data is int, must be \(x, y\)"),
        (lambda runs: runs[0], {"data": (torch.rand(2, 3, 8, 8), [0, 1])}, DataError, r"images are \[3, 8, 8\]"),
        (lambda runs: runs[0], {"epsilon": 0.1}, SettingsError, "belongs to a protocol named here"),
        (
            lambda runs: runs[0],
            {"protocol": "gradient", "epsilon": [0.1, "0.1"]},
            SettingsError,
            "every one of a list must be another",
        ),
        (lambda runs: runs[0], {"protocol": "gradient", "epsilon": []}, SettingsError, "the list is empty"),
        (
            lambda runs: runs[0],
            {"protocol": "gradient", "threat": ["Linf", "L1"], "epsilon": [0.1]},
            SettingsError,
            "--threat Linf, L1: give as many --epsilon, in its order, or none; there are 1",
        ),
        (
            lambda runs: runs[0],
            {"protocol": "gradient", "threat": ["Linf", "L1"], "step_size": 0.1},
            SettingsError,
            "--step-size 0.1: each of several norms has its own",
        ),
        (
            lambda runs: runs[0],
            {"protocol": "union", "threat": "L2"},
            SettingsError,
            "protocol 'union' has threats of its own; for others: --protocol autoattack --threat Linf,L2,L1",
        ),
        (lambda runs: runs[0], {"protocol": "gradient", "threat": "L3"}, SettingsError, "L3"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_one_sentence(
    finished: dict[str, Run], asked: Callable[[Any], Any], given: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        poise.evaluate(asked(list(finished.values())), **given)


def test_several_epsilons_make_one_record_and_a_curve(finished: dict[str, Run]) -> None:
    record = poise.evaluate(finished["seed-0"], protocol="gradient", epsilon=["2/255", 0.05, 0.1], first=20)
    assert record.protocol == "gradient-eps0.007843-0.05-0.1-first20"
    assert len(set(record.attack_names)) == len(record.attack_names) == 15
    for name, points in record.curve().items():
        alone = poise.evaluate(finished["seed-0"], protocol="gradient", epsilon=0.05, first=20)
        assert [size for size, _ in points] == pytest.approx([0, 2 / 255, 0.05, 0.1])
        assert points[0][1] == record.natural_accuracy
        assert points[2][1] == alone.accuracy(name)
    assert poise.evaluate(finished["seed-0"], protocol="gradient", epsilon=[2 / 255, 0.05, 0.1], first=20) == record


def test_the_worst_case_within_several_norms_is_over_their_union(finished: dict[str, Run], tmp_path: Path) -> None:
    threats = {"Linf": 0.1, "L2": 0.5, "L1": 2.0}
    asked: dict[str, Any] = {"protocol": "gradient", "first": 20}
    norms: list[Any] = list(threats)
    both = poise.evaluate(finished["seed-0"], threat=norms, epsilon=list(threats.values()), **asked)
    assert both.protocol == "gradient-linf-eps0.1-l2-eps0.5-l1-eps2-first20"
    alone = [
        poise.evaluate(finished["seed-0"], threat=norm, epsilon=size, **asked, out=tmp_path / f"{norm}.json")  # type: ignore[arg-type]
        for norm, size in threats.items()
    ]
    for (norm, size), record in zip(threats.items(), alone, strict=True):
        for name in record.attack_names:
            assert both.correct_under(f"{name} at {norm} {size:.4g}") == record.correct_under(name)
    columns = [record.worst_case() for record in alone]
    assert both.worst_case() == [all(row) for row in zip(*columns, strict=True)]
    assert set(both.curve()) == {f"{name} at {norm}" for name in alone[0].attack_names for norm in threats}
    labels, (row,), _ = both.sheet()
    shown = dict(zip(labels, row, strict=True))
    whole = "worst case [union of L1 2, L2 0.5, Linf 0.1]"
    assert shown[whole].startswith(f"{100 * both.worst_case_accuracy:.2f}")
    for (norm, size), record in zip(threats.items(), alone, strict=True):
        assert shown[f"worst case [{norm} {size:g}]"].startswith(f"{100 * record.worst_case_accuracy:.2f}")
    objects = [Linf(epsilon=0.1), L2(epsilon=0.5), L1(epsilon=2.0)]
    assert poise.evaluate(finished["seed-0"], threat=objects, **asked) == both


def test_agreement_counts_images_one_by_one(finished: dict[str, Run], data: Any) -> None:
    first, second = finished.values()
    found = poise.agreement(first, second)
    labels, (one, other) = data.test.labels.tolist(), (record.natural for record in (found.a, found.b))
    line = found.lines()[0]
    assert found.differing() == [place for place in range(40) if one[place] != other[place]]
    assert (line["column"], line["images"], line["differ"]) == ("natural", 40, len(found.differing()))
    assert line["only_a"] == sum(a == y != b for a, b, y in zip(one, other, labels, strict=True))
    assert line["only_b"] == sum(b == y != a for a, b, y in zip(one, other, labels, strict=True))
    assert sum(line[name] for name in ("both_right", "only_a", "only_b", "neither")) == 40
    assert line["difference"] == pytest.approx((line["only_a"] - line["only_b"]) / 40)
    assert line["low"] <= line["difference"] <= line["high"]
    assert found.names == ("seed-0", "seed-3")
    assert [row[0] for row in found.sheet().rows] == ["natural", "PGD-2"]
    assert poise.agreement(finished["seed-0"], finished["seed-0"]).differing("PGD-2") == []
    with pytest.raises(KeyError, match="it has natural, PGD-2"):
        found.differing("CW")


def test_agreement_asks_for_one_protocol_and_the_same_images(
    finished: dict[str, Run], data: Any, tmp_path: Path
) -> None:
    run, split = finished["seed-0"], data.test
    with pytest.raises(SettingsError, match="not evaluated by the same protocol"):
        poise.agreement(run, poise.Subject.of(finished["seed-3"].network(), data))
    fewer = poise.Subject.of(finished["seed-3"].network(), (split.images[:30], split.labels[:30]))
    with pytest.raises(InputError, match="have different test images; give both the same data"):
        poise.agreement(run, fewer, protocol=TOY)


def test_results_show_themselves_in_a_notebook(finished: dict[str, Run], data: Any, tmp_path: Path) -> None:
    record = poise.evaluate(finished["seed-0"])
    percent = f"{100 * record.natural_accuracy:.2f}"
    assert f"<td>{percent}</td>" in record._repr_html_()
    assert f"| {percent} |" in record._repr_markdown_()
    assert [line["attack"] for line in record.lines()] == ["natural", "PGD-2", "worst case"]
    assert record.lines()[1]["epsilon"] == 0.1
    hostile = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    hostile.__class__ = type("<script>", (nn.Sequential,), {})
    assert "<script>" not in poise.evaluate(hostile, data, TOY)._repr_html_()
    made = poise.attack(finished["seed-0"], QUICK, first=10)
    assert [line["id"] for line in made.lines()] == data.test.ids[:10].tolist()
    network = finished["seed-0"].network()
    with torch.no_grad():
        losses = cross_entropy(network(made.x_adv), data.test.labels[:10])
    assert [line["cross-entropy, attacked"] for line in made.lines()] == pytest.approx(losses.tolist(), abs=1e-5)
    attacked = (float(losses.mean()), float(losses.std(correction=0)))
    assert made.cross_entropy["attacked"] == pytest.approx(attacked, abs=1e-5)
    page = poise.report([finished["seed-0"]], tmp_path / "page.html")
    assert page.path == tmp_path / "page.html"
    assert "srcdoc=" in page._repr_html_()


def test_a_norm_and_a_threat_scale_a_named_protocol(finished: dict[str, Run]) -> None:
    by_name = poise.evaluate(finished["seed-0"], protocol="gradient", threat="L2", epsilon=0.5, first=10)
    assert [by_name.attacks[0].settings["threat"][name] for name in ("type", "epsilon")] == ["L2", 0.5]
    assert poise.evaluate(finished["seed-0"], protocol="gradient", threat=L2(epsilon=0.5), first=10) == by_name
    own = poise.evaluate(finished["seed-0"], protocol="gradient", first=10)
    assert own.attacks[0].settings["threat"]["epsilon"] == 0.1  # the run's
    assert json.loads(own.path.read_text())["protocol"] == own.protocol
    assert dataclasses.asdict(own)["seed"] == 0
