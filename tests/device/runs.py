"""Whole runs on a pretended GPU: no step waits, an epoch's end at most three times, and they go on as if they had not
been stopped.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.pretended import Gpu, pretended_gpu

from poise.attacks import APGD, PGD, Ascent, AutoAttack, Square
from poise.core.batches import Now
from poise.data import CropFlip, Digits, Feed, Shift, Split, Stream
from poise.data.extra import Extra
from poise.engine import Experiment, Monitor, Run, loop, resume, train
from poise.engine.diagnostics import Diagnosis
from poise.engine.estimate import estimate_cost
from poise.engine.training import Meters
from poise.evaluation import Protocol
from poise.learners import EMA, SGD, SWA, Policy
from poise.methods import DVERGE, Generalist, Joint, Method
from poise.models import DigitsCNN, Ensemble, Network
from poise.objectives import AT, NT
from poise.threats import Linf
from poise.verbs.evaluate import evaluate

THREAT = Linf(epsilon=0.2)
INNER = Ascent(threat=THREAT, step_size=0.1, steps=2)
SEARCH = PGD(threat=THREAT, step_size=0.1, steps=2)
CNN = DigitsCNN(width=4)


def policy(objective: Any, average: Any = EMA(decay=0.8), **more: Any) -> Policy:
    return Policy(
        objective=objective, optimizer=SGD(learning_rate=0.05), average=average, augmentation=Shift(pixels=1), **more
    )


ROBUST, NATURAL = policy(AT(inner=INNER)), policy(NT())
METHODS: dict[str, tuple[Network, Method]] = {
    "joint": (CNN, Joint(policy=policy(AT(inner=INNER), SWA(from_epoch=1)), batch_size=32)),
    "with extra images": (
        CNN,
        Joint(policy=policy(AT(inner=INNER), extra=Extra(pool=None, share=0.25)), batch_size=32),
    ),
    "generalist": (CNN, Generalist(natural=NATURAL, robust=ROBUST, batch_size=32, decay=0.8, redistribute_every=1)),
    "generalist side by side": (
        CNN,
        Generalist(natural=NATURAL, robust=ROBUST, batch_size=32, decay=0.8, overlap=True),
    ),
    "dverge": (
        Ensemble(member=CNN, members=2),
        DVERGE(
            experts=2,
            batch_size=32,
            policy=Policy(optimizer=SGD(learning_rate=0.05)),
            distillation=Ascent(threat=THREAT, step_size=0.1, start="zero", steps=2),
            adversarial=INNER,
        ),
    ),
}


def experiment(name: str, **changes: Any) -> Experiment:
    model, method = METHODS[name]
    settings: dict[str, Any] = {
        "name": "tiny",
        "data": Digits(train_images=80, test_images=40),
        "model": model,
        "method": method,
        "epochs": 2,
        "monitors": (Monitor(), Monitor(name="robust", attack=SEARCH)),
        "monitor_every": 2,
        "protocol": Protocol(name="quick", attacks=(SEARCH, Square(threat=THREAT, queries=8))),
        "precision": "float32",
    }
    return Experiment(**{**settings, **changes})


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poise.learners.compiled.compiled_call", lambda function: function)
    monkeypatch.setattr("poise.learners.recording._WARMUPS", 1)


class Waits:
    """What waited in each step, and at each epoch's end."""

    def __init__(self, patched: pytest.MonkeyPatch, gpu: Gpu) -> None:
        self.steps: list[Counter[str]] = []
        self.ends: list[Counter[str]] = []
        add, end = Meters.add, loop._end_epoch

        def added(meters: Meters, *given: Any) -> None:
            add(meters, *given)
            self.steps.append(Counter(gpu.waits))
            gpu.waits.clear()

        def ended(*given: Any, **more: Any) -> Any:
            gpu.waits.clear()
            found = end(*given, **more)
            self.ends.append(Counter(gpu.waits))
            gpu.waits.clear()
            return found

        patched.setattr(Meters, "add", added)
        patched.setattr(loop, "_end_epoch", ended)


