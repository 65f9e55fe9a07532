"""What a run would cost here: one small step of each learner, measured and extrapolated."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from poise.core.batches import Batch, Now
from poise.data import Feed
from poise.engine.devices import choose_device
from poise.engine.experiment import Experiment
from poise.evaluation.protocol import device_name
from poise.learners import Learner, Policy
from poise.learners.compiled import compilation
from poise.learners.precision import allowed
from poise.methods import Method


@dataclass(frozen=True)
class Cost:
    """parameters: of one network; seconds: of all training steps; state and activations in bytes."""

    parameters: int
    steps: int
    batch_size: int
    measured_on: int
    seconds: float
    state_bytes: int
    activation_bytes: int
    device: str

    def __str__(self) -> str:
        hours, rest = divmod(self.seconds, 3600)
        clock = (
            f"{hours:.0f} h {rest / 60:.0f} min" if hours else f"{rest / 60:.1f} min" if rest >= 60 else f"{rest:.1f} s"
        )
        return (
            f"{self.parameters:,} parameters; {self.steps:,} steps of {self.batch_size} images\nestimated training time"
            f" on this machine ({self.device}): {clock}, from one step of {self.measured_on} images; evaluation comes"
            f" on top\nestimated memory: {self.state_bytes / 2**20:.0f} MiB of weights, optimizer state and averages,"
            f" {self.activation_bytes / 2**20:.0f} MiB of saved activations"
        )


LONG_ENOUGH = 1.0
"""Seconds a measured step should take; shorter ones are measured again on twice the images, up to the batch size."""


def estimate_cost(experiment: Experiment, *, device: str = "auto", data_dir: Path | None = None) -> Cost:
    """Measure one step on a few examples (at least 8) and scale it linearly to the batch and the run.

    Where steps are compiled (see `Experiment.compile`), of which there is one for every size, it is measured on a whole
    batch.
    """
    device_chosen = choose_device(device)
    arithmetic = allowed(experiment.precision, device_chosen)
    compiling = compilation(experiment.compile, device_chosen)
    data = experiment.data.load(data_dir)
    count = len(data.train) if experiment.selection == "test" else round(len(data.train) * (1 - experiment.held_out))

    def build(name: str, policy: Policy) -> Learner:
        network = experiment.model.build(data.shape, len(data.classes), experiment.seed).to(
            device_chosen, arithmetic.dtype
        )
        return Learner(name, policy, network, arithmetic=arithmetic, compilation=compiling)

    method = experiment.method.diagnosed()  # an upper bound: learners that sit out epochs are timed as if they did not
    learners = method.learners(build)
    streams = method.streams()
    per_epoch = max(Feed(stream, data.train.first(count), 0).steps_per_epoch for stream in streams.values())
    first = Now(1, 0, experiment.epochs, per_epoch, experiment.seed)
    size = min(next(iter(streams.values())).batch_size, count)
    images = min(8, size) if compiling is None else size
    # the first step allocates; compiled, the second prepares and the third has its memory
    before = 1 if compiling is None else 3
    while True:
        part = data.train.first(images)
        batch = Batch.of(part.pixels(slice(None), arithmetic.dtype).to(device_chosen), part.labels.to(device_chosen))
        seconds = min(
            [_timed(method, learners, dict.fromkeys(streams, batch), first) for _ in range(before + 1)][before - 1 :]
        )
        if seconds >= LONG_ENOUGH or images == size:
            break
        images = min(2 * images, size)
    bytes_saved = [0]

    def count_bytes(tensor: Tensor) -> Tensor:
        bytes_saved[0] += tensor.numel() * tensor.element_size()
        return tensor

    name = next(iter(learners))
    with torch.autograd.graph.saved_tensors_hooks(count_bytes, lambda tensor: tensor):
        learners[name].network(batch.x).sum()
    scale = size / images
    state = sum(
        tensor.numel() * tensor.element_size() for learner in learners.values() for tensor in learner.state().values()
    )
    network = learners[name].network
    return Cost(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        steps=experiment.epochs * per_epoch,
        batch_size=size,
        measured_on=images,
        seconds=seconds * scale * experiment.epochs * count / size,
        state_bytes=state,
        activation_bytes=round(bytes_saved[0] * scale),
        device=device_name(device_chosen),
    )


def _timed(method: Method, learners: dict[str, Learner], batches: dict[str, Batch], now: Now) -> float:
    """Seconds of one step, the device's work included."""
    device = next(iter(batches.values())).x.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    clock = time.perf_counter()
    method.step(learners, batches, now)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - clock
