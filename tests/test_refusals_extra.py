"""Objectives, extra data, averages and recipes refuse bad input by one sentence and leave nothing behind (see
test_refusals).
"""

from __future__ import annotations

import dataclasses
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from poise.core.batches import Now
from poise.core.errors import PoiseError
from poise.core.overrides import override
from poise.core.settings import from_json, to_json
from poise.data import Digits, Extra, Feed, FolderPool, NpzPool, PseudoLabelled500K, Stream
from poise.engine import Experiment, Run, resume, train
from poise.learners import AWP, EMA, RWP, SGD, SWA, Policy, Step
from poise.methods import Generalist, Joint
from poise.objectives import (
    AT,
    BAT,
    FAT,
    GAIRAT,
    GAIRRST,
    MART,
    NT,
    RST,
    TRADES,
    Objective,
    SqueezeTraining,
    TwoExamples,
    WeightedRST,
)
from poise.recipes import experiment as recipe
from poise.recipes import register
from poise.recipes.trades_matched import matched_beta
from poise.verbs.pseudo_label import pseudo_label

Act = Callable[[Path], object]


def nothing(folder: Path) -> None:
    pass


def tiny(objective: Objective | None = None, epochs: int = 2, **policy: Any) -> Experiment:
    made = Policy(objective=objective or NT(), optimizer=SGD(learning_rate=0.01), **policy)
    return Experiment(
        data=Digits(train_images=60, test_images=20),
        method=Joint(policy=made, batch_size=16),
        epochs=epochs,
        criterion="last",
    )


def with_pool(name: str = "pool.npz", **extra: Any) -> Act:
    return lambda folder: train(tiny(extra=Extra(pool=NpzPool(path=name), **extra)), folder / "run")


def without_labels(objective: Objective) -> Act:
    return lambda folder: train(
        tiny(objective, extra=Extra(pool=NpzPool(path="pool.npz", labels=None))), folder / "run"
    )


def images(count: int = 20, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *(shape or (8, 8, 1))), dtype=np.uint8)


def npz(**arrays: Any) -> Act:
    given: dict[str, Any] = {"image": images(), "label": np.arange(20) % 10, **arrays}
    kept: dict[str, Any] = {name: np.asarray(values) for name, values in given.items() if values is not None}
    return lambda folder: np.savez(folder / "pool.npz", **kept)  # type: ignore[arg-type]


def cut(make: Act, share: float) -> Act:
    def made(folder: Path) -> None:
        make(folder)
        path = folder / "pool.npz"
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])

    return made


def flipped(folder: Path) -> None:
    np.savez(folder / "pool.npz", image=images(400), label=np.arange(400) % 10)
    content = bytearray((folder / "pool.npz").read_bytes())
    content[15_000] ^= 0xFF
    (folder / "pool.npz").write_bytes(content)