@pytest.mark.parametrize("name", METHODS)
def test_no_step_of_a_run_waits_and_an_epochs_end_at_most_three_times(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    with pretended_gpu() as gpu:
        waits = Waits(monkeypatch, gpu)
        run = train(experiment(name), tmp_path / "run", device="cuda")
        preparing = {"torch.cuda.synchronize", "the beginning of a capture"}
        late = [wait for step in waits.steps[1:] for wait in step if wait.partition(" @ ")[0] not in preparing]
        assert len(waits.steps) == 6 and not late, late
        assert waits.ends[0].total() <= 3, waits.ends[0]
        assert not gpu.faults
    assert Run.open(run.path).facts("last")["epoch"] == 2


@pytest.mark.parametrize("name", ["generalist"])
def test_a_run_that_goes_on_becomes_what_it_would_have_been(tmp_path: Path, name: str) -> None:
    whole = experiment(
        name, epochs=2, monitor_every=1, compile="off", diagnosis=Diagnosis(images=20, attack=SEARCH), reestimate=40
    )
    with pretended_gpu():
        unbroken = train(whole, tmp_path / "unbroken", device="cuda")
        first = train(whole, tmp_path / "first", device="cuda")
        for late in ("last", "selected"):
            for file in (first.path / "weights").glob(f"{late}*"):
                file.unlink()
        for file in (first.path / "checkpoints").glob("step-000000006*"):
            file.unlink()
        again = resume(first.path, device="cuda")
    ours, theirs = again.network("last").state_dict(), unbroken.network("last").state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_an_estimate_is_of_the_step_that_is_trained_with(tmp_path: Path) -> None:
    with pretended_gpu() as gpu:
        cost = estimate_cost(experiment("joint"), device="cuda")
        assert cost.measured_on == cost.batch_size == 32 and (len(gpu.graphs), gpu.replays) == (1, 3)
        assert (
            estimate_cost(experiment("joint", compile="off"), device="cuda").measured_on >= 8 and len(gpu.graphs) == 1
        )


def test_an_evaluation_writes_the_predictions_of_a_cpu(tmp_path: Path) -> None:
    attacks = (SEARCH, AutoAttack(threat=THREAT, version="custom", attacks=(APGD(steps=5), Square(queries=10))))
    tried = experiment("joint", epochs=1, monitor_every=1, protocol=Protocol(name="quick", attacks=attacks))
    with pretended_gpu() as gpu:
        run = train(tried, tmp_path / "run", device="cuda")
        records = [evaluate(run, device="cuda", out=tmp_path / "cuda.json")]
        assert not gpu.faults
    records.append(evaluate(run, device="cpu", out=tmp_path / "cpu.json", again=True))
    ours, plain = ([record.natural, *(column.predicted for column in record.attacks)] for record in records)
    assert ours == plain


@pytest.mark.parametrize("near", [True, False], ids=["on the GPU", "on the host"])
def test_batches_with_images_of_a_pool_are_those_of_a_cpu_and_wait_for_nothing(near: bool) -> None:
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        images = torch.randint(256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
        return Split.of(images, torch.randint(10, (count,), generator=generator))

    own, pool = split(40), split(60)
    stream = Stream(batch_size=16, augmentation=CropFlip(padding=1), extra=Extra(share=0.5))
    now = Now(1, 0, 2, 5, 0)
    for rank in (0, 1):
        plain = Feed(stream, own, 0, pool=pool, rank=rank, world=2)
        plain.pool = pool
        with pretended_gpu() as gpu:
            feed = Feed(stream, own, 0, "cuda", pool=pool, rank=rank, world=2)
            feed.pool = pool.to("cuda") if near else pool
            feed.batch(now)
            gpu.waits.clear()
            ours = feed.batch(replace(now, step=1))
            assert not gpu.waits
            wanted = plain.batch(replace(now, step=1))
            assert all(
                torch.equal(getattr(ours, key).cpu(), getattr(wanted, key))
                for key in ("x", "y", "ids", "places", "extra")
            )
