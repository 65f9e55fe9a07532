"""Sweeps on Ray, on a cluster of two nodes of one processor each, and the test's own, on this machine."""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import poise
from poise.attacks import APGD, FAB, AutoAttack, Square
from poise.core import holding
from poise.core.errors import Interrupted, MissingExtraError, RunError
from poise.core.records import EvaluationRecord
from poise.engine import Experiment, Run, train
from poise.evaluation import Protocol
from poise.sweeps import on_ray
from poise.sweeps.evaluating import evaluated
from poise.sweeps.ledger import Needs, tries
from poise.threats import Linf
from poise.verbs.evaluate import evaluate

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed; make test-extras has it"
)
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster  # pyright: ignore[reportMissingImports]

    os.environ.setdefault("RAY_worker_niceness", "0")
    made = Cluster()
    made.add_node(**{**NODE, "num_cpus": 0})  # the test's own, which outlives the others
    for _ in range(2):
        made.add_node(**NODE)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def engine(cluster: Any) -> Iterator[on_ray.OnRay]:
    """Connected once, as connecting takes seconds."""
    with on_ray.OnRay(cluster.address) as made:
        yield made


@contextlib.contextmanager
def watching(run: Path, acts: dict[int, Callable[[holding.Holder], None]]) -> Iterator[list[int]]:
    """In a thread, act on whoever trains the run once it has written so many epochs, each act once; gives those that
    are done.
    """
    done: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set() and len(done) < len(acts):
            file = run / "metrics.jsonl"
            epochs = file.read_bytes().count(b"\n") if file.exists() else 0
            holder = holding.Holder.of(run / ".lock")
            due = next((epoch for epoch in acts if epoch not in done and epoch <= epochs), None)
            if due is not None and holder is not None:
                acts[due](holder)
                done.append(due)
                while holding.Holder.of(run / ".lock") == holder and not over.is_set():
                    time.sleep(0.01)
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


def kill(holder: holding.Holder) -> None:
    os.kill(holder.pid, signal.SIGKILL)


def workers_of(cluster: Any) -> dict[int, str]:
    """{process: what Ray calls it} of the workers of the cluster's nodes."""
    raylets = {
        started.process.pid for node in cluster.list_all_nodes() for started in node.all_processes.get("raylet", [])
    }
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in raylets:
                found[int(entry.name)] = (entry / "cmdline").read_text()
    return found


@needs_ray
def test_a_gang_of_two_ranks_on_two_nodes_of_which_one_is_killed_ends_with_the_bits_of_the_unbroken_one(
    tmp_path: Path, tiny: Experiment, cluster: Any, engine: on_ray.OnRay, fingerprint_of: Any
) -> None:
    longer = dataclasses.replace(tiny, epochs=4)
    whole = poise.sweep(longer, out=tmp_path / "whole", on=engine, ranks=2)

    def kill_the_other(holder: holding.Holder) -> None:
        (other,) = (pid for pid, name in workers_of(cluster).items() if "Rank" in name and pid != holder.pid)
        os.kill(other, signal.SIGKILL)

    with watching(tmp_path / "broken" / "tiny", {2: kill_the_other}) as done:
        broken = poise.sweep(longer, out=tmp_path / "broken", on=engine, ranks=2)
    assert done == [2]
    assert fingerprint_of(broken.runs[0]) == fingerprint_of(whole.runs[0])
    assert [one.state for one in tries(broken.runs[0])] == ["lost", "done"]
    assert tries(broken.runs[0])[-1].attempt == 2
    assert Run(broken.runs[0]).about["placement"]["ranks"] == 2


@needs_ray
def test_a_sweep_that_is_asked_to_stop_has_its_workers_save_and_goes_on(
    tmp_path: Path, tiny: Experiment, engine: on_ray.OnRay, fingerprint_of: Any
) -> None:
    longer = dataclasses.replace(tiny, epochs=60)  # not over before the worker is asked
    unbroken = train(longer, tmp_path / "unbroken")
    # a signal reaches whoever started the sweep, here the test
    with (
        watching(tmp_path / "s" / "tiny", {1: lambda holder: os.kill(os.getpid(), signal.SIGTERM)}) as done,
        pytest.raises(Interrupted, match=f"to go on: poise sweep --resume {tmp_path / 's'}"),
    ):
        poise.sweep(longer, out=tmp_path / "s", on=engine, evaluate=False)
    assert done == [1]
    assert tries(tmp_path / "s" / "tiny")[-1].state == "interrupted"
    made = poise.sweep(out=tmp_path / "s", on=engine)
    assert fingerprint_of(made.runs[0]) == fingerprint_of(unbroken.path)


@needs_ray
def test_what_fails_is_reported_and_what_the_cluster_has_not_is_refused(
    tmp_path: Path, tiny: Experiment, engine: on_ray.OnRay, heard: Any
) -> None:
    told = heard()
    rates = {"method.optimizer.learning_rate": [0.05, 1e30]}
    small = dataclasses.replace(tiny, epochs=1)
    made = poise.sweep(small, rates, out=tmp_path / "s", on=engine, progress=told, evaluate=False)
    assert list(made.failed) == ["tiny-learning_rate=1e+30"]
    assert "no longer finite" in made.failed["tiny-learning_rate=1e+30"]
    assert "seen by all nodes of the cluster" in told.said[0]
    refusals: list[tuple[dict[str, Any], str]] = [
        ({"gpus": 1}, "--gpus 1: no node of the cluster has as many, the largest has 0"),
        ({"cpus": 2}, "--cpus 2: no node of the cluster has as many, the largest has 1"),
        ({"ranks": 9}, "--ranks 9 with --cpus 1: the cluster has room for"),
    ]
    for asked, sentence in refusals:
        with pytest.raises(RunError, match=sentence):
            poise.sweep(small, out=tmp_path / str(sorted(asked)), on=engine, **asked)


