"""The suite of ensembles: every recipe exists, and the sets of all folds serve each of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from experiments import ensembles
from experiments.ensembles import ATTACKS, SUITES, joined, prepare, suite, transferred

from poise.data import Digits
from poise.evaluation import Protocol, evaluate, make_set, soe_benchmark
from poise.models import Collaboration, DigitsCNN
from poise.recipes import experiment, recipes
from poise.recipes.digits import THREAT


def test_every_recipe_of_the_suite_and_of_its_claims_exists() -> None:
    chosen = suite(soe_benchmark(THREAT))
    named = {
        *chosen.recipes,
        chosen.baseline,
        *(claim.worse for claim in chosen.claims),
        *(claim.better for claim in chosen.claims),
    }
    assert named <= set(recipes())
    assert {attack.name for attack in soe_benchmark(THREAT).attacks} == {"PGD-50x5", "AimedPGD-50-15runs", "AutoAttack"}


def test_a_claim_names_the_paper_only_where_the_paper_makes_it() -> None:
    papers = {(claim.worse.partition("_")[0], claim.column) for claim in ensembles.CLAIMS if "Table" in claim.source}
    assert papers == {
        (other, column) for other in ("gal", "dverge", "more", "adp") for column in ("white-box", "transfer")
    }
    assert len(ensembles.CLAIMS) == 36


def test_a_joined_set_serves_every_fold() -> None:
    parts = [Digits(fold=fold, test_images=6).load().test for fold in (0, 3)]
    quick = dataclasses.replace(ATTACKS[0], steps=1)  # type: ignore[call-arg]
    sets = [make_set(DigitsCNN(width=4).build((1, 8, 8), 10, seed), part, quick) for seed, part in enumerate(parts)]
    whole = joined(sets)
    assert len(whole.ids) == 12
    for part, own in zip(parts, sets, strict=True):
        assert torch.equal(whole.of(part.ids), own.x_adv)


def test_surrogates_are_trained_and_attacked_once_and_shown_in_the_protocol(tmp_path: Path, monkeypatch) -> None:
    """Two folds of the recipe's small variant, two attacks of one step."""
    quick = experiment(ensembles.RECIPE, quick=True)
    small = dataclasses.replace(quick, data=Digits(train_images=60, test_images=8), epochs=1)
    monkeypatch.setattr(ensembles, "FOLDS", 2)
    monkeypatch.setattr(ensembles, "ATTACKS", tuple(dataclasses.replace(attack, steps=1) for attack in ATTACKS[:2]))  # type: ignore[call-arg]
    monkeypatch.setattr(ensembles.recipes, "experiment", lambda name, quick: small)
    with pytest.raises(
        SystemExit, match=r"the transfer sets are not in .*; make them: python -m experiments\.ensembles --out"
    ):
        SUITES["ensembles"](tmp_path)
    prepare(tmp_path)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    prepare(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")} == made
    digests = {path.name: path.read_bytes() for path in made}
    faster = tuple(dataclasses.replace(attack, step_size=0.1) for attack in ensembles.ATTACKS)
    monkeypatch.setattr(ensembles, "ATTACKS", faster)
    with pytest.raises(SystemExit, match="the transfer sets are not in"):
        transferred(tmp_path)
    fold = tmp_path / "fold-1"
    for path in (fold / "checkpoints").glob("[!s]*"):  # as a process killed within the first epoch leaves it
        path.unlink()
    prepare(tmp_path)
    assert (fold / "checkpoints" / "last.safetensors").exists(), "a fold that was broken off is gone on with"
    assert all(path.read_bytes() != digests[path.name] for path in made), "sets of other settings are made anew"
    shown = transferred(tmp_path)
    assert [attack.name for attack in shown] == ["three networks: MPGD-1", "three networks: MPGD-1-start1"]
    data = Digits(fold=1, test_images=8).load()
    target = Collaboration(member=DigitsCNN(width=4)).build(data.shape, 10, 0)
    record = evaluate(target, data, Protocol(name="t", attacks=shown))
    assert record.attacks[0].notes["experts"]["members"]
