"""Evaluations that two ranks share give the records of one, whatever is evaluated; the first rank writes and speaks."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from poise.core.distributed import World
from poise.core.records import EvaluationRecord
from poise.data import CORRUPTIONS
from poise.engine import train
from poise.evaluation.shares import share_of

WORKER = Path(__file__).with_name("evaluation_worker.py")
NAMES = [
    "whole batches", "experts, whole batches", "fewer batches than ranks", "experts, fewer batches than ranks",
    "own", "stopped", "corrupted", "corrupted run",
]  # fmt: skip


@pytest.fixture(scope="module")
def worker(loaded: Callable[[Path], ModuleType]) -> ModuleType:
    return loaded(WORKER)


@dataclasses.dataclass(frozen=True)
class Done:
    """What each of two ranks returned and was told, and the same of one process."""

    folder: Path
    shared: dict[str, list[EvaluationRecord]]
    alone: dict[str, EvaluationRecord]
    told: list[dict[str, Any]]
    told_alone: dict[str, Any]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, worker: ModuleType, tiny: Callable[..., Any]) -> Done:
    folder = tmp_path_factory.mktemp("evaluations")
    test = worker.data().test
    (folder / "Digits-C").mkdir()
    for number, name in enumerate(CORRUPTIONS):
        images = test.images.permute(0, 2, 3, 1).numpy() // (1 + number)
        np.save(folder / "Digits-C" / f"{name}.npy", np.tile(images, (5, 1, 1, 1)))
    np.save(folder / "Digits-C" / "labels.npy", np.tile(test.labels.numpy(), 5))
    run = train(tiny(), folder / "run", device="cpu").path
    two, one = folder / "two", folder / "one"
    for each in (two, one):
        each.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run([sys.executable, str(WORKER), str(two), str(run)], env=environment, check=True, timeout=100)
    shared = {name: [EvaluationRecord.read(two / f"{name}.{rank}.json") for rank in range(2)] for name in NAMES}
    told, told_alone = [json.loads((two / f"told.{rank}.json").read_text()) for rank in range(2)], dict[str, Any]()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("poise.evaluation.columns.find_batch_size", lambda *_: 8)
        alone = worker.records(one, run, told=told_alone)
    return Done(two, shared, alone, told, told_alone)


def comparable(record: EvaluationRecord) -> Any:
    """The record as it lies on the disk, without times."""
    attacks = [
        dataclasses.replace(a, seconds=0, notes={k: v for k, v in a.notes.items() if k != "seconds"})
        for a in record.attacks
    ]
    return json.loads(
        json.dumps(dataclasses.asdict(dataclasses.replace(record, attacks=attacks, seconds=0, started="")))
    )


@pytest.mark.parametrize("name", NAMES)
def test_each_of_two_ranks_returns_the_record_of_one(done: Done, name: str) -> None:
    """Also where one of them has memory for more lanes than the other: both take the fewer."""
    wanted = comparable(done.alone[name])
    for record in done.shared[name]:
        assert comparable(record) == wanted
    assert len(set(wanted["natural"])) > 2
    for attack in wanted["attacks"]:
        assert attack["predicted"] != wanted["natural"], "the attack did something"


def test_each_rank_attacks_its_share_and_counts_it(done: Done) -> None:
    for name, shares in (("whole batches", [24, 21]), ("fewer batches than ranks", [45, 0])):
        assert [dict(each[name]["begun"])["PGD-3"] for each in done.told] == shares
    for rank, size in ((0, 23), (1, 22)):
        note = done.told[rank]["whole batches"]["notes"][0]
        assert re.fullmatch(rf"\d+ of the {size} images of rank {rank} stand.*", note)
    assert re.fullmatch(r"\d+ stand.*", done.told_alone["whole batches"]["notes"][0])


def test_the_sentence_at_a_components_end_counts_the_images_of_all_ranks(done: Done) -> None:
    def counts(told: dict[str, Any]) -> list[str]:
        return [sentence.rpartition(" (")[0] for sentence in told["whole batches"]["said"]]

    assert counts(done.told[0]) == counts(done.told[1]) == counts(done.told_alone)
    assert len(counts(done.told_alone)) == 3
    assert all("of 45 images stand after" in sentence for sentence in counts(done.told_alone))


def test_the_first_rank_writes_and_speaks(done: Done) -> None:
    assert [bool(each["own"]["said"]) for each in done.told] == [True, False]
    assert "is there already" in done.told[0]["kept"]["said"][0]
    assert not done.told[1]["kept"]["said"]
    assert comparable(EvaluationRecord.read(done.folder / "own.json")) == comparable(done.alone["own"])
    assert not list(done.folder.glob(".own*"))


def test_stopped_on_all_ranks_it_says_how_to_go_on_and_goes_on(done: Done) -> None:
    sentence = (
        r"stopped, with what was found kept; to go on: poise evaluate --weights .*last.safetensors, with the same"
        r" options"
    )
    assert re.fullmatch(sentence, done.told_alone["stopped"])
    for told in done.told:
        assert re.fullmatch(f"{sentence} and as many ranks", told["stopped"])


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 64, 65])
def test_shares_are_whole_batches_and_all_of_them(size: int, count: int) -> None:
    shares = [share_of(World(rank, size), count, 8) for rank in range(size)]
    assert [row for share in shares for row in range(count)[share]] == list(range(count))
    assert all(share.start % 8 == 0 or share.start == count for share in shares)
    assert shares[0].stop > 0
