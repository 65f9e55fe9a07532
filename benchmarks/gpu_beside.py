"""What `gpu_speed` measures beside training steps of one network: PGD-10 alone, peaks of memory, Synergy-of-Experts."""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.gpu_setting import NOW, Numbers, Setting, Step, learner, no_tf32
from benchmarks.measuring import peak_bytes, ratio
from benchmarks.reference import at_step
from benchmarks.reference.attacks import pgd, uniform
from benchmarks.reference.synergy import SynergyTrainer
from poise.attacks import PGD, Ascent
from poise.core.batches import Now
from poise.models import Collaboration, CollaborationModule
from poise.objectives import AT, SynergyOfExperts

EPSILON, STEP_SIZE = 8 / 255, 2 / 255
PHASES = {phase: Now(epoch=2 * phase - 1, step=0, epochs=3, steps_per_epoch=1, seed=0) for phase in (1, 2)}


def attack_ratio(setting: Setting) -> Numbers:
    """PGD-10 as an attack, beside the straightforward one as torch comes and in strict float32, and torchattacks' if it
    is there.
    """
    network, batch = setting.model().eval(), setting.whole()
    ours, straightforward = PGD(steps=10), partial(pgd, network, batch.x, batch.y, uniform(), EPSILON, STEP_SIZE, 10)

    def strict() -> None:
        with no_tf32():
            straightforward()

    contenders: dict[str, Step] = {
        "ours": lambda: ours(network.eval(), batch.x, batch.y),
        "straightforward": straightforward,
        "strict float32": strict,
    }
    theirs = torchattacks_pgd(network)
    if theirs is not None:
        contenders["torchattacks"] = lambda: theirs(batch.x, batch.y)
    seconds = setting.timed(contenders)
    others = {name: values for name, values in seconds.items() if name != "ours"}
    return {
        "ours_ms": 1000 * statistics.median(seconds["ours"]),
        "attack_times": {name: vars(ratio(values, seconds["ours"])) for name, values in others.items()},
    }


def torchattacks_pgd(network: nn.Module) -> Callable[[Tensor, Tensor], object] | None:
    """torchattacks' PGD-10 on the network, None where the package cannot be had."""
    try:
        return importlib.import_module("torchattacks").PGD(network, eps=EPSILON, alpha=STEP_SIZE, steps=10)
    except ImportError:
        return None


def memory(setting: Setting) -> Numbers:
    """The most bytes of tensors alive during AT steps, weights and what is kept between steps included on a GPU, in
    MiB.
    """
    peaks = {name: peak_of(setting, name) / 2**20 for name in ("ours", "straightforward")}
    return {"peak_mib": peaks}


def peak_of(setting: Setting, name: str) -> int:
    """Of one of the two, built, warmed up and released here, so that the other's tensors do not count."""
    cuda = setting.device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(setting.device)
    before = torch.cuda.memory_allocated(setting.device) if cuda else 0
    batch = setting.whole()
    if name == "ours":
        step: Step = partial(learner(setting, AT(), []).descend, AT(), batch, NOW)
    else:
        model = setting.model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        step = partial(at_step, model, optimizer, batch.x, batch.y, noise=uniform())
    if not cuda:
        return peak_bytes(step)
    for _ in range(3):  # kernels are chosen with workspaces of their own
        step()
    torch.cuda.reset_peak_memory_stats(setting.device)
    step()
    return torch.cuda.max_memory_allocated(setting.device) - before + graphs_memory()


def graphs_memory() -> int:
    """Bytes that recorded graphs keep for themselves: nobody else can use them, though between replays nothing is
    allocated there.
    """
    private = [part for part in torch.cuda.memory_snapshot() if tuple(part.get("segment_pool_id", (0, 0))) != (0, 0)]
    return sum(part["total_size"] - part["allocated_size"] for part in private)


def synergy_ratio(setting: Setting, phase: int) -> Numbers:
    """A step of Synergy-of-Experts with three experts of the setting's network, in one of its phases."""
    several = Synergy(setting.network, setting.batch, setting.device, setting.size, setting.rounds, setting.repeats)
    objective, said, batch = SynergyOfExperts(inner=Ascent()), [], setting.whole()
    ours, whole = learner(several, objective, said), several.model()
    assert isinstance(whole, CollaborationModule)
    trainer, noises = SynergyTrainer(list(whole.members), 0.01), [uniform()] * (3 if phase == 1 else 1)
    contenders: dict[str, Step] = {
        "ours": lambda: ours.descend(objective, batch, PHASES[phase]),
        "straightforward": lambda: trainer.step(batch.x, batch.y, noises, EPSILON, STEP_SIZE, phase),
    }
    seconds = setting.timed(contenders)
    return {
        "ours_ms": 1000 * statistics.median(seconds["ours"]),
        "times": vars(ratio(seconds["straightforward"], seconds["ours"])),
        "said": said,
    }


class Synergy(Setting):
    """Three experts of the network instead of the network."""

    def model(self) -> nn.Module:
        return (
            Collaboration(member=self.network, members=3).build((3, self.size, self.size), 10, seed=0).to(self.device)
        )
