"""AutoAttack on two ranks finds, bit for bit, what one rank finds; and refuses what cannot be one run."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

WORKER = Path(__file__).with_name("autoattack_worker.py")
CASES: dict[str, dict[str, Any]] = {
    "linf": {"batch_size": 8},
    "l2": {"norm": "L2", "batch_size": 16},
    "fixed shape": {"batch_size": 16, "fixed_shape": True, "seed": 3},
    "bfloat16": {"batch_size": 8, "precision": "bfloat16"},
    "found width": {"memory_limit": 10**6},
    "one example each": {"count": 2},
    "fewer than ranks": {"count": 1},
    "many lanes": {"batch_size": 64},
}


@pytest.fixture(scope="module")
def worker(loaded: Callable[[Path], ModuleType]) -> ModuleType:
    return loaded(WORKER)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, worker: ModuleType) -> tuple[Path, dict[str, list[list[Any]]]]:
    """The folder of all jobs, which two ranks did one after the other, and what each rank said."""
    folder = tmp_path_factory.mktemp("ranks")
    state = str(folder / "by_one")
    worker.found({"batch_size": 8}, state_path=state)
    jobs = [{"name": name, "how": how} for name, how in CASES.items()]
    jobs += [
        {"name": "strangers", "how": {}, "of": {"1": {"seed": 5}}},
        {"name": "begun by one", "how": {"batch_size": 8, "state_path": state}},
        {"name": "kept", "how": {"batch_size": 8, "state_path": str(folder / "by_two")}},
        {"name": "again", "how": {"batch_size": 8, "state_path": str(folder / "by_two")}},
    ]
    (folder / "plan.json").write_text(json.dumps(jobs))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run([sys.executable, str(WORKER), str(folder)], env=environment, check=True, timeout=100)
    said = json.loads((folder / "said.json").read_text())
    return folder, {job["name"]: outcome for job, outcome in zip(jobs, said, strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_each_of_two_ranks_returns_the_result_of_one(done: Any, worker: ModuleType, name: str) -> None:
    folder, said = done
    assert said[name] == [[0, ""], [0, ""]]
    alone = dataclasses.asdict(worker.found(CASES[name]))
    for rank in range(2):
        shared = torch.load(folder / f"{name}.{rank}.pt")
        for field in worker.COMPARED:
            one, two = alone[field], shared[field]
            assert one.dtype == two.dtype
            assert torch.equal(one.view(torch.uint8), two.view(torch.uint8)), field
        for field in ("attacks", "survivors", "shapes", "notes", "seed"):
            assert alone[field] == shared[field], field
        assert [useful for _, useful in alone["steps"]] == [useful for _, useful in shared["steps"]]
    if name in ("linf", "l2"):
        assert len(set(alone["broken_by"].tolist())) >= 4, "robust, misclassified and broken by several attacks"


def test_ranks_given_different_arguments_refuse_each_other(done: Any) -> None:
    assert [status for status, _ in done[1]["strangers"]] == [1, 1]
    assert (
        "rank 1 was given another network, other images, labels or settings than rank 0" in done[1]["strangers"][0][1]
    )


def test_a_state_of_another_number_of_ranks_is_refused_by_all(done: Any, worker: ModuleType) -> None:
    folder, said = done
    for status, text in said["begun by one"]:
        assert status == 1
        assert "was begun by 1 rank and this run has 2: go on with 1, or remove by_one* to start anew" in text
    with pytest.raises(OSError, match="was begun by 2 ranks and this run has 1"):
        worker.found({"batch_size": 8}, state_path=folder / "by_two")


def test_a_finished_run_answers_again_without_attacking(done: Any) -> None:
    folder, said = done
    assert said["again"] == [[0, ""], [0, ""]]
    first, second = (torch.load(folder / f"{name}.0.pt") for name in ("kept", "again"))
    assert first["seconds"] == second["seconds"]
    assert torch.equal(first["x_adv"], second["x_adv"])
