"""Whole runs on image files: the same weights however images are kept, wherever the run was stopped, by any number of
workers.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from poise.attacks import PGD, Ascent
from poise.core.errors import DataError, Interrupted, RunError
from poise.core.progress import Progress
from poise.data import Flip, Folder, Mixing, RandomErasing, RandomResizedCrop, Several
from poise.engine import Experiment, Run, resume, train
from poise.engine.experiment import Monitor
from poise.evaluation import Protocol
from poise.learners import Policy
from poise.methods import Joint
from poise.models import SmallCNN
from poise.objectives import AT
from poise.threats import Linf

THREAT = Linf(epsilon=4 / 255)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of fourteen photographs, as it were, of several sizes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("POISE_WORKERS", "0")
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(14):
            height, width = rng.integers(34, 48, 2)
            values = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(values).save(tmp_path / "pets" / name / f"{number}.jpg", quality=90)
    return tmp_path / "pets"


def experiment(folder: Path, decode: Any) -> Experiment:
    augmentation = Several(parts=(RandomResizedCrop(scale=(0.3, 1.0)), Flip(), RandomErasing()))
    policy = Policy(objective=AT(inner=Ascent(threat=THREAT, steps=1)), augmentation=augmentation, mixing=Mixing())
    return Experiment(
        data=Folder(path=str(folder), image_size=28, shorter_side=30, decode=decode),
        model=SmallCNN(),
        method=Joint(policy=policy, batch_size=6),
        epochs=3,
        held_out=0.2,
        monitors=(Monitor(), Monitor(name="PGD", attack=PGD(threat=THREAT, steps=1))),
        protocol=Protocol(),
    )


class Stopping(Progress):
    def __init__(self, after: int) -> None:
        self.left = after

    def begin(self, what: str, total: int, unit: str, cost: float = 0.0) -> Callable[[int], None]:
        def advance(done: int) -> None:
            self.left -= done
            if self.left == 0:
                signal.raise_signal(signal.SIGTERM)

        return advance


def weights(run: Run) -> dict[str, Any]:
    return {
        which: {name: tensor.tolist() for name, tensor in run.network(which).state_dict().items()}
        for which in ("selected", "last")
    }


def test_a_run_ends_with_the_same_bits_however_images_are_kept_and_whoever_decodes_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = weights(train(experiment(folder, "resident"), tmp_path / "resident"))
    for mode, first, then in (("cache", "2", "0"), ("workers", "1", "3")):
        monkeypatch.setenv("POISE_WORKERS", first)
        with pytest.raises(Interrupted):
            train(experiment(folder, mode), tmp_path / f"run-{mode}", progress=Stopping(after=5))
        monkeypatch.setenv("POISE_WORKERS", then)
        run = resume(tmp_path / f"run-{mode}")
        assert weights(run) == unbroken, mode
        assert run.about["data_digest"].startswith("files-") and "pillow" in run.about["versions"]


def test_a_run_goes_on_with_images_kept_otherwise_and_not_with_others(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = replace(experiment(folder, "auto"), epochs=2)
    monkeypatch.setattr("poise.data.cache.free_memory", lambda: 0)
    with pytest.raises(Interrupted):
        train(made, tmp_path / "run", progress=Stopping(after=2))
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image = folder / "cat" / "3.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole + b"\0")
    with pytest.raises(RunError, match="the data set pets was changed since the run was started"):
        resume(tmp_path / "run")
    image.unlink()
    image.write_bytes(whole)
    with pytest.raises(RunError, match="was changed"):
        resume(tmp_path / "run")  # its time is another; the manifest knows it by that


def opened(folder: str, ready: Any, digests: Any) -> None:
    ready.wait()
    data = Folder(path=folder, image_size=28, decode="cache").load()
    digests.put((data.digest, data.train.images.sum().item(), data.remark))


def test_processes_that_begin_together_read_one_cache(folder: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, digests = context.Barrier(2), context.Queue()
    ranks = [context.Process(target=opened, args=(str(folder), ready, digests)) for _ in range(2)]
    for rank in ranks:
        rank.start()
    found = [digests.get(timeout=120) for _ in ranks]
    for rank in ranks:
        rank.join()
    assert found[0] == found[1] and "decoded as they are needed" in found[0][2]
    assert len(list((tmp_path / "cache" / "poise" / "images").glob("*.images"))) == 1


def test_a_damaged_image_ends_a_run_by_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = folder / "dog" / "5.jpg"
    image.write_bytes(image.read_bytes()[:200])
    monkeypatch.setenv("POISE_WORKERS", "2")
    with pytest.raises(DataError, match=r"dog/5\.jpg is not a readable image"):
        train(experiment(folder, "workers"), tmp_path / "run")
