"""Seconds and memory of one step of Synergy-of-Experts in each phase: Poise's beside a straightforward one, in one
process, in turn.

    OMP_NUM_THREADS=1 python -m benchmarks.synergy_steps [--quick] [--rounds N]

The floor is counted in forwards of one expert on the batch (a backward pass to inputs or weights only costs one, one
that reaches both two). M experts, 10 steps, natural term included. Phase I, per expert: 10 x (1 + 1) to attack it, then
M sources and the natural images, (M + 1) x (1 + 2): 20 + 3 (M + 1), 32 at M = 3. Phase II: all experts answer at every
step and the gradient goes back through all of them (each example's through one, but batches are not cut), 10 x (1 + 1),
then 2 x (1 + 2): 26.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.measuring import Figure, interleaved, page, peak_bytes, ratio, table, write
from benchmarks.reference.attacks import uniform
from benchmarks.reference.synergy import SynergyTrainer
from poise.attacks import Ascent
from poise.core.batches import Batch, Now
from poise.learners import SGD, Learner, Policy
from poise.models import Collaboration, CollaborationModule, DigitsCNN, Network, ResNet20
from poise.models.folding import Folded
from poise.objectives import SynergyOfExperts
from poise.threats import Linf

EPSILON = 0.03
RATE = 0.01
MOMENTS = {
    1: Now(epoch=1, step=0, epochs=3, steps_per_epoch=1, seed=0),
    2: Now(epoch=3, step=2, epochs=3, steps_per_epoch=1, seed=0),
}
OBJECTIVE = SynergyOfExperts(inner=Ascent(threat=Linf(epsilon=EPSILON), step_size=EPSILON / 4))


@dataclass(frozen=True)
class Setting:
    """Experts with a batch on which they are timed; shape: (C, H, W)."""

    title: str
    member: Network
    members: int
    batch: int
    shape: tuple[int, int, int] = (3, 32, 32)

    def model(self) -> CollaborationModule:
        made = Collaboration(member=self.member, members=self.members).build(self.shape, 10, seed=0)
        assert isinstance(made, CollaborationModule)
        return made

    def images(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(self.batch, *self.shape, generator=generator)
        return x, torch.randint(10, (self.batch,), generator=generator)

    def floor(self, phase: int) -> tuple[int, int]:
        """Forwards of one expert on the batch in evaluating mode and in training mode, for all experts together."""
        return 20 * self.members, 3 * (self.members + 1 if phase == 1 else 2) * self.members


SETTINGS = (
    Setting("3 x ResNet-20, batch 32", ResNet20(), 3, 32),
    Setting("5 x ResNet-20, batch 16", ResNet20(), 5, 16),
    Setting("3 x DigitsCNN of width 8, batch 128", DigitsCNN(width=8), 3, 128, (1, 8, 8)),
)
QUICK = (Setting("3 x DigitsCNN of width 8, 8x8, batch 8", DigitsCNN(width=8), 3, 8, (1, 8, 8)),)

Step = Callable[[], object]


def both(setting: Setting, phase: int) -> tuple[Step, Step]:
    """Poise's and the reference's step, each on its own copy of the experts."""
    x, y = setting.images()
    policy = Policy(objective=OBJECTIVE, optimizer=SGD(learning_rate=RATE, weight_decay=1e-4))
    learner, batch = Learner("joint", policy, setting.model()), Batch.of(x, y)
    trainer = SynergyTrainer(list(setting.model().members), RATE)
    noises = [uniform(EPSILON)] * (setting.members if phase == 1 else 1)
    ours = lambda: learner.descend(OBJECTIVE, batch, MOMENTS[phase])  # noqa: E731
    return ours, lambda: trainer.step(x, y, noises, EPSILON, EPSILON / 4, phase)


def forwards(setting: Setting) -> dict[str, Step]:
    """A forward of one expert without graph in each mode, as Poise runs it: folded in evaluating mode, plain in
    training mode.
    """
    model, (x, _) = setting.model().train(), setting.images()
    plain, folded = model.members[0], Folded(model).refreshed().get_submodule("members.0")
    return {"evaluating": torch.no_grad()(lambda: folded(x)), "training": torch.no_grad()(lambda: plain(x))}


def rows(setting: Setting, rounds: int) -> tuple[list[list[str]], list[list[str]]]:
    """Rows of the table of seconds and of the table of memory."""
    seconds_rows, memory_rows = [], []
    bare = forwards(setting)
    for phase in (1, 2):
        ours, theirs = both(setting, phase)
        seconds = interleaved({"ours": ours, "theirs": theirs, **bare}, rounds)
        crafting, descending = setting.floor(phase)
        pieces = zip(seconds["evaluating"], seconds["training"], strict=True)
        floor = [crafting * evaluating + descending * training for evaluating, training in pieces]
        cells = [Figure.of(seconds[side]).text(0, 1000) for side in ("ours", "theirs")]
        gain, times = ratio(seconds["theirs"], seconds["ours"]), ratio(seconds["ours"], floor)
        each = (crafting + descending) // setting.members
        name = f"phase {'I' * phase}, {setting.title}"
        seconds_rows.append([name, *cells, gain.text(), str(each), times.text()])
        peaks = [peak_bytes(side) / 2**20 for side in (ours, theirs)]
        memory_rows.append([name, *[f"{peak:.1f}" for peak in peaks], f"{peaks[1] / peaks[0]:.2f}"])
    return seconds_rows, memory_rows


def main(quick: bool, rounds: int) -> str:
    """Run it and return the page."""
    measured = [rows(setting, rounds) for setting in (QUICK if quick else SETTINGS)]
    steps = [
        "step",
        "Poise, ms",
        "straightforward, ms",
        "times faster",
        "floor, forwards per expert",
        "times the floor",
    ]
    memory = ["step", "Poise, MiB", "straightforward, MiB", "times less"]
    sections = {
        "Seconds per step": (
            table(steps, [row for seconds, _ in measured for row in seconds])
            + "\n\nThe floor is a count of forwards of one expert without graph, timed in the same rounds (folded in"
            " evaluating mode)."
            + "\nMust hold: at most 1.2 times the floor, and at least 1.5 times faster than the straightforward step."
        ),
        "Peak of tensors allocated during a step": (
            table(memory, [row for _, peaks in measured for row in peaks])
            + "\n\nBeyond what is there before the step; see `measuring.peak_bytes`."
        ),
    }
    return page(
        "Synergy-of-Experts: steps against straightforward ones", "python -m benchmarks.synergy_steps", sections
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="toy sizes and one round: shows that it runs, writes nothing"
    )
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    text = main(given.quick, 1 if given.quick else given.rounds)
    print(text)
    if not given.quick:
        print(f"written: {write('synergy_steps', text)}")
