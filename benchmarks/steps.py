"""Seconds and memory of one training step: Poise's beside a straightforward one, in one process, in turn.

    OMP_NUM_THREADS=1 python -m benchmarks steps [--quick] [--rounds N]

The floor of a step is counted in forwards of the network: a backward pass that reaches the inputs or the weights only
costs one forward, one that reaches both costs two. PGD-10 AT: 10 x (1 + 1) to craft and 1 + 2 to descend, 23; TRADES
one more for p(x) and another natural pass with its backward and one that moves BatchNorm's statistics only, 28; NT 3;
Generalist 26. Squeeze Training
crafts in training mode: x forward once, then 10 x (2 + 3) as x, x_col and x_adv all take a gradient, and 3 (1 + 2): 60.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.measuring import Figure, interleaved, page, peak_bytes, ratio, table
from benchmarks.reference import GeneralistTrainer, at_step, mart_step, nt_step, squeeze_step, trades_step
from benchmarks.reference.attacks import gaussian, uniform
from poise.core.batches import Batch, Now
from poise.data import CropFlip, Feed, Split
from poise.learners import SGD, Learner, Policy
from poise.learners.costs import parts
from poise.methods import Generalist, Joint
from poise.models import Network, ResNet18, ResNet20
from poise.models.folding import Folded
from poise.objectives import AT, MART, NT, TRADES, Objective, SqueezeTraining

NOW = Now(epoch=111, step=110 * 391, epochs=120, steps_per_epoch=391, seed=0)


@dataclass(frozen=True)
class Setting:
    """A network with a batch on which it is timed."""

    title: str
    network: Network
    batch: int
    size: int = 32
    methods: tuple[str, ...] = ()
    """Only these; empty: all."""

    def model(self) -> nn.Module:
        return self.network.build((3, self.size, self.size), 10, seed=0)

    def images(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(self.batch, 3, self.size, self.size, generator=generator)
        return x, torch.randint(10, (self.batch,), generator=generator)


SETTINGS = (
    Setting("ResNet-20, batch 32", ResNet20(), 32),
    Setting("ResNet-18, batch 4", ResNet18(), 4),
    Setting("ResNet-18, batch 16", ResNet18(), 16, methods=("AT",)),
)
MOST = 1.17
"""Times an AT epoch that Generalist's may take."""
QUICK = (Setting("ResNet-20 of width 4, 8x8, batch 4", ResNet20(width=4), 4, 8),)

Step = Callable[[], object]


def of_one_learner(setting: Setting, objective: Objective, reference: Callable[..., object]) -> tuple[Step, Step]:
    """Poise's and the reference's step, each on its own copy of the network."""
    x, y = setting.images()
    optimizer = SGD(learning_rate=0.01)
    learner = Learner("joint", Policy(objective=objective, optimizer=optimizer), setting.model())
    theirs = setting.model()
    moved_by = optimizer.build(theirs)
    batch = Batch.of(x, y)
    return lambda: learner.descend(objective, batch, NOW), lambda: reference(theirs, moved_by, x, y)


def of_generalist(setting: Setting) -> tuple[Step, Step]:
    """Both with averages of both learners and of their mix, without redistribution (which is once in five epochs)."""
    x, y = setting.images()
    batch = Batch.of(x, y)
    method = Generalist()
    gamma = method.gamma.value(NOW)
    learners = method.learners(lambda name, policy: Learner(name, policy, setting.model()))
    trainer = GeneralistTrainer(setting.model())
    batches = {"natural": batch, "robust": batch}
    return lambda: method.step(learners, batches, NOW), lambda: trainer.step(x, y, uniform(), gamma, redistribute=False)


def pairs(setting: Setting) -> dict[str, tuple[Step, Step]]:
    start = uniform()
    return {
        "NT": of_one_learner(setting, NT(), nt_step),
        "AT": of_one_learner(setting, AT(), partial(at_step, noise=start)),
        "TRADES": of_one_learner(setting, TRADES(), partial(trades_step, noise=gaussian)),
        "MART": of_one_learner(setting, MART(), partial(mart_step, noise=gaussian)),
        "SqueezeTraining": of_one_learner(
            setting, SqueezeTraining(), partial(squeeze_step, noise=(gaussian, gaussian))
        ),
        "Generalist": of_generalist(setting),
    }


def forwards(setting: Setting) -> dict[str, Step]:
    """A forward without graph in each mode, of the network that Poise asks: folded in evaluating mode, plain in
    training mode.
    """
    model, (x, _) = setting.model().train(), setting.images()
    folded = Folded(model).refreshed()
    return {"evaluating": torch.no_grad()(lambda: folded(x)), "training": torch.no_grad()(lambda: model(x))}


def floor_of(*policies: Policy) -> tuple[int, int]:
    """Forwards that a step of these learners can't do without: in evaluating mode (where crafting is) and in training
    mode.
    """
    evaluating = training = 0
    for policy in policies:
        crafting, descending = parts(policy)
        if policy.objective.craft_mode == "evaluating":
            evaluating += crafting
        else:
            training += crafting
        training += descending
    return evaluating, training


