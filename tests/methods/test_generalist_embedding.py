"""t-SNE of base learners' adversarial images, or features, at the epochs kept, and the page that draws it."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from poise.attacks import PGD
from poise.cli import main
from poise.core.errors import RunError, SettingsError
from poise.core.settings import to_json
from poise.data import Digits
from poise.engine import Diagnosis, Run, train
from poise.engine.checkpoints import read_tensors
from poise.evaluation import Protocol
from poise.evaluation.predictions import attacked
from poise.methods import Generalist
from poise.recipes import experiment
from poise.reports import diagnostics, read_runs, write_report
from poise.reports.diagnostics import curves, embedded, redistributions
from poise.threats import Linf
from poise.verbs.embed import EMBEDDING, Embedded, attack_on, embed, features, kept_epochs, learners_of, placed
from poise.verbs.evaluate import evaluate

QUICK = PGD(threat=Linf(epsilon=0.2), step_size=0.1, steps=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three epochs of 2 steps; the learners are made the global one at the start of epoch 2; all epochs but the last
    are kept.
    """
    made = experiment("generalist_digits", quick=True)
    assert isinstance(made.method, Generalist)
    made = dataclasses.replace(
        made,
        data=Digits(train_images=128, test_images=40),
        method=dataclasses.replace(made.method, batch_size=64, redistribute_from=0.5, redistribute_every=2),
        monitors=made.monitors[:1],
        diagnosis=Diagnosis(attack=QUICK, images=20),
        protocol=Protocol(name="toy", attacks=(QUICK,), first=20),
        keep_epochs=(1, 2),
    )
    run = train(made, tmp_path_factory.mktemp("embedding") / "run")
    evaluate(run, checkpoint="last")
    return run


