"""The ranks of AutoAttack's tests: autoattack_worker.py FOLDER. They are forked, so that imports are paid once.

The folder's plan.json is a list of jobs, which two ranks do one after the other, each writing what `AutoAttack.run`
returned (NAME.RANK.pt); said.json has for each job both ranks' statuses and the sentence by which they refused. A
single job with "times" is begun so many times and killed by SIGKILL at random moments before it is let run to its end.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import select
import signal
import sys
import time
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from poise.attacks.autoattack import AutoAttack, Result
from poise.attacks.autoattack.apgd import APGD
from poise.attacks.autoattack.fab import FAB
from poise.attacks.autoattack.square import Square
from poise.core.distributed import ALONE, World, join
from poise.core.errors import PoiseError
from poise.threats import L2, Linf

COMPARED = ("x_adv", "y", "predicted", "natural", "broken_by")


def conv_net() -> nn.Sequential:
    """A small network with weights large enough that images have well separated logits."""
    layers = [
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 6),
    ]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in layers:
            for parameter in layer.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return nn.Sequential(*layers).eval()


def labelled(count: int) -> tuple[Tensor, Tensor]:
    """Random images labelled by the network, one in eight wrongly; a zero with a sign among the pixels."""
    x = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    x[:, 0, 0, 0] = -0.0
    with torch.no_grad():
        y = conv_net()(x).argmax(1)
    return x, torch.where(torch.arange(count) % 8 == 7, (y + 1) % 6, y)


def small(norm: str) -> AutoAttack:
    """All kinds of components with small budgets."""
    parts = (
        Square(queries=8),
        APGD(steps=2),
        APGD(loss="targeted_dlr", steps=6, targets=3),
        FAB(targeted=True, steps=4, targets=2),
    )
    return AutoAttack(
        threat=Linf(epsilon=0.02) if norm == "Linf" else L2(epsilon=0.25), version="custom", attacks=parts
    )


def found(how: dict[str, Any], world: World = ALONE, **rest: Any) -> Result:
    """What `run` returns; `how` has "norm", "count" and arguments of `run`."""
    how = dict(how)
    attack, (x, y) = small(how.pop("norm", "Linf")), labelled(how.pop("count", 49))
    return attack.run(conv_net(), x, y, world=world, **how, **rest)


def attacking(jobs: list[dict[str, Any]], rank: int, folder: Path, began: int) -> list[tuple[int, str]]:
    """What one rank does; of each job the status, and the sentence by which it was refused."""
    torch.set_num_threads(1)
    init = f"file://{folder / (jobs[0]['name'] + '.init')}"
    dist.init_process_group("gloo", init_method=init, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    world = join()
    world.exchange("")
    os.write(began, b".")
    said = []
    for job in jobs:
        start = time.perf_counter()
        try:
            result = found({**job["how"], **job.get("of", {}).get(str(rank), {})}, world)
        except PoiseError as error:
            said.append((1, str(error)))
            continue
        said.append((0, ""))
        torch.save(
            {**dataclasses.asdict(result), "took": time.perf_counter() - start}, folder / f"{job['name']}.{rank}.pt"
        )
    return said


def forked(jobs: list[dict[str, Any]], rank: int, folder: Path, began: int) -> int:
    child = os.fork()
    if child:
        return child
    status = 2
    try:
        (folder / f"{jobs[0]['name']}.said-{rank}").write_text(json.dumps(attacking(jobs, rank, folder, began)))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def run(jobs: list[dict[str, Any]], folder: Path) -> list[list[tuple[int, str]]]:
    """Two ranks do the jobs; of each job both ranks' statuses and what they said. A rank that was killed has status -9
    in all.
    """
    reader, began = os.pipe()
    children = [forked(jobs, rank, folder, began) for rank in range(2)]
    os.close(began)
    if "kill" in jobs[0]:
        for _ in children:
            os.read(reader, 1)
        select.select([], [], [], jobs[0]["after"])
        for rank in jobs[0]["kill"]:
            os.kill(children[rank], signal.SIGKILL)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    os.close(reader)
    files = [folder / f"{jobs[0]['name']}.said-{rank}" for rank in range(2)]
    said = [
        [(status, "")] * len(jobs) if status else json.loads(file.read_text())
        for status, file in zip(statuses, files, strict=True)
    ]
    return [list(ranks) for ranks in zip(*said, strict=True)]


def killed(job: dict[str, Any], folder: Path) -> list[list[tuple[int, str]]]:
    """The job unbroken, to know how long it takes; then killed so many times at random moments, and last to its end."""
    whole = {**job, "name": "whole", "how": {**job["how"], "state_path": str(folder / "unbroken")}}
    outcomes = run([whole], folder)
    took = float(torch.load(folder / "whole.0.pt")["took"])
    choice = random.Random(0)
    for number in range(job["times"]):
        victims = choice.choice(([0], [1], [0, 1]))
        part = {**job, "name": f"part {number}", "kill": victims, "after": choice.random() * took / (job["times"] + 1)}
        outcomes += run([part], folder)
    return outcomes + run([job], folder)


def main(folder: Path) -> None:
    jobs = json.loads((folder / "plan.json").read_text())
    (folder / "said.json").write_text(json.dumps(killed(jobs[0], folder) if "times" in jobs[0] else run(jobs, folder)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
