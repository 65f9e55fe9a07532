"""A bundle of trained runs: with their weights' digests, or the weights, which are those that were evaluated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import poise
from poise.core.errors import CheckpointError
from poise.engine import Run
from poise.reports import verifier


@pytest.fixture
def seeds(finished: dict[str, Run], tmp_path: Path) -> list[Path]:
    folders = [Path(shutil.copytree(run.path, tmp_path / name)) for name, run in finished.items()]
    for folder in folders:
        for which in ("selected", "epoch 2"):
            poise.evaluate(folder, checkpoint=which)
    return folders


def test_weights_are_bundled_by_their_digest_or_whole(seeds: list[Path], tmp_path: Path) -> None:
    digests, whole = (poise.bundle(seeds, tmp_path / f"{flag}.zip", weights=flag) for flag in (False, True))
    members = verifier.read(whole.path)
    tensors = {name for name in members if name.endswith(".safetensors")}
    assert "runs/seed-0/checkpoints/selected.safetensors" in tensors and not any("step-" in name for name in members)
    assert set(members) - set(verifier.read(digests.path)) == tensors
    links = json.loads(members["printed.json"])["weights"]
    assert len(links) == 4 and all(link["computed"] for link in links)
    assert json.loads(members["environment.json"])["packages"]["torch"]
    for made in (digests, whole):
        assert verifier.check(made.path, made.digest)[0] == []


def test_other_weights_under_a_new_manifest_are_named(seeds: list[Path], tmp_path: Path) -> None:
    made = poise.bundle(seeds, tmp_path / "bundle.zip", weights=True)
    members = verifier.read(made.path)
    for end in ("safetensors", "json"):
        members[f"runs/seed-0/checkpoints/selected.{end}"] = members[f"runs/seed-3/checkpoints/selected.{end}"]
    del members["manifest.json"]
    members["manifest.json"] = verifier.manifest(members, "x")
    made.path.write_bytes(verifier.archived(members))
    wrong = verifier.check(made.path)[0]
    record = "runs/seed-0/records/selected.json"
    assert f"{record} is not of the weights that runs/seed-0/checkpoints/selected.json describes" in wrong
    assert f"{record} is not of the weights beside it" in wrong


def test_weights_that_are_gone_are_refused(seeds: list[Path], tmp_path: Path) -> None:
    (seeds[0] / "checkpoints" / "selected.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"selected\.safetensors is missing; leave --weights out"):
        poise.bundle(seeds, tmp_path / "bundle.zip", weights=True)
    assert poise.bundle(seeds, tmp_path / "bundle.zip").path.exists()
