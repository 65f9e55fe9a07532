"""Several ranks on this machine, started as processes that meet through a file."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from poise.attacks import PGD, Ascent
from poise.core.settings import to_json
from poise.data import Digits, Shift
from poise.engine import Experiment, Monitor, Run
from poise.engine.checkpoints import read_tensors
from poise.evaluation import Protocol
from poise.learners import AWP, EMA, SGD, Constant, Policy
from poise.methods import BaseLearner, Generalist
from poise.objectives import AT, NT, TRADES
from poise.threats import Linf

WORKER = Path(__file__).with_name("worker.py")
THREAT = Linf(epsilon=0.2)
INNER = Ascent(threat=THREAT, step_size=0.1, steps=2)
AVERAGED = Policy(
    objective=NT(), optimizer=SGD(learning_rate=0.05), average=EMA(decay=0.8), augmentation=Shift(pixels=1)
)


@pytest.fixture(scope="session")
def loaded() -> Callable[[Path], ModuleType]:
    """Loads the program of a rank as a module, for the names in it."""

    def load(path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"{path.stem}_of_tests", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def worker(loaded: Callable[[Path], ModuleType]) -> ModuleType:
    """The worker as a module, for the network it brings."""
    return loaded(WORKER)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Experiment]:
    """Generalist on 90 digits with batch normalisation: 3 steps an epoch, 5 epochs, redistribution at the start of
    epochs 2 to 5.
    """

    def make(**changes: Any) -> Experiment:
        method = Generalist(
            natural=AVERAGED,
            robust=replace(AVERAGED, objective=AT(inner=INNER)),
            batch_size=32,
            decay=0.8,
            redistribute_from=0.3,
            redistribute_every=1,
        )
        made = Experiment(
            name="tiny",
            data=Digits(train_images=90, test_images=60),
            method=method,
            epochs=5,
            selection="test",
            monitors=(Monitor(), Monitor(name="pgd", attack=PGD(threat=THREAT, step_size=0.1, steps=2), first=40)),
            protocol=Protocol(name="tiny", attacks=(), first=40),
        )
        return replace(made, **changes)

    return make


@pytest.fixture(scope="session")
def smooth(tiny: Callable[..., Experiment], worker: ModuleType) -> Callable[..., Experiment]:
    """The same in float64 on a network without batch normalisation, with weight perturbation, clipping and
    microbatches.
    """

    def make(**changes: Any) -> Experiment:
        base = tiny(model=worker.PlainNet(), precision="float64")
        assert isinstance(base.method, Generalist)
        robust = replace(
            base.method.robust,
            objective=TRADES(beta=2, inner=INNER),
            perturbation=AWP(gamma=0.01),
            clip=1.0,
            microbatch=7,
        )
        return replace(base, method=replace(base.method, robust=robust), **changes)

    return make


@dataclass
class Ranks:
    """A plan for ranks started together, its jobs' folders, and afterwards what each rank sent."""

    folder: Path
    jobs: list[dict[str, Any]] = field(default_factory=list)
    sent: list[list[dict[str, Any]]] = field(default_factory=list)
    seconds: float = 100

    def train(self, name: str, experiment: Experiment, do: str = "train", **how: Any) -> Path:
        settings, out = self.folder / f"{name}.settings.json", self.folder / name
        settings.write_text(json.dumps(to_json(experiment)))
        self.jobs.append({"do": do, "settings": str(settings), "out": str(out), **how})
        return out

    def resume(self, out: Path) -> None:
        self.jobs.append({"do": "resume", "out": str(out)})

    def start(self, size: int) -> list[tuple[int, str]]:
        """Run all jobs on `size` ranks; the exit status of each rank and what it said."""
        (self.folder / "plan.json").write_text(json.dumps(self.jobs))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        command = [sys.executable, str(WORKER), str(size), str(self.folder)]
        subprocess.run(command, env=environment, check=True, timeout=self.seconds)
        reports = [self.folder / f"report-{rank}.json" for rank in range(size)]
        self.sent = [json.loads(report.read_text()) for report in reports if report.exists()]
        statuses = json.loads((self.folder / "exits.json").read_text())
        return [(status, (self.folder / f"said-{rank}.txt").read_text()) for rank, status in enumerate(statuses)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    return Ranks(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="session")
def fingerprint(metrics: Callable[[Path], list[dict[str, Any]]]) -> Callable[[Path], dict[str, str]]:
    """Digests of deployed weights and of all learners' states, and the metrics but for times."""

    def of(out: Path) -> dict[str, str]:
        prints = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (out / "checkpoints").glob("*.safetensors")
        }
        return {**prints, "metrics": json.dumps(metrics(out))}

    return of


@pytest.fixture(scope="session")
def torchrun() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command under torchrun: `torchrun(2, "train", ...)`, on the CPU with a thread each."""

    def started(size: int, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={size}",
            "--no-python",
        ]
        command += [sys.executable, "-c", "from poise.cli import main; main()", verb, *arguments, "--device", "cpu"]
        return subprocess.run(
            command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120
        )

    return started


@pytest.fixture(scope="session")
def distance() -> Callable[[Path, Path], float]:
    """Largest difference between the last complete checkpoints of two runs, over all tensors of all learners."""

    def between(left: Path, right: Path) -> float:
        first, second = (read_tensors(Run.open(out).states()[0])[0] for out in (left, right))
        assert first.keys() == second.keys()
        assert all(tensor.dtype in (torch.float64, torch.int64) for tensor in first.values())
        return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)

    return between


@pytest.fixture(scope="session")
def metrics() -> Callable[[Path], list[dict[str, Any]]]:
    """The lines of a run's metrics but for times."""

    def of(out: Path) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in sorted(line.items()) if "second" not in key} for line in lines]

    return of


@pytest.fixture(scope="session")
def third() -> Callable[[Experiment], Experiment]:
    """The same with a third base learner, by learner."""

    def make(experiment: Experiment) -> Experiment:
        method = experiment.method
        assert isinstance(method, Generalist)
        other = BaseLearner(name="third", policy=method.natural, share=Constant(at=0.2))
        return replace(experiment, method=replace(method, others=(other,)), placement="by-learner")

    return make