class Runs:
    """Pickles to a call that writes a file, as a malicious one would."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


def pickled(content: Any) -> Act:
    def made(folder: Path) -> None:
        found = content(folder) if callable(content) else content
        (folder / "pool.pickle").write_bytes(pickle.dumps(found, 4))

    return made


def with_pickle(folder: Path) -> object:
    return train(tiny(extra=Extra(pool=PseudoLabelled500K(path="pool.pickle"))), folder / "run")


def picture(name: str, size: int = 8) -> Act:
    def made(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((size, size), dtype=np.uint8)).save(path)

    return made


def with_folder(folder: Path) -> object:
    return train(tiny(extra=Extra(pool=FolderPool(path="pool"))), folder / "run")


def a_run(folder: Path) -> None:
    train(tiny(), folder / "old")


def labelled(source: str, out: str) -> Act:
    return lambda folder: pseudo_label(Run.open(folder / "old"), folder / source, folder / out)


def both(first: Act, second: Act) -> Act:
    def made(folder: Path) -> None:
        first(folder)
        second(folder)

    return made


def changed_pool(folder: Path) -> None:
    npz()(folder)
    train(tiny(extra=Extra(pool=NpzPool(path="pool.npz"))), folder / "run")
    npz(label=np.zeros(20, dtype=int))(folder)


def setting(make: Callable[[], object]) -> Act:
    return lambda folder: make()


def json_of(change: Callable[[dict[str, Any]], None]) -> Act:
    def made(folder: Path) -> object:
        data = to_json(tiny(AT()))
        change(data["method"]["policy"])
        return from_json(Experiment, data)

    return made


NOW = Now(epoch=1, step=0, epochs=1, steps_per_epoch=1, seed=0)
TWO_EPOCHS = "must be at most epochs = 2"

# name: (what is there before, what is asked, words of the sentence)
ROWS: dict[str, tuple[Act, Act, tuple[str, ...]]] = {
    # extra data: archives
    "no pool": (nothing, with_pool("gone.npz"), ("there is no gone.npz", "looked in")),
    "labels beyond the classes": (
        npz(label=np.arange(20)),
        with_pool(),
        ("pool.npz", "from 0 to 19", "outside 0 to 9"),
    ),
    "unlabelled images": (npz(label=np.full(20, -1)), with_pool(), ("pool.npz", "from -1 to -1", "outside 0 to 9")),
    "images without labels, for AT": (
        npz(label=None),
        without_labels(AT()),
        ("pool.npz is without labels", "AT learns from labels", "RST"),
    ),
    "images without labels, for friendly AT": (
        npz(label=None),
        without_labels(FAT()),
        ("FAT learns from labels", "poise pseudo-label"),
    ),
    "labels that are fractions": (npz(label=np.zeros(20)), with_pool(), ("pool.npz", "whole number", "float64")),
    "labels for some images": (npz(label=np.zeros(7, dtype=int)), with_pool(), ("pool.npz", "20 images but 7 labels")),
    "no labels": (npz(label=None), with_pool(), ("pool.npz", "lacks the array 'label'", "it has image")),
    "no images by that name": (
        npz(image=None, x=images()),
        with_pool(),
        ("lacks the array 'image'", "it has label, x"),
    ),
    "images of another size": (
        npz(image=images(20, 9, 9, 1)),
        with_pool(),
        ("pool.npz", "[1, 9, 9]", "must be [1, 8, 8]", "Digits"),
    ),
    "images in colour": (npz(image=images(20, 8, 8, 3)), with_pool(), ("[3, 8, 8]", "must be [1, 8, 8]")),
    "images as floats": (npz(image=np.zeros((20, 8, 8, 1))), with_pool(), ("pool.npz", "must be uint8, not float64")),
    "images in a row": (npz(image=images(20, 64)), with_pool(), ("pool.npz", "3 or 4 axes", "[0, 64]")),
    "an empty pool": (npz(image=images(0), label=np.zeros(0, dtype=int)), with_pool(), ("pool.npz", "holds no images")),
    "objects for images": (
        npz(image=np.array([{}] * 20)),
        with_pool(),
        ("pickled objects", "could run code", "not read"),
    ),
    "objects for labels": (
        npz(label=np.array([{}] * 20)),
        with_pool(),
        ("pickled objects", "could run code", "not read"),
    ),
    "a truncated archive": (cut(npz(), 0.6), with_pool(), ("pool.npz", "not a whole .npz archive")),
    "an archive with a flipped bit": (flipped, with_pool(), ("pool.npz", "not a whole .npz archive", "CRC")),
    "a file that is no archive": (cut(npz(), 0), with_pool(), ("pool.npz", "not a whole .npz archive")),
    # extra data: the published pickle
    "a hostile pickle": (
        pickled(lambda folder: {"data": Runs(folder / "owned")}),
        with_pickle,
        ("pool.pickle", "system", "not read"),
    ),
    "a pickle of something else": (
        pickled([1, 2]),
        with_pickle,
        ("pool.pickle", "lacks 'data' or 'extrapolated_targets'"),
    ),
    "a pickle of lists": (
        pickled({"data": [1], "extrapolated_targets": [1]}),
        with_pickle,
        ("pool.pickle", "must be uint8"),
    ),
    "a pool that is no pickle": (
        lambda folder: (folder / "pool.pickle").write_bytes(b"GIF89a"),
        with_pickle,
        ("not a whole pickle",),
    ),
    "a folder for a pickle": (
        lambda folder: (folder / "pool.pickle").mkdir(),
        with_pickle,
        ("is a folder, must be a pickle",),
    ),
    # extra data: folders
    "a folder without classes": (picture("pool/a.png"), with_folder, ("no subfolders", "poise pseudo-label")),
    "a folder of another class": (picture("pool/zebra/a.png"), with_folder, ("zebra is no class of Digits", "0, 1, 2")),
    "a folder of larger images": (picture("pool/3/a.png", 9), with_folder, ("[1, 9, 9]", "must be [1, 8, 8]")),
    "a class without images": (
        lambda folder: (folder / "pool" / "3").mkdir(parents=True),
        with_folder,
        ("holds no images",),
    ),
    # extra data: settings
    "a share of nothing": (nothing, setting(lambda: Extra(share=0)), ("Extra.share = 0", "greater than 0")),
    "a share above one": (nothing, setting(lambda: Extra(share=1.5)), ("Extra.share = 1.5", "less than or equal to 1")),
    "a share of a boolean": (nothing, setting(lambda: Extra(share=True)), ("Extra.share", "must be a number")),
    "a share below one image": (
        nothing,
        setting(lambda: Stream(batch_size=10, extra=Extra(share=0.01))),
        ("Extra.share = 0.01", "at least one of batch_size = 10"),
    ),
    "a share below one image of a run": (npz(), with_pool(share=0.001), ("Extra.share = 0.001", "batch_size = 16")),
    "no path": (nothing, setting(lambda: NpzPool(path="")), ("NpzPool.path = ''", "at least 1 character")),
    "a pool that is unknown": (
        nothing,
        json_of(lambda policy: policy.update(extra={"type": "Extra", "pool": {"type": "ZipPool", "path": "x"}})),
        ("names no registered pool 'ZipPool'", "NpzPool"),
    ),
    "a setting that pools lack": (
        nothing,
        json_of(lambda policy: policy.update(extra={"type": "NpzPool", "path": "x", "image": "a"})),
        ("NpzPool has no setting 'image'", "did you mean 'images'"),
    ),
    "a feed without its pool": (
        nothing,
        setting(lambda: Feed(Stream(batch_size=8, extra=Extra()), Digits().load().train, 0).batch(NOW)),
        ("feed was given no pool", "open_pools"),
    ),
    "another pool when resuming": (
        changed_pool,
        lambda folder: resume(folder / "run"),
        ("pool.npz was changed", "start a new run"),
    ),
    # pseudo-labels
    "labels into another format": (
        both(a_run, npz()),
        labelled("pool.npz", "out.npy"),
        ("out.npy", "suffix must be .npz"),
    ),
    "labels over the images": (
        both(a_run, npz()),
        labelled("pool.npz", "pool.npz"),
        ("pool.npz", "another file than --images"),
    ),
    "labels for other images": (
        both(a_run, npz(image=images(20, 9, 9, 1))),
        labelled("pool.npz", "out.npz"),
        ("[1, 9, 9]", "must be [1, 8, 8]", "old was trained on"),
    ),
    "labels for no images": (a_run, labelled("gone", "out.npz"), ("there is no", "gone")),
    "labels for a damaged archive": (
        both(a_run, flipped),
        labelled("pool.npz", "out.npz"),
        ("pool.npz", "not a whole .npz archive"),
    ),
    "labels without a run": (npz(), labelled("pool.npz", "out.npz"), ("there is no run folder", "old")),
    # averages
    "SWA after the last epoch": (
        nothing,
        setting(lambda: tiny(average=SWA(from_epoch=3))),
        ("SWA.from_epoch = 3", TWO_EPOCHS),
    ),
    "SWA of one base learner after the last epoch": (
        nothing,
        setting(lambda: Experiment(method=Generalist(robust=Policy(average=SWA(from_epoch=99))), epochs=2)),
        ("learner 'robust'", "SWA.from_epoch = 99", TWO_EPOCHS),
    ),
    "SWA beyond a run made shorter": (
        nothing,
        setting(lambda: override(tiny(average=SWA(from_epoch=2)), ["epochs=1"])),
        ("SWA.from_epoch = 2", "must be at most epochs = 1"),
    ),
    # what begins after the last epoch
    "GAIRAT's weights after the last epoch": (
        nothing,
        setting(lambda: tiny(GAIRAT())),
        ("learner 'joint'", "GAIRAT.from_epoch = 60", TWO_EPOCHS, "begin earlier or set epochs to 60 or more"),
    ),
    "GAIR-RST's margins after the last epoch": (
        nothing,
        setting(lambda: tiny(GAIRRST())),
        ("GAIRRST.from_epoch = 100", TWO_EPOCHS),
    ),
    "AWP after the last epoch": (
        nothing,
        setting(lambda: tiny(perturbation=AWP(from_epoch=3))),
        ("AWP.from_epoch = 3", TWO_EPOCHS),
    ),
    "RWP of one base learner after the last epoch": (
        nothing,
        setting(lambda: Experiment(method=Generalist(robust=Policy(perturbation=RWP(from_epoch=46))), epochs=45)),
        ("learner 'robust'", "RWP.from_epoch = 46", "must be at most epochs = 45"),
    ),
    "a tau after the last epoch": (
        nothing,
        setting(lambda: override(tiny(FAT(tau_from=(1, 30, 60)), epochs=60), ["epochs=59"])),
        ("FAT.tau_from = (1, 30, 60)", "must be at most epochs = 59", "set epochs to 60 or more"),
    ),
    "a tau inside of two examples after the last epoch": (
        nothing,
        setting(lambda: tiny(TwoExamples(objective=FAT()))),
        ("FAT.tau_from = (1, 51, 91)", TWO_EPOCHS),
    ),
    "SWA from epoch 0": (
        nothing,
        setting(lambda: SWA(from_epoch=0)),
        ("SWA.from_epoch = 0", "greater than or equal to 1"),
    ),
    "SWA every 0 epochs": (nothing, setting(lambda: SWA(every=0)), ("SWA.every = 0", "greater than or equal to 1")),
    "SWA of unknown buffers": (
        nothing,
        setting(lambda: SWA(buffers="none")),  # pyright: ignore[reportArgumentType]
        ("SWA.buffers = 'none'", "'average' or 'copy'"),
    ),
    "an EMA above one": (nothing, setting(lambda: EMA(decay=1.01)), ("EMA.decay = 1.01", "less than or equal to 1")),
    "an average that is unknown": (
        nothing,
        json_of(lambda policy: policy.update(average="SVA")),
        ("no registered average 'SVA'", "'SWA'"),
    ),
    "a clip of nothing": (nothing, setting(lambda: tiny(clip=0)), ("clip = 0", "greater than 0")),
    # objectives
    "beta below 0 in TRADES": (
        nothing,
        setting(lambda: TRADES(beta=-1)),
        ("TRADES.beta = -1", "greater than or equal to 0"),
    ),
    "beta below 0 in MART": (
        nothing,
        setting(lambda: MART(beta=-0.5)),
        ("MART.beta = -0.5", "greater than or equal to 0"),
    ),
    "beta below 0 in RST": (nothing, setting(lambda: RST(beta=-6)), ("RST.beta = -6", "greater than or equal to 0")),
    "beta below 0 in ST": (
        nothing,
        setting(lambda: SqueezeTraining(beta=-6)),
        ("SqueezeTraining.beta = -6", "or equal to 0"),
    ),
    "beta above 1 in AT": (nothing, setting(lambda: AT(beta=1.5)), ("AT.beta = 1.5", "less than or equal to 1")),
    "a weight above 1 in RST": (
        nothing,
        setting(lambda: WeightedRST(extra_natural=2)),
        ("extra_natural = 2", "less than or equal to 1"),
    ),
    "KL for the pair of ST": (
        nothing,
        setting(lambda: SqueezeTraining(divergence="kl")),  # pyright: ignore[reportArgumentType]
        ("divergence = 'kl'", "'js'"),
    ),
    "no bridges": (nothing, setting(lambda: BAT(bridges=0)), ("BAT.bridges = 0", "greater than or equal to 1")),
    "tau above the steps": (
        nothing,
        setting(lambda: FAT(tau=(0, 1, 11))),
        ("FAT.tau = (0, 1, 11)", "at most", "steps = 10"),
    ),
    "tau without its epoch": (
        nothing,
        setting(lambda: FAT(tau=(0, 1))),
        ("FAT.tau_from = (1, 51, 91)", "as long as tau = (0, 1)"),
    ),
    "tau from later on": (
        nothing,
        setting(lambda: FAT(tau_from=(2, 51, 91))),
        ("FAT.tau_from = (2, 51, 91)", "start at 1"),
    ),
    "an unknown weighting": (
        nothing,
        setting(lambda: GAIRAT(weighting="linear")),  # pyright: ignore[reportArgumentType]
        ("GAIRAT.weighting = 'linear'", "'tanh'"),
    ),
    "two examples of NT": (
        nothing,
        setting(lambda: TwoExamples(objective=NT())),  # type: ignore[arg-type]
        ("TwoExamples.objective = NT", "must show one adversarial example", "TRADES"),
    ),
    "a smoothing above 1": (
        nothing,
        setting(lambda: NT(label_smoothing=1.1)),
        ("NT.label_smoothing = 1.1", "or equal to 1"),
    ),
    # perturbations and schedules
    "gamma below 0 in AWP": (
        nothing,
        setting(lambda: AWP(gamma=-0.01)),
        ("AWP.gamma = -0.01", "greater than or equal to 0"),
    ),
    "no ascent steps in RWP": (nothing, setting(lambda: RWP(steps=0)), ("RWP.steps = 0", "greater than or equal to 1")),
    "drops without their factors": (
        nothing,
        setting(lambda: Step(at=(80, 100, 110))),
        ("Step.at = (80.0, 100.0, 110.0)", "factors"),
    ),
    # recipes
    "a recipe that is unknown": (
        nothing,
        setting(lambda: recipe("st_cifar10_resnet81")),
        ("no recipe", "'st_cifar10_resnet18'"),
    ),
    "a recipe's name that is taken": (
        nothing,
        setting(lambda: register("at_digits", "", recipe)),  # pyright: ignore[reportArgumentType]
        ("'at_digits' already",),
    ),
    "a target that no beta reaches": (
        nothing,
        setting(lambda: matched_beta(lambda beta: 0.9 - 0.1 * beta, 0.95)),
        ("target = 95.00 %", "reaches 80.00 to 90.00 %"),
    ),
    "a setting that recipes lack": (
        nothing,
        setting(lambda: override(recipe("st_cifar10_resnet18"), ["method.divergance=js"])),
        ("method.divergance", "did you mean 'divergence'"),
    ),
}


def files(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("name", ROWS)
def test_bad_input_is_refused_by_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    prepare, act, words = ROWS[name]
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr("poise.data.extra.cache_directory", lambda: tmp_path / "cache")
    prepare(place)
    before = files(place)
    kept = len(list((tmp_path / "cache").rglob("*.json")))
    with pytest.raises(PoiseError) as refused:
        act(place)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert 20 < len(sentence) < 1000
    assert not sentence.endswith(".")
    missing = [word for word in words if word not in sentence]
    assert not missing, f"{missing} not in: {sentence}"
    assert files(place) == before
    assert not list((tmp_path / "cache").rglob("*.part"))
    if "resuming" not in name:
        assert len(list((tmp_path / "cache").rglob("*.json"))) == kept


def test_the_table_is_as_long_as_promised() -> None:
    assert len(ROWS) >= 60


def test_a_disk_that_is_full_while_a_pool_is_read_leaves_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    npz()(tmp_path)
    monkeypatch.setattr("poise.data.extra.cache_directory", lambda: tmp_path / "cache")
    pool = NpzPool(path=str(tmp_path / "pool.npz"))
    with monkeypatch.context() as patched, pytest.raises(PoiseError, match="cannot be written: no space is left"):
        patched.setattr(os, "fsync", full)
        pool.open(Digits().load())
    assert not list((tmp_path / "cache" / "pools").iterdir())
    opened = pool.open(Digits().load())
    assert torch.equal(opened.split.images, torch.from_numpy(images().transpose(0, 3, 1, 2).copy()))
    assert dataclasses.replace(pool, images="x") != pool
