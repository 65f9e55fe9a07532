"""The ranks of the tests of evaluations: evaluation_worker.py FOLDER RUN. They are forked, so that imports are paid
once.

Each rank writes what it returned (NAME.RANK.json) and what it was told (told.RANK.json).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from poise.attacks import APGD, CW, PGD, AutoAttack, Square
from poise.attacks.autoattack import Status
from poise.core.distributed import ALONE, World, join
from poise.core.errors import Interrupted
from poise.core.progress import Progress
from poise.core.records import EvaluationRecord
from poise.data import Data, Digits
from poise.engine import Run
from poise.evaluation import Protocol, columns
from poise.evaluation import evaluate as measure
from poise.models import Collaboration, DigitsCNN
from poise.threats import Linf
from poise.verbs.corruptions import corruptions
from poise.verbs.evaluate import evaluate

THREAT = Linf(epsilon=0.1)
DLR = APGD(threat=THREAT, steps=4, loss="dlr")
RULE = AutoAttack(
    threat=THREAT, version="custom", attacks=(Square(threat=THREAT, queries=10), APGD(threat=THREAT, steps=3), DLR)
)
CHEAP = PGD(threat=THREAT, step_size=0.03, steps=3)
PROTOCOL = Protocol(name="small", attacks=(CHEAP, CW(threat=THREAT, step_size=0.03, steps=3), RULE, DLR), first=45)
SIZES = {"whole batches": 8, "fewer batches than ranks": 64}


def data() -> Data:
    return Digits(train_images=90, test_images=60).load()


def collaboration() -> torch.nn.Module:
    """Two experts of weights so large that their answers hang on the images."""
    made = Collaboration(member=DigitsCNN(), members=2).build((1, 8, 8), 10, seed=2).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(
                20 * parameter if parameter.dim() > 1 else 0.1 * torch.randn(parameter.shape, generator=generator)
            )
    return made


class Told(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.notes: list[str] = []
        self.begun: list[Any] = []

    def begin(self, what: str, total: int, unit: str, cost: float = 0.0) -> Callable[[int], None]:
        self.begun.append((what, total))
        return lambda done: None

    def note(self, text: str, share: float | None = None) -> None:
        self.notes.append(text)

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


@contextlib.contextmanager
def signalled(round: int) -> Iterator[None]:
    """Every rank gets a signal in this round of AutoAttack, as torchrun sends it to all."""
    call, rounds = columns._Report.__call__, itertools.count(1)

    def counted(report: columns._Report, now: Status) -> None:
        if next(rounds) == round:
            signal.raise_signal(signal.SIGTERM)
        call(report, now)

    columns._Report.__call__ = counted  # type: ignore[method-assign]
    try:
        yield
    finally:
        columns._Report.__call__ = call  # type: ignore[method-assign]


def records(
    folder: Path, run: Path, world: World = ALONE, told: dict[str, Any] | None = None
) -> dict[str, EvaluationRecord]:
    """Every kind of evaluation, by these ranks; what was said goes into `told`."""
    made, told, network = {}, {} if told is None else told, Run.open(run).network()
    for name, size in SIZES.items():
        progress = Told()
        made[name] = measure(
            network, data(), PROTOCOL, batch_size=size, world=world, progress=progress, journal=folder / f".{name}"
        )
        told[name] = {"said": progress.said, "notes": progress.notes, "begun": progress.begun}
        cheap = Protocol(attacks=(CHEAP, DLR), first=45)
        made[f"experts, {name}"] = measure(collaboration(), data(), cheap, batch_size=size, world=world)
    weights, images = (
        run / "checkpoints" / "last.safetensors",
        '{"type": "Digits", "test_images": 60, "train_images": 90}',
    )
    own: dict[str, Any] = {"data": images, "network": "DigitsCNN", "device": "cpu"}
    progress = Told()
    path = evaluate(weights, protocol=PROTOCOL, out=folder / "own.json", progress=progress, **own).path
    told["own"] = {"said": progress.said}
    made["own"] = EvaluationRecord.read(path)
    evaluate(weights, protocol=PROTOCOL, out=path, progress=(progress := Told()), **own)
    told["kept"] = {"said": progress.said}
    try:
        with signalled(round=4):
            evaluate(weights, protocol=PROTOCOL, out=folder / "stopped.json", **own)
    except Interrupted as error:
        told["stopped"] = str(error)
    made["stopped"] = evaluate(weights, protocol=PROTOCOL, out=folder / "stopped.json", **own)
    corrupted = folder.parent / "Digits-C"
    made["corrupted"] = corruptions(weights, corrupted, out=folder / "c.json", first=50, **own)
    made["corrupted run"] = corruptions(Run.open(run), corrupted, device="cpu")
    return made


def rank_of(folder: Path, run: Path, rank: int) -> int:
    child = os.fork()
    if child:
        return child
    status = 2
    try:
        torch.set_num_threads(1)
        init = f"file://{folder / 'init'}"
        dist.init_process_group("gloo", init_method=init, rank=rank, world_size=2, timeout=timedelta(seconds=60))
        columns.find_batch_size = lambda *_: (8, 32)[rank]  # as on two GPUs of which one is nearly full
        told: dict[str, Any] = {}
        for name, record in records(folder, run, join(), told).items():
            record.write(folder / f"{name}.{rank}.json")
        (folder / f"told.{rank}.json").write_text(json.dumps(told))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def main(folder: Path, run: Path) -> None:
    children = [rank_of(folder, run, rank) for rank in range(2)]
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