def test_the_command_embeds_every_learner_at_every_epoch_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["poise", "embed", str(run.path), "--images", "25"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    told = json.loads((run.path / EMBEDDING).read_text())
    assert [each["epoch"] for each in told["epochs"]] == [1, 2] and told["images"] == len(told["labels"]) == 25
    assert told["of"] == "adversarial" and told["attack"] == {"name": "PGD-1", "settings": to_json(QUICK)}
    for each in told["epochs"]:
        assert list(each["points"]) == ["natural", "robust"]
        assert np.array(list(each["points"].values())).shape == (2, 25, 2)
    again = json.loads(embed(run, images=25).read_text())
    assert again == told, "the same run, the same picture"


def clouds_of(run: Run, monkeypatch: pytest.MonkeyPatch, of: Embedded) -> list[dict[str, Any]]:
    """What is embedded of each epoch, by learner."""
    seen: list[dict[str, Any]] = []

    def told(clouds: dict[str, Any], perplexity: float, seed: int) -> dict[str, Any]:
        seen.append(clouds)
        return {name: np.zeros((len(cloud), 2)).tolist() for name, cloud in clouds.items()}

    monkeypatch.setattr("poise.verbs.embed.placed", told)
    embed(run, of=of, images=25)
    return seen


@pytest.mark.parametrize("of", ["adversarial", "features"])
def test_what_is_embedded_is_what_each_kept_learner_makes(
    run: Run, monkeypatch: pytest.MonkeyPatch, of: Embedded
) -> None:
    split = run.experiment.data.load(None).test.first(25)
    seen = clouds_of(run, monkeypatch, of)
    for clouds, path in zip(seen, kept_epochs(run).values(), strict=True):
        assert list(clouds) == ["natural", "robust"]
        for name, weights in learners_of(read_tensors(path)[0]).items():
            network = run.network("last")
            network.load_state_dict(weights)
            ((x_adv, _),) = attacked(network, split, QUICK, seed=run.experiment.seed)
            wanted = x_adv.flatten(1) if of == "adversarial" else features(network, split)
            np.testing.assert_array_equal(clouds[name], wanted.double().numpy())
    natural = split.pixels().flatten(1).double().numpy()
    if of == "adversarial":
        assert not np.array_equal(seen[0]["natural"], seen[0]["robust"]), "each learner has images of its own"
        assert all(0.05 < abs(cloud - natural).max() <= 0.2 + 1e-6 for clouds in seen for cloud in clouds.values())


def test_the_attack_is_the_diagnoses_else_within_the_threat_that_judges_the_run(run: Run) -> None:
    assert attack_on(run.experiment) == QUICK
    for name, wanted in (("digits", PGD(threat=Linf(epsilon=0.2), step_size=0.05)), ("cifar10_resnet18", PGD())):
        made = experiment(f"generalist_{name}")
        assert attack_on(made) == wanted
    told = dataclasses.replace(run.experiment, diagnosis=Diagnosis())
    assert attack_on(told) == PGD(threat=Linf(epsilon=0.2), step_size=0.4 * 0.2), "as the robust learner searches"


def test_features_are_the_penultimate_ones(run: Run) -> None:
    states = {epoch: learners_of(read_tensors(path)[0]) for epoch, path in kept_epochs(run).items()}
    assert list(states) == [1, 2] and all(list(learners) == ["natural", "robust"] for learners in states.values())
    assert not torch.equal(states[1]["natural"]["head.weight"], states[1]["robust"]["head.weight"])
    split = run.experiment.data.load(None).test.first(5)
    network = run.network("last")
    found = features(network, split)
    torch.testing.assert_close(network.head(found), network(split.pixels()))  # type: ignore[operator, union-attr]


def test_near_clouds_stay_near_and_far_ones_apart() -> None:
    generator = np.random.default_rng(0)
    near, far = generator.normal(size=(12, 5)), generator.normal(size=(12, 5)) + 50
    plane = placed({"a": near, "b": near + 0.01, "c": far}, perplexity=5, seed=0)
    a, b, c = (np.array(plane[name]) for name in "abc")
    assert np.linalg.norm(a - b, axis=1).mean() < 0.5 * np.linalg.norm(a.mean(0) - c.mean(0))


def test_the_page_has_curves_redistributions_and_the_picture(run: Run, tmp_path: Path) -> None:
    embed(run, images=25)
    text = write_report(run.path, tmp_path / "page.html").read_text()
    for part in (
        "Base learners",
        "distance between weights",
        "cosine between gradients",
        "tradeoff regret",
        "bound on the former",
    ):
        assert part in text
    assert (
        "t-SNE of adversarial images, epoch 2" in text
        and "by PGD-1 within Linf 0.2, as pixels (Zipper, Fig. 6)" in text
    )
    assert "Robust accuracy is under PGD-1 within Linf 0.2." in text
    assert "delta is 0.05" in text and "after 3 measured epochs" in text
    assert "diagnosis/" not in text.split("<h2>Runs</h2>")[0], "its metrics are not among the losses and rates as well"
    (read,) = read_runs(run.path)
    assert redistributions(read.experiment) == [2]
    assert {panel.title for panel in curves(read)} >= {"natural accuracy", "robust accuracy", "regret", "Theorem 1"}
    assert EMBEDDING == diagnostics.EMBEDDING


def test_a_picture_of_features_says_that_it_is_no_fig_6(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["poise", "embed", str(run.path), "--of", "features", "--images", "25"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    told = json.loads((run.path / EMBEDDING).read_text())
    assert told["of"] == "features" and told["attack"] is None
    file = tmp_path / diagnostics.EMBEDDING
    # as files used to be
    for content in (
        told,
        {key: value for key, value in told.items() if key not in ("of", "attack", "sha256")},
    ):
        file.write_text(json.dumps(content))
        first, second = embedded(file)
        assert (first.title, second.title) == ("t-SNE of features, epoch 1", "t-SNE of features, epoch 2")
        assert "Fig. 6 is of adversarial images" in first.note


def test_a_line_of_another_threat_says_which() -> None:
    names = (
        "diagnosis/l2/robust",
        "diagnosis/l2/robust L2 0.5",
        "diagnosis/l2/natural",
        "diagnosis/l2/on images of robust",
    )
    assert [diagnostics._line_name(name) for name in names] == ["l2", "l2 (L2 0.5)", "l2", "l2 on images of robust"]


def test_redistribution_epochs_are_the_methods() -> None:
    def epochs(**method: object) -> list[int]:
        settings = {
            "type": "Generalist",
            "redistribute": "epoch_start",
            "redistribute_from": 0.625,
            "redistribute_every": 5,
            **method,
        }
        return redistributions({"epochs": 120, "method": settings})

    assert epochs() == list(range(75, 121, 5))
    assert epochs(redistribute="never") == epochs(type="Joint") == redistributions({}) == []


@pytest.mark.parametrize(
    "damage",
    ["{", "[]", '{"labels": [0, 1], "classes": ["a", "b"], "epochs": [{"epoch": 1, "points": {"n": [[0, 0]]}}]}'],
)
def test_a_damaged_picture_is_named(tmp_path: Path, damage: str) -> None:
    file = tmp_path / diagnostics.EMBEDDING
    file.write_text(damage)
    with pytest.raises(RunError, match=r"t-sne\.json is damaged .* make it again with: poise embed"):
        embedded(file)
    assert embedded(tmp_path / "none.json") == []


def test_refusals(run: Run, tmp_path: Path) -> None:
    plain = Run(tmp_path / "plain")
    plain.create(dataclasses.replace(run.experiment, keep_epochs=()), {})
    with pytest.raises(
        RunError, match="kept no complete checkpoint to embed; train with, for example, keep_epochs=79,80,84,85"
    ):
        embed(plain)
    with pytest.raises(SettingsError, match=r"images = 2, perplexity = 30\.0: must be at least 3, and above 0"):
        embed(run, images=2)
    with pytest.raises(SettingsError, match=r"of = 'pixels': must be one of 'adversarial', 'features'"):
        embed(run, of="pixels")  # type: ignore[arg-type]
    with pytest.raises(
        SettingsError, match=r"of = 'features': Sequential has no penultimate features; embed its adversarial images"
    ):
        features(nn.Sequential(), run.experiment.data.load(None).test)
