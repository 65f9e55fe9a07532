"""The ranks of a test: worker.py SIZE FOLDER. They are forked, so that imports are paid once.

The folder's plan.json is a list of jobs, done one after the other by all ranks together. Each rank writes what it sent
and when (report-N.json) and what it said (said-N.txt); exits.json has every rank's status.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import nn

import poise.recipes  # noqa: F401  (registers every class)
from poise.attacks import Ascent
from poise.core.batches import Batch, Now
from poise.core.distributed import World, join
from poise.core.errors import Interrupted, PoiseError
from poise.core.modes import crafting
from poise.core.progress import Progress
from poise.core.settings import read_file, settings
from poise.data import Feed
from poise.engine import Experiment, resume, train
from poise.engine.checkpoints import write_tensors
from poise.learners import Learner
from poise.learners.synchronised import synchronise
from poise.methods import Generalist
from poise.models.network import Network, Shape
from poise.models.small_cnn import PlainModule
from poise.objectives import AT
from poise.threats import L2


@settings
class PlainNet(Network):
    """Two convolutions without batch normalisation, so that examples do not meet in a forward pass."""

    smallest: ClassVar[int] = 4

    def module(self, shape: Shape, classes: int) -> nn.Module:
        channels, height, width = shape
        layers = [nn.Conv2d(channels, 6, 3, 2, 1), nn.SiLU(), nn.Conv2d(6, 8, 3, 1, 1), nn.SiLU(), nn.Flatten()]
        return PlainModule(layers, 8 * (height // 2) * (width // 2), classes)


class Stopping(Progress):
    """Asks this process to stop after so many steps, and says what it is told to."""

    def __init__(self, after: int) -> None:
        self.left = after

    def say(self, sentence: str) -> None:
        print(sentence, file=sys.stderr)

    def begin(self, what: str, total: int, unit: str, cost: float = 0.0) -> Callable[[int], None]:
        def advance(done: int) -> None:
            self.left -= done
            if self.left == 0:
                signal.raise_signal(signal.SIGTERM)

        return advance


class Watch:
    """Notes every collective: its job, whether a step was under way and which, its name and its bytes."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.job, self.step, self.die_at = -1, -1, -1
        for name, position in (("all_reduce", 0), ("all_gather", 1), ("send", 0), ("recv", 0)):
            setattr(dist, name, self.noting(name, getattr(dist, name), position))
        step = Generalist.step

        def watched(method: Generalist, learners: Any, batches: Any, now: Now) -> Any:
            self.step = now.step
            if now.step == self.die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            metrics = step(method, learners, batches, now)
            self.step = -1
            return metrics

        Generalist.step = watched  # type: ignore[method-assign]

    def noting(self, name: str, collective: Callable[..., Any], position: int) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            tensor = args[position]
            size = tensor.numel() * tensor.element_size()
            self.sent.append(
                {"job": self.job, "step": self.step, "name": name, "bytes": size, "dtype": str(tensor.dtype)}
            )
            return collective(*args, **kwargs)

        return noted


def gradients(experiment: Experiment, out: Path) -> None:
    """The gradient of the robust learner's first step, summed over the ranks."""
    world, data = join(), experiment.data.load(None)
    policy = experiment.method.policies()["robust"]
    learner = Learner("robust", policy, experiment.model.build(data.shape, len(data.classes), experiment.seed), world)
    feed = Feed(experiment.method.streams()["robust"], data.train, 0, rank=world.rank, world=world.size)
    now = Now(1, 0, 1, feed.steps_per_epoch, 0)
    learner.descend(policy.objective, feed.batch(now), now)
    if world.leads:
        found = {
            name: parameter.grad for name, parameter in learner.network.named_parameters() if parameter.grad is not None
        }
        write_tensors(out, found, {})


class Normed(nn.Module):
    """Batch normalisation of images and of vectors, in float64."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.conv, self.bn = nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3)
        self.linear, self.norm = nn.Linear(12, 4), nn.BatchNorm1d(4, momentum=None, affine=False)
        self.double()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(torch.tanh(self.bn(self.conv(x))).flatten(1)))


def normed(world: World) -> dict[str, torch.Tensor]:
    """All that a network and an attack on it see of 7 examples, of which the ranks hold parts of different sizes.

    Outputs and gradients of the images are of this rank's part; gradients of weights, also through a gradient, are
    summed.
    """
    generator = torch.Generator().manual_seed(0)
    everything = (
        torch.rand(7, 2, 4, 4, generator=generator, dtype=torch.float64),
        torch.randint(4, (7,), generator=generator),
    )
    x, y = (each[world.share(7)] for each in everything)
    network = Normed()
    synchronise(network, world)
    batch = replace(Batch.of(x, y), places=torch.arange(7)[world.share(7)])
    objective = AT(inner=Ascent(threat=L2(epsilon=0.5), step_size=0.2, steps=3), craft_mode="frozen_statistics")
    with crafting(network, "frozen_statistics"):
        found = {"part/x_adv": objective.craft(network, batch, Now(1, 0, 1, 1, 0)).x_adv}
    for step in range(2):
        leaf = (x + step).requires_grad_()
        logits = network(leaf)
        loss = nn.functional.cross_entropy(logits, y, reduction="sum")
        (slope,) = torch.autograd.grad(loss, leaf, create_graph=True)
        gradients = list(torch.autograd.grad(loss + slope.square().sum(), list(network.parameters())))
        world.sum_(gradients)
        found |= {f"part/logits {step}": logits.detach(), f"part/slope {step}": slope.detach()}
        found |= {f"gradient/{step}/{index}": gradient for index, gradient in enumerate(gradients)}
    found |= {f"state/{name}": tensor.clone() for name, tensor in network.state_dict().items()}
    found["part/evaluated"] = copy.deepcopy(network).eval()(x).detach()
    return found


def do(job: dict[str, Any], watch: Watch, rank: int) -> None:
    out = Path(job["out"])
    watch.die_at = job.get("die_at", -1) if rank == 1 else -1
    if job["do"] == "resume":
        resume(out)
        return
    experiment = read_file(Experiment, Path(job["settings"]))
    if job["do"] == "normed":
        write_tensors(out.with_name(f"{out.name}-{rank}"), normed(join()), {})
        return
    if job["do"] == "gradients":
        gradients(experiment, out)
        return
    try:
        train(experiment, out, progress=Stopping(job["stop_after"]) if "stop_after" in job else None)
    except Interrupted:
        if "stop_after" not in job:
            raise


def rank_of(size: int, rank: int, folder: Path) -> int:
    """What one rank does; returns its exit status."""
    torch.set_num_threads(1)
    init = f"file://{folder / 'init'}"
    dist.init_process_group("gloo", init_method=init, rank=rank, world_size=size, timeout=timedelta(seconds=60))
    watch = Watch()
    try:
        for watch.job, job in enumerate(json.loads((folder / "plan.json").read_text())):
            do(job, watch, rank)
    except PoiseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    (folder / f"report-{rank}.json").write_text(json.dumps(watch.sent))
    dist.destroy_process_group()
    return 0


def forked(size: int, rank: int, folder: Path) -> int:
    child = os.fork()
    if child:
        return child
    status = 2
    try:
        said = os.open(folder / f"said-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 2)
        status = rank_of(size, rank, folder)
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def main(size: int, folder: Path) -> None:
    children = [forked(size, rank, folder) for rank in range(size)]
    exits = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    (folder / "exits.json").write_text(json.dumps(exits))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