FLOORS = {
    **{
        type(each).__name__: floor_of(Policy(objective=each))
        for each in (NT(), AT(), TRADES(), MART(), SqueezeTraining())
    },
    "Generalist": floor_of(*Generalist().policies().values()),
}


def steps_of(setting: Setting, rounds: int) -> tuple[list[list[str]], list[list[str]]]:
    """Rows of the table of seconds and of the table of memory."""
    seconds_rows, memory_rows = [], []
    bare = forwards(setting)
    for name, (ours, theirs) in pairs(setting).items():
        if setting.methods and name not in setting.methods:
            continue
        seconds = interleaved({"ours": ours, "theirs": theirs, **bare}, rounds)
        crafting, descending = FLOORS[name]
        pieces = zip(seconds["evaluating"], seconds["training"], strict=True)
        floor = [crafting * evaluating + descending * training for evaluating, training in pieces]
        cells = [Figure.of(seconds[side]).text(0, 1000) for side in ("ours", "theirs")]
        gain, share = ratio(seconds["theirs"], seconds["ours"]), ratio(floor, seconds["ours"])
        seconds_rows.append(
            [f"{name}, {setting.title}", *cells, gain.text(), str(crafting + descending), share.text(0, 100)]
        )
        peaks = [peak_bytes(side) / 2**20 for side in (ours, theirs)]
        memory_rows.append(
            [f"{name}, {setting.title}", *[f"{peak:.1f}" for peak in peaks], f"{peaks[1] / peaks[0]:.2f}"]
        )
    return seconds_rows, memory_rows


def epochs(setting: Setting, rounds: int, batches: int = 4) -> list[str]:
    """A Generalist epoch over an AT epoch, both fed and augmented by Poise; the steps of the two alternate."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(
        256, (batches * setting.batch, 3, setting.size, setting.size), generator=generator, dtype=torch.uint8
    )
    split = Split(images, torch.randint(10, (len(images),), generator=generator), torch.arange(len(images)))
    policy = Policy(objective=AT(), optimizer=SGD(learning_rate=0.01, weight_decay=3.5e-3), augmentation=CropFlip())
    base = Generalist(batch_size=setting.batch)
    natural, robust = (replace(part, augmentation=CropFlip()) for part in (base.natural, base.robust))
    methods = {
        "Generalist": replace(base, natural=natural, robust=robust),
        "AT": Joint(policy=policy, batch_size=setting.batch),
    }
    running = {}
    for name, method in methods.items():
        learners = method.learners(lambda name, policy: Learner(name, policy, setting.model()))
        running[name] = method, learners, {stream: Feed(plan, split, 0) for stream, plan in method.streams().items()}

    def step(name: str, at: int) -> None:
        method, learners, feeds = running[name]
        # both learners count, and the epoch begins with a redistribution
        now = Now(115, 114 * batches + at, 120, batches, 0)
        method.step(learners, {stream: feed.batch(now) for stream, feed in feeds.items()}, now)

    totals: dict[str, list[float]] = {name: [0.0] * rounds for name in methods}
    for at in range(batches):
        timed = interleaved(
            {name: lambda name=name, at=at: step(name, at) for name in methods}, rounds, warmup=int(at == 0)
        )
        for name, seconds in timed.items():
            totals[name] = [total + more for total, more in zip(totals[name], seconds, strict=True)]
    cells = [Figure.of(totals[name]).text(2) for name in ("Generalist", "AT")]
    over = ratio(totals["Generalist"], totals["AT"])
    return [setting.title, *cells, over.text(3), "1.130", "yes" if over.median <= MOST else "NO"]


def main(quick: bool, rounds: int) -> str:
    """Run it and return the page."""
    settings = QUICK if quick else SETTINGS
    measured = [steps_of(setting, rounds) for setting in settings]
    steps = ["method", "Poise, ms", "straightforward, ms", "times faster", "floor, forwards", "share of floor, %"]
    memory = ["method", "Poise, MiB", "straightforward, MiB", "times less"]
    epoch = ["network", "Generalist, s", "AT, s", "ratio", "26/23", f"at most {MOST}"]
    sections = {
        "Seconds per step": (
            table(steps, [row for rows, _ in measured for row in rows])
            + "\n\nThe floor is a count of forwards without graph, timed in the same rounds and modes (folded in"
            " evaluating mode)."
            + "\nMust hold: AT at least 1.7 times faster; Squeeze Training at least 1 / .85 = 1.18 times."
        ),
        "Peak of tensors allocated during a step": (
            table(memory, [row for _, rows in measured for row in rows])
            + "\n\nBeyond what is there before the step: weights, momentum, averages, images, the last gradients; see"
            " `measuring.peak_bytes`."
        ),
        "A Generalist epoch beside an AT epoch": (
            table(epoch, [epochs(setting, rounds) for setting in settings if not setting.methods])
            + "\n\nFour batches with augmentation, averages, and one redistribution; the steps alternate."
        ),
    }
    return page("Training steps against straightforward ones", "python -m benchmarks steps", sections)
