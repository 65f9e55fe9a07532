"""Small runs, which every question is asked of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from poise.attacks import PGD
from poise.data import Digits, Npz
from poise.engine import Experiment, Run, train
from poise.evaluation import Protocol
from poise.learners import SGD, Policy
from poise.methods import Joint
from poise.models import DigitsCNN
from poise.objectives import NT
from poise.threats import Linf

ATTACK = PGD(threat=Linf(epsilon=0.1), step_size=0.05, steps=2)
SMALL = Experiment(
    name="small",
    data=Digits(train_images=120, test_images=40),
    model=DigitsCNN(width=4),
    method=Joint(policy=Policy(objective=NT(), optimizer=SGD(learning_rate=0.1)), batch_size=30),
    epochs=2,
    criterion="last",
    keep_epochs=(2,),
    protocol=Protocol(name="toy", attacks=(ATTACK,)),
)


@pytest.fixture(scope="session")
def small() -> Experiment:
    return SMALL


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Runs of seeds 0 and 3, to be read or copied only."""
    folder = tmp_path_factory.mktemp("finished")
    seeded = {f"seed-{seed}": dataclasses.replace(SMALL, seed=seed) for seed in (0, 3)}
    return {name: train(experiment, folder / name, device="cpu") for name, experiment in seeded.items()}


def write_archive(path: Path, first: int = 0) -> Path:
    """Digits as an archive, from the training image `first` on."""
    data = Digits(train_images=160, test_images=40).load()
    images, labels = (column[first : first + 120] for column in (data.train.images.numpy(), data.train.labels.numpy()))
    tested, truth = data.test.images.numpy().transpose(0, 2, 3, 1), data.test.labels.numpy()
    np.savez(path, x_train=images.transpose(0, 2, 3, 1), y_train=labels, x_test=tested, y_test=truth)
    return path


@pytest.fixture
def archive_writer() -> Callable[..., Path]:
    return write_archive


@pytest.fixture
def on_archive(tmp_path: Path) -> Run:
    """A run on an archive beside it."""
    archive = write_archive(tmp_path / "mine.npz")
    return train(dataclasses.replace(SMALL, data=Npz(path=str(archive))), tmp_path / "run", device="cpu")
