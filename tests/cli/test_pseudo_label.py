"""poise pseudo-label: what it writes are the model's own labels, and a run can be trained on them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from poise.cli import app
from poise.core.errors import DataError, PoiseError, RunError, SettingsError, UntrustedFileError
from poise.data import Digits, Extra, NpzPool
from poise.engine import Experiment, Run, train
from poise.engine.training import divided
from poise.learners import SGD, Policy
from poise.methods import Joint
from poise.objectives import NT, WeightedRST
from poise.verbs.pseudo_label import parts_of, pseudo_label


def experiment(**changes: Any) -> Experiment:
    method = Joint(policy=Policy(objective=NT(), optimizer=SGD(learning_rate=0.05), **changes), batch_size=32)
    return Experiment(data=Digits(train_images=150, test_images=30), method=method, epochs=2, criterion="last")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(experiment(), tmp_path_factory.mktemp("labels") / "run")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poise.data.extra.cache_directory", lambda: tmp_path / "cache")


def digits() -> np.ndarray:
    """The last 40 training images that the run's experiment leaves out, uint8 [40, 8, 8, 1]."""
    return Digits().load().train.images[-40:].permute(0, 2, 3, 1).numpy().copy()


def expected(run: Run, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        probabilities = run.network()(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255).softmax(1)
    return probabilities.argmax(1).numpy(), probabilities.amax(1).numpy()


@pytest.mark.parametrize("kind", ["npz", "named otherwise", "npy", "pickle", "folder"])
def test_the_labels_and_confidences_are_the_models_own(tmp_path: Path, run: Run, kind: str) -> None:
    images = digits()
    source = (
        tmp_path
        / {"npz": "x.npz", "named otherwise": "x.npz", "npy": "x.npy", "pickle": "x.pickle", "folder": "x"}[kind]
    )
    if kind == "npz":
        np.savez(source, image=images, other=np.arange(3))
    elif kind == "named otherwise":
        np.savez(source, x=images)
    elif kind == "npy":
        np.save(source, images)
    elif kind == "pickle":
        source.write_bytes(pickle.dumps({"data": images}, 4))
    else:
        for number, image in enumerate(images):
            path = source / f"part{number // 20}" / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[:, :, 0]).save(path)
    done = pseudo_label(run, source, tmp_path / "pool.npz")
    labels, confidences = expected(run, images)
    with np.load(tmp_path / "pool.npz") as written:
        np.testing.assert_array_equal(written["image"], images)
        np.testing.assert_array_equal(written["label"], labels)
        np.testing.assert_allclose(written["confidence"], confidences, rtol=1e-5)
        assert written["confidence"].dtype == np.float32
    assert done.count == 40
    assert sum(done.per_class.values()) == 40
    assert done.per_class == {str(digit): int((labels == digit).sum()) for digit in range(10)}
    assert done.confidence == pytest.approx(confidences.mean(), rel=1e-5)
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_labelling_in_parts_gives_what_labelling_at_once_gives(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "x.npz", image=digits())
    pseudo_label(run, tmp_path / "x.npz", tmp_path / "whole.npz")
    monkeypatch.setattr("poise.data.parts.PART", 7)
    monkeypatch.setattr("poise.verbs.pseudo_label.BATCH", 3)
    pseudo_label(run, tmp_path / "x.npz", tmp_path / "parts.npz")
    with np.load(tmp_path / "whole.npz") as whole, np.load(tmp_path / "parts.npz") as parts:
        np.testing.assert_array_equal(whole["label"], parts["label"])
        np.testing.assert_array_equal(whole["image"], parts["image"])
        np.testing.assert_allclose(whole["confidence"], parts["confidence"], rtol=1e-5)


def test_self_training_on_the_labelled_images_alone(tmp_path: Path, run: Run) -> None:
    """The labelled-only form of the weighted RST: the unlabelled images are those trained on, held-out ones left
    out.
    """
    done = pseudo_label(run, None, tmp_path / "pool.npz")
    data = Digits(train_images=150).load()
    trained_on, held = divided(run.experiment, data)
    assert done.count == len(trained_on) == 150 - len(held) < 150
    pool = NpzPool(path=str(tmp_path / "pool.npz")).open(data)
    assert torch.equal(pool.split.images, trained_on.images)
    made = train(experiment(extra=Extra(pool=NpzPool(path=str(tmp_path / "pool.npz")))), tmp_path / "student")
    assert made.facts("last")["epoch"] == 2
    weighted = Policy(objective=WeightedRST(), extra=Extra(pool=NpzPool(path=str(tmp_path / "pool.npz"))))
    assert train(
        Experiment(data=Digits(train_images=60), method=Joint(policy=weighted), epochs=1), tmp_path / "rst"
    ).facts("last")


