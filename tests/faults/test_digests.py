"""Galleries, embeddings, pseudo-labels and the facts of a pool's cache carry digests: whatever is changed is named, and
files of before there were any are read.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from poise.core.bounds import SEAL, opened_arrays, read_arrays, sealed_arrays
from poise.core.documents import sealed
from poise.core.errors import DataError, RunError
from poise.data import Digits, NpzPool
from poise.models import DigitsCNN
from poise.reports.diagnostics import embedded
from poise.reports.gallery import read_gallery
from poise.verbs.pseudo_label import pseudo_label

DATA = Digits(train_images=40, test_images=20).load()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pixels() -> dict[str, np.ndarray]:
    x = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 1, 3, 4)
    labels = {name: np.array([0, 1]) for name in ("label", "natural", "adversarial")}
    return {"x": x, "x_adv": (x / 255).astype(np.float32), "attack": np.array("PGD"), **labels}


CHANGES: dict[str, Callable[[dict[str, np.ndarray]], object]] = {
    "a pixel": lambda arrays: arrays["x"].__setitem__((0, 0, 0, 0), 9),
    "a label": lambda arrays: arrays["label"].__setitem__(0, 1),
    "a prediction": lambda arrays: arrays["adversarial"].__setitem__(1, 0),
    "the attack": lambda arrays: arrays.update(attack=np.array("CW")),
    "one more array": lambda arrays: arrays.update(more=np.zeros(1)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_gallery_that_was_changed_is_named(change: Callable[[dict[str, np.ndarray]], object], tmp_path: Path) -> None:
    path = tmp_path / "gallery.npz"
    arrays = sealed_arrays(pixels())
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    assert read_gallery(path, ["a", "b"]).attack == "PGD"
    np.savez(path, **pixels())  # of before  # pyright: ignore[reportArgumentType]
    assert read_gallery(path, ["a", "b"]).attack == "PGD"
    change(arrays)
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    with pytest.raises(RunError, match=r"gallery.npz cannot be read as a gallery: its sha256 is not"):
        read_gallery(path, ["a", "b"])


def test_an_embedding_that_was_changed_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t-sne.json"
    about = {"of": "features", "attack": None, "images": 2, "perplexity": 1.0, "seed": 0}
    document = {
        **about,
        "labels": [0, 1],
        "classes": ["a", "b"],
        "epochs": [{"epoch": 1, "points": {"n": [[0, 1], [2, 3]]}}],
    }
    for written in (document, sealed(document)):  # of before, and of now
        path.write_text(json.dumps(written))
        assert len(embedded(path)) == 1
    for name, value in {"seed": 1, "labels": [1, 0], "classes": ["b", "a"]}.items():
        path.write_text(json.dumps({**sealed(document), name: value}))
        with pytest.raises(RunError, match=r"t-sne.json is damaged .*its sha256 is not the digest"):
            embedded(path)


def test_pseudo_labels_that_were_changed_are_named(tmp_path: Path) -> None:
    path = tmp_path / "pool.npz"
    network = DigitsCNN().build(DATA.shape, 10, seed=0)
    pseudo_label(network, None, path, DATA)
    pool = NpzPool(path=str(path))
    assert len(pool.open(DATA).split) == 40
    arrays = read_arrays(path)
    plain = {name: values for name, values in arrays.items() if name != SEAL}
    np.savez(path, **plain)  # of before  # pyright: ignore[reportArgumentType]
    assert len(pool.open(DATA).split) == 40
    for name, values in {
        "image": 255 - arrays["image"],
        "label": 9 - arrays["label"],
        SEAL: np.array("0" * 64),
    }.items():
        np.savez(path, **{**arrays, name: values})  # pyright: ignore[reportArgumentType]
        with pytest.raises(DataError, match=r"pool.npz, image: its sha256 is not the digest of its images and labels"):
            pool.open(DATA)


def test_the_facts_of_a_pools_cache_are_checked_and_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "pool.npz"
    np.savez(path, image=np.zeros((4, 8, 8), np.uint8), label=np.arange(4))
    pool = NpzPool(path=str(path))
    digest = pool.open(DATA).digest
    (facts,) = (tmp_path / "cache").rglob("*.json")
    right = json.loads(facts.read_text())
    for wrong in ({**right, "sha256": "0" * 64}, {**right, "origin": "elsewhere"}, {**right, "facts_sha256": "0" * 64}):
        facts.write_text(json.dumps(wrong))
        assert pool.open(DATA).digest == digest and json.loads(facts.read_text()) != wrong
    former = {name: value for name, value in right.items() if name != "facts_sha256"}
    facts.write_text(json.dumps(former))
    assert pool.open(DATA).digest == digest and "facts_sha256" in json.loads(facts.read_text())
    facts.write_text(json.dumps({**former, "sha256": "0" * 64}))  # of before, and wrong: read through
    assert pool.open(DATA).digest == digest


def test_arrays_are_sealed_whatever_their_kind() -> None:
    arrays = {"a": np.zeros((0, 3)), "b": np.array("word"), "c": np.asfortranarray(np.arange(6.0).reshape(2, 3))}
    assert set(opened_arrays(sealed_arrays(arrays))) == set(arrays)
    with pytest.raises(ValueError, match="sha256"):
        opened_arrays({**sealed_arrays(arrays), "a": np.zeros((3, 0))})
