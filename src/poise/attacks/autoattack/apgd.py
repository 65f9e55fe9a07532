"""APGD: projected gradient ascent with momentum that halves its own step size and needs no tuning."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from poise.attacks.autoattack.compact import CompactAttack
from poise.attacks.autoattack.search import Examples, Network, Search, State, at, choose, gradient_of, succeeds
from poise.core import papers
from poise.core.settings import PositiveCount, UnitInterval, settings
from poise.losses import cross_entropy, dlr, margin, targeted_dlr
from poise.threats import L2, Linf, Threat, spread

Loss = Literal["cross_entropy", "dlr", "targeted_dlr"]
_SHORT: dict[str, str] = {"cross_entropy": "APGD-CE", "dlr": "APGD-DLR", "targeted_dlr": "APGD-T"}


@settings
class APGD(CompactAttack):
    """Auto-PGD (Croce & Hein 2020a, Algorithm 1).

    With `loss="targeted_dlr"` it runs once towards each of the `targets` classes that are most likely on the natural image, the
    true one excepted; any misclassification counts. Classes too few for a loss: see `notes`.
    """

    paper = papers.AUTOATTACK
    threat: Threat = Linf()
    steps: PositiveCount = 100
    rho: UnitInterval = 0.75
    """Share of the steps between two checkpoints that must have increased the loss; otherwise the step size is halved."""
    loss: Loss = "cross_entropy"
    restarts: PositiveCount = 1
    """Per target class for "targeted_dlr"."""
    targets: PositiveCount = 9
    """Read by "targeted_dlr" only."""
    eot_iterations: PositiveCount = 1
    """Gradients averaged at each point, for randomised networks (expectation over transformation)."""
    unsuccessful: Literal["natural", "largest_loss"] = "natural"
    """What is returned for examples that were not fooled; the largest loss is that of the last restart."""

    @property
    def name(self) -> str:
        return _SHORT[self.loss] + (f"x{self.restarts}" if self.restarts > 1 else "")

    def search(self, model: Network, classes: int, targeted: bool = False) -> Search:
        return APGDSearch(self, model, classes, targeted)

    def notes(self, classes: int) -> list[str]:
        said = []
        if self.loss == "dlr" and classes < 3:
            said.append(f"{self.name}: DLR needs 3 classes, the network has {classes}; the margin is used")
        if self.loss == "targeted_dlr" and classes < 4:
            said.append(f"{self.name}: the targeted DLR needs 4 classes, the network has {classes}; the targeted margin is used")
        if self.loss == "targeted_dlr" and classes - 1 < self.targets:
            said.append(f"{self.name}: {classes - 1} target classes instead of {self.targets}, all that {classes} classes allow")
        return said

    def _returns_failures(self) -> bool:
        return self.unsuccessful == "largest_loss"


def checkpoints(steps: int) -> tuple[list[bool], list[int]]:
    """For k = 0 .. steps evaluations after the start: whether the step size is reviewed then, and over how many steps.

    The first period is 22 % of the steps, each next one 3 % shorter, down to 6 % (Croce & Hein 2020a, Section 3.2).
    """
    period, shortest, shrink = max(int(0.22 * steps), 1), max(int(0.06 * steps), 1), max(int(0.03 * steps), 1)
    review, periods, since = [False], [1], 0
    for _ in range(steps):
        since += 1
        review.append(since == period)
        periods.append(period)
        if since == period:
            since, period = 0, max(period - shrink, shortest)
    return review, periods


class APGDSearch(Search):
    """APGD in lanes. A step takes the gradient at `z`, reviews the step size where due, and moves; step 0 is the start."""

    def __init__(self, attack: APGD, model: Network, classes: int, targeted: bool) -> None:
        self.attack, self.model, self.classes, self.targeted = attack, model, classes, targeted
        ranks = 1 if targeted or attack.loss != "targeted_dlr" else min(attack.targets, classes - 1)
        self.runs = attack.restarts * ranks
        self.steps = attack.steps + 1
        self._review, self._periods = (torch.tensor(table) for table in checkpoints(attack.steps))

    def begin(self, examples: Examples, run: Tensor) -> State:
        x, count = examples.x, len(examples)
        self._review, self._periods = self._review.to(x.device), self._periods.to(x.device)
        start = self.attack.threat.random_start(x, at(examples.draw, run).within("start"))
        return self.start_from(start, examples, run // self.attack.restarts if self.runs > 1 else torch.zeros_like(run), count)

    def start_from(self, start: Tensor, examples: Examples, rank: Tensor, count: int) -> State:
        """The state at a given first point, which is clamped to [0, 1]."""
        x = examples.x
        use_target = self.targeted or self.attack.loss == "targeted_dlr"
        z = start.clamp(0, 1)
        values, flags = x.new_zeros(count), torch.zeros(count, dtype=torch.bool, device=x.device)
        return {
            "x": x,
            "y": examples.y,
            "target": examples.class_of_rank(rank) if use_target else examples.y,
            "k": torch.zeros_like(examples.y),
            "z": z,
            "before": z,
            "step_size": values + 2 * self.attack.threat.epsilon,
            "best": z,
            "best_gradient": torch.zeros_like(x),
            "best_loss": values - torch.inf,
            "reviewed_loss": values,
            "last_loss": values,
            "increases": torch.zeros_like(examples.y),
            "was_halved": ~flags,
            "fooled": flags,
            "found": x if self.attack.unsuccessful == "natural" else z,
        }

    def step(self, state: State) -> State:
        s = dict(state)
        loss, gradient, logits = self._evaluate(s)
        reached = succeeds(logits, s["y"], s["target"] if self.targeted else None)
        s["found"] = choose(reached & ~s["fooled"], s["z"], s["found"])
        s["fooled"] = s["fooled"] | reached
        better = loss > s["best_loss"]
        s["best_loss"] = torch.where(better, loss, s["best_loss"])
        s["best"] = choose(better, s["z"], s["best"])
        s["best_gradient"] = choose(better, gradient, s["best_gradient"])
        if self.attack.unsuccessful == "largest_loss":
            s["found"] = choose(~s["fooled"], s["best"], s["found"])
        halve = self._review_step_size(s, loss)
        current, gradient = choose(halve, s["best"], s["z"]), choose(halve, s["best_gradient"], gradient)
        s["z"], s["before"] = self._move(s, current, gradient), current
        s["k"] = s["k"] + 1
        return s

    def _evaluate(self, s: State) -> tuple[Tensor, Tensor, Tensor]:
        """Loss [W] and gradient at z, averaged over the EOT iterations, and the last logits."""
        loss, gradient, logits = gradient_of(self.model, lambda logits: self._loss(logits, s["y"], s["target"]), s["z"])
        for _ in range(self.attack.eot_iterations - 1):
            again, further, logits = gradient_of(self.model, lambda logits: self._loss(logits, s["y"], s["target"]), s["z"])
            loss, gradient = loss + again, gradient + further
        if self.attack.eot_iterations > 1:
            return loss / self.attack.eot_iterations, gradient / self.attack.eot_iterations, logits
        return loss, gradient, logits

    def _loss(self, logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
        if self.attack.loss == "cross_entropy":
            return cross_entropy(logits, y) if not self.targeted else -cross_entropy(logits, target)
        if self.targeted or self.attack.loss == "targeted_dlr":
            if self.classes >= 4:
                return targeted_dlr(logits, y, target)
            return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None]))[:, 0]
        return dlr(logits, y) if self.classes >= 3 else margin(logits, y)

    def _review_step_size(self, s: State, loss: Tensor) -> Tensor:
        """Where the step size is halved [W] (Section 3.2, conditions 1 and 2).

        As in the released code, the loss after the first step counts as an increase if it is above 0, not above the start's.
        """
        first = s["k"] == 0
        k = s["k"].clamp(max=self.attack.steps)
        due, period = self._review[k], self._periods[k]
        increases = s["increases"] + (~first & (loss > s["last_loss"]))
        reviewed_loss = torch.where(first, s["best_loss"], s["reviewed_loss"])
        oscillates = increases <= self.attack.rho * period
        stuck = ~s["was_halved"] & (reviewed_loss >= s["best_loss"])
        halve = due & (oscillates | stuck)
        s["last_loss"] = torch.where(first, torch.zeros_like(loss), loss)
        s["increases"] = torch.where(due, torch.zeros_like(increases), increases)
        s["reviewed_loss"] = torch.where(due, s["best_loss"], reviewed_loss)
        s["was_halved"] = torch.where(due, halve, s["was_halved"])
        s["step_size"] = torch.where(halve, s["step_size"] / 2, s["step_size"])
        return halve

    def _move(self, s: State, current: Tensor, gradient: Tensor) -> Tensor:
        """Steepest step, projection, momentum of weight 1/4 except in the first step, projection (Algorithm 1, lines 3, 7, 8)."""
        threat, x = self.attack.threat, s["x"]
        direction = threat.step(torch.zeros_like(current), gradient, 1.0)
        ahead = project(threat, current + spread(s["step_size"], x) * direction, x)
        weight = spread(torch.where(s["k"] == 0, 1.0, 0.75).to(x.dtype), x)
        return project(threat, current + (ahead - current) * weight + (current - s["before"]) * (1 - weight), x)


def project(threat: Threat, z: Tensor, x: Tensor) -> Tensor:
    """`threat.project`; in L2 without its safety margin below the sphere, on which APGD moves."""
    if not isinstance(threat, L2):
        return threat.project(z, x)
    size = threat.norm(z - x)
    share = torch.where(size > threat.epsilon, threat.epsilon / size, torch.ones_like(size))
    return (x + (z - x) * spread(share, x)).clamp(0, 1)