@needs_ray
def test_one_autoattack_by_two_workers_is_recorded_as_by_one_process(
    tmp_path: Path, tiny: Experiment, engine: on_ray.OnRay
) -> None:
    run = train(dataclasses.replace(tiny, epochs=1), tmp_path / "run")
    copied = shutil.copytree(run.path, tmp_path / "copy" / "run")
    threat = Linf(epsilon=0.1)
    attacks = (Square(threat=threat, queries=10), APGD(threat=threat, steps=3), FAB(threat=threat, steps=2))
    protocol = Protocol(name="small", attacks=(AutoAttack(threat=threat, version="custom", attacks=attacks),), first=25)
    one = evaluate(run, protocol=protocol)
    (path,) = evaluated([{"asked": copied, "protocol": protocol}], engine, needs=Needs(ranks=2))
    two = EvaluationRecord.read(path)
    assert path == copied / "records" / Path(str(one.path)).name
    assert fields(two) == fields(one)


def fields(record: EvaluationRecord) -> Any:
    """All of a record but for when it was made and how long it took."""
    data = json.loads(json.dumps(dataclasses.asdict(record)))
    columns = [{**column, "seconds": 0, "notes": {**column["notes"], "seconds": []}} for column in data.pop("attacks")]
    return {name: value for name, value in data.items() if name not in ("started", "seconds", "path")}, columns


@contextlib.contextmanager
def mounted_here_only(folder: Path) -> Iterator[bool]:
    """A file system at `folder` that no other process sees; False where this one may not mount."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/self/ns/mnt").open() as before:
        if libc.unshare(0x20000):  # CLONE_NEWNS
            yield False
            return
        try:
            libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None)  # MS_REC | MS_PRIVATE
            yield libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, None) == 0
        finally:
            libc.setns(before.fileno(), 0)


@needs_ray
def test_storage_that_a_node_does_not_see_is_said_before_any_work(
    tmp_path: Path, tiny: Experiment, engine: on_ray.OnRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s").mkdir()
    with mounted_here_only(tmp_path / "s") as mounted:
        if not mounted:  # then nobody sees what is not written
            monkeypatch.setattr(on_ray, "write_text", lambda path, text: None)
        with pytest.raises(RunError, match=r"not on storage that all \d nodes share: .* does not see it; give"):
            poise.sweep(tiny, out=tmp_path / "s", on=engine)
        assert not (tmp_path / "s" / "tiny").exists()


def test_ranks_are_numbered_in_all_and_on_their_node() -> None:
    seats = on_ray._seats(["a", "b", "a"])  # pyright: ignore[reportPrivateUsage]
    assert [(seat["rank"], seat["local_rank"], seat["local_size"]) for seat in seats] == [
        (0, 0, 2),
        (1, 0, 1),
        (2, 1, 2),
    ]
    assert {seat["size"] for seat in seats} == {3}


def test_without_ray_or_submitit_the_line_that_installs_it_is_said_before_anything_is_written(
    tmp_path: Path, tiny: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name in ("ray", "submitit"):
            raise ImportError(name)
        return imported(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    for on, line in (("ray", r"pip install 'poise\[ray\]'"), ("slurm=gpu", r"pip install 'poise\[slurm\]'")):
        with pytest.raises(MissingExtraError, match=line):
            poise.sweep(tiny, out=tmp_path / "s", on=on)
    assert not (tmp_path / "s").exists()


class Patient(on_ray.OnRay):
    """The connected engine, with a try more."""

    def __init__(self, engine: on_ray.OnRay) -> None:
        super().__init__(engine.address)
        self.tries = 4


@needs_ray
def test_a_worker_killed_at_two_epochs_and_a_node_removed_leave_the_bits_of_the_unbroken_run(
    tmp_path: Path, tiny: Experiment, cluster: Any, engine: on_ray.OnRay, fingerprint_of: Any, heard: Any
) -> None:
    longer = dataclasses.replace(tiny, epochs=40)  # not over before the node is missed
    unbroken = train(longer, tmp_path / "unbroken")
    for which in ("selected", "last"):
        evaluate(unbroken, checkpoint=which)

    def remove(holder: holding.Holder) -> None:
        (node,) = (node for node in cluster.list_all_nodes() if f"({node.node_id[:8]})" in holder.node)
        cluster.remove_node(node, allow_graceful=False)

    told = heard()
    with watching(tmp_path / "s" / "tiny", {1: kill, 3: kill, 5: remove}) as done:
        # four tries, of which three are lost
        made = poise.sweep(longer, out=tmp_path / "s", on=Patient(engine), progress=told)
    assert done == [1, 3, 5]
    assert not made.failed
    assert fingerprint_of(made.runs[0]) == fingerprint_of(unbroken.path)
    assert [(one.state, one.attempt) for one in tries(made.runs[0])] == [
        ("lost", 1),
        ("lost", 2),
        ("lost", 3),
        ("done", 4),
    ]
    assert sum("lost, begun again" in sentence for sentence in told.said) == 3
