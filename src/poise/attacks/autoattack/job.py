"""One run of AutoAttack: the survivors' table, the attack in progress, and what came out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from poise.attacks.autoattack.compact import CompactAttack, most_lanes
from poise.attacks.autoattack.lanes import Lanes, fitting
from poise.attacks.autoattack.ranks import Ranks
from poise.attacks.autoattack.search import Examples, Network, logits_of
from poise.attacks.checks import check_found
from poise.attacks.gradients import asked
from poise.core.exact import exact
from poise.core.lengths import wide
from poise.core.scratch import gathered
from poise.core.seeds import Draw, key_of
from poise.losses import margin
from poise.models.folding import surrogate

ROBUST, MISCLASSIFIED = -1, -2
_PIECE = 256  # images that are copied at a time


@dataclass(frozen=True)
class Status:
    """Where a run stands. survivors: examples not yet broken by any attack; share: of this attack's work that is done.

    over: of each attack that is over its name, the survivors it left and its seconds. Of several ranks each tells of
    its own share, but for the survivors in `over`, which are those of all ranks.
    """

    attack: str
    number: int
    attacks: int
    entered: int
    done: int
    survivors: int
    seconds: float
    share: float
    over: tuple[tuple[str, int, float], ...]


@dataclass(frozen=True)
class Result:
    """What a run found, tensors on the CPU.

    x_adv [N, C, H, W]: the adversarial image, or the natural one of robust examples; predicted [N]: the label predicted
    on it;
    natural [N]: that on the natural image; broken_by [N]: place in `attacks` of the attack that broke the example, else
    ROBUST or MISCLASSIFIED; survivors, seconds, shapes, steps: per attack, the examples left, its time (of several
    ranks the slowest's), its number of lanes, and the lane-steps done and of these occupied by an example; notes: where
    a rule departed from the published protocol, in words.
    """

    x_adv: Tensor
    y: Tensor
    predicted: Tensor
    natural: Tensor
    broken_by: Tensor
    attacks: tuple[str, ...]
    survivors: tuple[int, ...]
    seconds: tuple[float, ...]
    shapes: tuple[int, ...]
    steps: tuple[tuple[int, int], ...]
    notes: tuple[str, ...]
    seed: int

    @property
    def robust(self) -> Tensor:
        """Whether each example is classified correctly on its x_adv [N]."""
        return self.predicted == self.y

    @property
    def robust_accuracy(self) -> float:
        return float(self.robust.double().mean())

    @property
    def natural_accuracy(self) -> float:
        return float((self.natural == self.y).double().mean())


@dataclass(frozen=True)
class Plan:
    """What a run is to do: the attacks in their order and how they are searched (see `AutoAttack.run`)."""

    components: tuple[CompactAttack, ...]
    width: int
    fixed_shape: bool
    precision: str
    seed: int
    classes: int


class Job:
    """A run over the examples of this rank: images x [N, ...], labels y [N], ids [N] on the network's device."""

    def __init__(self, plan: Plan, model: nn.Module, x: Tensor, y: Tensor, ids: Tensor, ranks: Ranks) -> None:
        self.plan, self.model, self.x, self.y, self.ids, self.ranks = plan, model, x, y, ids, ranks
        self.components = plan.components
        with self.arithmetic():
            self.searched = surrogate(model, faster=True)
        """What the attacks ask: the network, or what equals it up to rounding and is faster."""
        # there TF32 may be allowed
        self.exact = self.searched is model and plan.precision == "float32" and x.device.type != "cuda"
        self.natural = logits_of(model, x, plan.width)
        self.x_adv = gathered(x)
        self.broken_by = torch.where(self.natural.argmax(1) == y, ROBUST, MISCLASSIFIED)
        self.log = torch.zeros(len(self.components), 5, dtype=torch.float64)
        """Per attack: survivors, seconds, lanes, lane-steps, occupied lane-steps."""
        self.place = 0
        self.again = False
        """Whether the attack in progress asks the network itself, about what the inexact search claimed in vain."""
        self.lanes: Lanes | None = None
        self.entering = torch.zeros(0, dtype=torch.int64, device=x.device)

    def work(self, progress: Callable[[Status], None] | None, keep: Callable[[Job, bool], None] | None) -> None:
        """Run all attacks to their end from where the job stands; both are called after rounds of steps.

        `keep` is also called where an attack is over, and told so. What `progress` raises finds the job as it was after
        a whole round.
        """
        while self.place < len(self.components):
            attack = self.components[self.place]
            if self.lanes is None and not self.again:
                self.enter((self.broken_by == ROBUST).nonzero()[:, 0])
            mark = time.perf_counter()
            while self.lanes is not None and self.lanes.advance():
                now = time.perf_counter()
                self.log[self.place, 1] += now - mark
                mark = now
                if progress is not None:
                    progress(self.report(attack, self.lanes))
                if keep is not None:
                    keep(self, False)
            if keep is not None and self.ranks.world.size > 1:
                keep(self, True)  # the harvest may wait for a rank that never comes
            self.harvest()
            self.log[self.place - (not self.again), 1] += time.perf_counter() - mark
            if keep is not None:
                keep(self, True)

    def enter(self, rows: Tensor, begun: int | None = None) -> None:
        """Begin the attack in progress on these examples; `lanes` stays None where there are none.

        begun: with how many lanes it was, and with the examples in this order.
        """
        self.entering = rows
        # so images do not depend on how many ranks share the work
        total = self.ranks.total(2 * self.place + self.again, len(rows))
        if len(rows) == 0:
            return
        attack, plan = self.components[self.place], self.plan
        if begun is None:  # who is most robust first, so that who stays long does not begin when lanes stand empty
            self.entering = rows = rows[margin(self.natural[rows], self.y[rows]).argsort(stable=True)]
        most = plan.width if plan.fixed_shape else min(plan.width, most_lanes(attack, self.model, self.x))
        width = begun or (most if plan.fixed_shape else fitting(total, most))
        draw = Draw(key_of(plan.seed, "autoattack", self.place, attack.name), self.ids)
        x = gathered(self.x.to(wide(self.x.dtype)), rows)
        pool = Examples(x, self.y[rows], self.natural[rows], draw[rows])
        self.lanes = Lanes(attack.search(asked(self.network(), self.x), plan.classes), pool, width)
        if not self.again:
            self.log[self.place, 2] = width

    def network(self) -> Network:
        if self.again:
            return self.as_judged
        if self.plan.precision == "float32":
            return self.searched

        def autocast(z: Tensor) -> Tensor:
            with self.arithmetic():
                return self.searched(z).to(z.dtype)

        return autocast

    def arithmetic(self) -> AbstractContextManager[object]:
        """That of the search."""
        return (
            torch.autocast(self.x.device.type, torch.bfloat16) if self.plan.precision == "bfloat16" else nullcontext()
        )

    def as_judged(self, z: Tensor) -> Tensor:
        """The network's logits in the arithmetic of verdicts."""
        with exact(z.device):
            return self.model(z)

    def harvest(self) -> None:
        """Take over what the attack found, as far as a forward pass in full precision confirms it, and go to the
        next.
        """
        lanes, claims = self.lanes, self.entering[:0]
        self.lanes = None
        if lanes is not None:
            self.log[self.place, 3:] += torch.tensor([lanes.lane_steps, lanes.useful_steps])
            claims = self.entering[lanes.fooled]
        if lanes is not None and len(claims):
            images = gathered(lanes.found, lanes.fooled.nonzero()[:, 0]).to(self.x.dtype)
            check_found(images)
            is_adversarial = logits_of(self.model, images, self.plan.width).argmax(1) != self.y[claims]
            for rows in is_adversarial.nonzero()[:, 0].split(_PIECE):
                self.x_adv[claims[rows]] = images[rows]
            self.broken_by[claims[is_adversarial]] = self.place
            claims = claims[~is_adversarial]
        self.again = not self.exact and not self.again
        if self.again:  # even with nothing to search again, as other ranks may have something
            self.enter(claims)
            return
        self.log[self.place, 0] = int((self.broken_by == ROBUST).sum())
        self.place += 1

    def report(self, attack: CompactAttack, lanes: Lanes) -> Status:
        finished, seconds = int(lanes.finished.sum()), float(self.log[self.place, 1])
        survivors = int((self.broken_by == ROBUST).sum()) - int(lanes.fooled.sum())
        # who entered the next attack
        counts_left = [self.ranks.known(2 * (i + 1), int(self.log[i, 0])) for i in range(self.place)]
        over = tuple((self.components[i].name, counts_left[i], float(self.log[i, 1])) for i in range(self.place))
        where = (attack.name, self.place + 1, len(self.components), len(self.entering))
        return Status(*where, finished, survivors, seconds, lanes.share_done(), over)

    def snapshot(self) -> dict[str, Tensor]:
        """Everything needed to go on later."""
        rows = (self.broken_by >= 0).nonzero()[:, 0]
        state = {"place": torch.tensor([self.place, self.again]), "log": self.log, "broken_by": self.broken_by}
        state |= {"rows": rows, "images": self.x_adv[rows], "entering": self.entering}
        state |= self.ranks.snapshot()
        return state | (
            {} if self.lanes is None else {f"lanes.{name}": values for name, values in self.lanes.snapshot().items()}
        )

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Go on where `snapshot` was taken, in a job of the same plan, network and examples."""
        self.ranks.restore(saved)
        self.place, again = saved["place"].tolist()
        self.again, log = bool(again), saved["log"]
        self.broken_by = saved["broken_by"].to(self.x.device)
        self.x_adv[saved["rows"].to(self.x.device)] = saved["images"].to(self.x.device)
        inside = {name.removeprefix("lanes."): values for name, values in saved.items() if name.startswith("lanes.")}
        if inside:
            self.enter(saved["entering"].to(self.x.device), len(inside["host.example"]))
            if self.lanes is not None:
                self.lanes.restore(inside)
        self.log = log

    def result(self, x: Tensor, y: Tensor) -> Result:
        """What all ranks found on images x [M, ...] with labels y [M], of which this job has its rank's share; the same
        on every rank.
        """
        predictions = logits_of(self.model, self.x_adv, self.plan.width).argmax(1)
        columns = (predictions, self.natural.argmax(1), self.broken_by)
        predictions, natural, broken_by = (self.ranks.whole(column, len(x)) for column in columns)
        y = y.cpu()
        notes = [note for attack in self.components for note in attack.notes(self.plan.classes)]
        differences = int(((predictions == y) != (broken_by == ROBUST)).sum())
        if differences:
            notes.append(
                f"{differences} verdicts changed when the network was asked again: its output is not deterministic"
            )
        survivors, seconds, shapes, lanes_done, useful = self.ranks.joined(self.log).T.tolist()
        return Result(
            x_adv=self.ranks.images(x, self.x_adv, (broken_by >= 0).nonzero()[:, 0]),
            y=y,
            predicted=predictions,
            natural=natural,
            broken_by=broken_by,
            attacks=tuple(attack.name for attack in self.components),
            survivors=tuple(int(value) for value in survivors),
            seconds=tuple(seconds),
            shapes=tuple(int(value) for value in shapes),
            steps=tuple((int(a), int(b)) for a, b in zip(lanes_done, useful, strict=True)),
            notes=tuple(notes),
            seed=self.plan.seed,
        )