def objects(path: Path) -> None:
    np.savez(path, image=np.array([{}, []], dtype=object))


REFUSED: dict[str, tuple[str, Any, str, type[PoiseError]]] = {
    "missing images": ("x.npz", lambda path: None, "there is no", DataError),
    "another shape": (
        "x.npz",
        lambda path: np.savez(path, image=np.zeros((2, 9, 9, 1), np.uint8)),
        r"\[1, 9, 9\], must be \[1, 8, 8\]",
        DataError,
    ),
    "colour for grey": (
        "x.npy",
        lambda path: np.save(path, np.zeros((2, 8, 8, 3), np.uint8)),
        r"\[3, 8, 8\], must be",
        DataError,
    ),
    "float images": ("x.npy", lambda path: np.save(path, np.zeros((2, 8, 8, 1))), "must be uint8", DataError),
    "no images": ("x.npy", lambda path: np.save(path, np.zeros((0, 8, 8, 1), np.uint8)), "holds no images", DataError),
    "an empty folder": ("x", lambda path: path.mkdir(), "holds no images", DataError),
    "pickled objects": ("x.npz", objects, "pickled objects", UntrustedFileError),
    "several arrays": (
        "x.npz",
        lambda path: np.savez(path, a=digits(), b=digits()),
        "lacks the array 'image'; it has a, b",
        DataError,
    ),
    "another pickle": ("x.bin", lambda path: path.write_bytes(pickle.dumps([1])), "lacks 'data'", DataError),
    "no pickle": ("x.bin", lambda path: path.write_bytes(b"\x89PNG\r\n"), "not a whole pickle", DataError),
    "truncated": (
        "x.npy",
        lambda path: (np.save(path, digits()), path.write_bytes(path.read_bytes()[:900])),
        "not a whole .npy",
        DataError,
    ),
}


@pytest.mark.parametrize(("name", "make", "match", "error"), REFUSED.values(), ids=REFUSED.keys())
def test_images_that_do_not_fit_are_refused_and_nothing_is_written(
    tmp_path: Path, run: Run, name: str, make: Any, match: str, error: type[PoiseError]
) -> None:
    make(tmp_path / name)
    with pytest.raises(error, match=match):
        pseudo_label(run, tmp_path / name, tmp_path / "pool.npz")
    assert not (tmp_path / "pool.npz").exists()
    assert not list(tmp_path.glob(".pool*"))


def test_other_refusals(tmp_path: Path, run: Run) -> None:
    np.savez(tmp_path / "x.npz", image=digits())
    with pytest.raises(SettingsError, match=r"suffix must be \.npz"):
        pseudo_label(run, tmp_path / "x.npz", tmp_path / "pool.npy")
    with pytest.raises(SettingsError, match="another file than --images"):
        pseudo_label(run, tmp_path / "x.npz", tmp_path / "x.npz")
    with pytest.raises(PoiseError, match="no weights 'epoch 9'"):
        pseudo_label(run, tmp_path / "x.npz", tmp_path / "pool.npz", checkpoint="epoch 9")
    with pytest.raises(RunError, match="no run folder"):
        pseudo_label(Run.open(tmp_path / "nothing"), None, tmp_path / "pool.npz")


def test_damage_found_halfway_leaves_nothing(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poise.data.parts.PART", 10)
    path = tmp_path / "x.npz"
    np.savez(path, image=np.concatenate([digits()] * 10))
    content = bytearray(path.read_bytes())
    content[15_000] ^= 0xFF
    path.write_bytes(content)
    assert parts_of(path, 1).count == 400
    with pytest.raises(DataError, match=r"x\.npz is not a whole"):
        pseudo_label(run, path, tmp_path / "pool.npz")
    assert sorted(child.name for child in tmp_path.iterdir()) == ["x.npz"]


def test_the_command_says_how_many_images_got_which_label(tmp_path: Path, run: Run) -> None:
    np.savez(tmp_path / "x.npz", image=digits())
    words = ["pseudo-label", str(run.path), "--images", str(tmp_path / "x.npz"), "--out", str(tmp_path / "pool.npz")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "40 images, mean confidence" in done.output
    labels = expected(run, digits())[0]
    assert f"3 {int((labels == 3).sum())}" in done.output
    assert (tmp_path / "pool.npz").is_file()
