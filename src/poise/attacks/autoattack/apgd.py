"""APGD: projected gradient ascent with momentum that halves its own step size and needs no tuning."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from poise.attacks.autoattack.compact import CompactAttack
from poise.attacks.autoattack.malt import nearest_classes
from poise.attacks.autoattack.search import Examples, Network, Search, State, at, choose, gradient_of, succeeds
from poise.core import papers
from poise.core.errors import SettingsError
from poise.core.lengths import signs
from poise.core.settings import Positive, PositiveCount, UnitInterval, newer, settings
from poise.losses import cross_entropy, dlr, margin, probability_margin, targeted_dlr, targeted_probability_margin
from poise.threats import L1, Linf, Threat, spread

Loss = Literal["cross_entropy", "dlr", "targeted_dlr", "probability_margin"]
_SHORT: dict[str, str] = {
    "cross_entropy": "APGD-CE",
    "dlr": "APGD-DLR",
    "targeted_dlr": "APGD-T",
    "probability_margin": "APGD-PMA",
}

_ROUNDING = 1e-15
"""The norm above which a gradient may be one of rounding errors, as the DLR's is at its ceiling; smaller ones are of
small networks.
"""


@settings
class APGD(CompactAttack):
    """Auto-PGD (Croce & Hein 2020a, Algorithm 1).

    With `loss="targeted_dlr"` it runs once towards each of the `targets` classes that are most likely on the natural
    image, the true one excepted; any misclassification counts. Classes too few for a loss: see `notes`. With
    `targets_by="malt"` it is APGD-MALT, with `loss="probability_margin"` APGD-PMA: neither is part of a published
    version of AutoAttack.
    """

    paper = papers.AUTOATTACK
    threat: Threat = Linf()
    steps: PositiveCount = 100
    rho: UnitInterval = 0.75
    """Share of the steps between two checkpoints that must have increased the loss; otherwise the step size is halved.
    """
    loss: Loss = "cross_entropy"
    restarts: PositiveCount = 1
    """Per target class for "targeted_dlr"."""
    targets: PositiveCount = 9
    """Read by "targeted_dlr" only."""
    targets_by: Literal["logits", "malt"] = newer(default="logits")
    """Which classes are targets: the likeliest, or those that MALT finds nearest (Melamed et al. 2024)."""
    among: PositiveCount = newer(default=100)
    """How many of the likeliest classes MALT ranks, by a gradient each."""
    eot_iterations: PositiveCount = 1
    """Gradients averaged at each point, for randomised networks (expectation over transformation)."""
    radii: tuple[Positive, ...] = newer(default=(1.0,))
    """In L1: within how many epsilons a run ascends, one after the other, ending at 1; each but the last has nine
    tenths of an equal share of the steps. Croce & Hein 2021 take (3, 2, 1)."""
    unsuccessful: Literal["natural", "largest_loss"] = "natural"
    """What is returned for examples that were not fooled; the largest loss is that of the last restart."""

    def forwards(self) -> float:
        targets, ranking = self.targets if self.loss == "targeted_dlr" else 1, 0
        if self.targets_by == "malt":
            ranking = self.among  # a backward pass each, of fewer where there are fewer classes
        return 2.0 * self.steps * self.restarts * targets * self.eot_iterations + ranking + 1

    def __post_init__(self) -> None:
        if self.radii[-1:] != (1.0,) or len(self.radii) > self.steps:
            raise SettingsError(
                f"APGD.radii = {self.radii}: must end at 1 and be at most as many as the {self.steps} steps"
            )
        if self.targets_by == "malt" and self.loss != "targeted_dlr":
            raise SettingsError(f"APGD.targets_by = 'malt': needs loss = 'targeted_dlr', not {self.loss!r}")
        if len(self.radii) > 1 and self.threat.order != 1:
            raise SettingsError(f"APGD.radii = {self.radii}: is for L1 only, not for {type(self.threat).__name__}")

    @property
    def name(self) -> str:
        short = "APGD-MALT" if self.targets_by == "malt" else _SHORT[self.loss]
        return short + (f"x{self.restarts}" if self.restarts > 1 else "")

    def search(self, model: Network, classes: int, targeted: bool = False) -> Search:
        return (SparseSearch if self.threat.order == 1 else MomentumSearch)(self, model, classes, targeted)

    def check_classes(self, classes: int) -> None:
        if self.targets_by == "malt" and classes < 3:
            raise SettingsError(
                f"{self.name}: MALT chooses among classes, so it needs at least 3; the network has {classes}"
            )

    def notes(self, classes: int) -> list[str]:
        lines = []
        if self.loss == "dlr" and classes < 3:
            lines.append(f"{self.name}: DLR needs 3 classes, the network has {classes}; the margin is used")
        if self.loss == "targeted_dlr" and classes < 4:
            lines.append(
                f"{self.name}: the targeted DLR needs 4 classes, the network has {classes}; the targeted margin is used"
            )
        if self.loss == "targeted_dlr" and classes - 1 < self.targets:
            lines.append(
                f"{self.name}: {classes - 1} target classes instead of {self.targets}, all that {classes} classes allow"
            )
        return lines

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
    """APGD in lanes. A step takes the gradient at `z`, reviews the step size where due, and moves; step 0 is the start.

    Abstract in what depends on the norm: `review` and `move`.
    """

    def __init__(self, attack: APGD, model: Network, classes: int, targeted: bool) -> None:
        self.attack, self.model, self.classes, self.targeted = attack, model, classes, targeted
        self._widest = attack.threat
        if attack.radii[0] != 1:
            self._widest = replace(cast(Any, attack.threat), epsilon=attack.radii[0] * attack.threat.epsilon)
        most = attack.among if attack.targets_by == "malt" else classes
        ranks = 1 if targeted or attack.loss != "targeted_dlr" else min(attack.targets, classes - 1, most)
        self.runs = attack.restarts * ranks
        self.steps = attack.steps + 1

    def prepared(self, pool: Examples, width: int) -> Examples:
        attack = self.attack
        if attack.targets_by != "malt" or self.targeted:
            return pool
        return replace(
            pool, ranked=nearest_classes(self.model, pool, attack.threat, attack.targets, attack.among, width)
        )

    def begin(self, examples: Examples, run: Tensor) -> State:
        x, count = examples.x, len(examples)
        start = self._widest.random_start(x, at(examples.draw, run).within("start"))
        return self.start_from(
            start, examples, run // self.attack.restarts if self.runs > 1 else torch.zeros_like(run), count
        )

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
        success = succeeds(logits, s["y"], s["target"] if self.targeted else None)
        if len(self.attack.radii) > 1:
            success = success & (s["radius"] == 1)
        s["found"] = choose(success & ~s["fooled"], s["z"], s["found"])
        s["fooled"] = s["fooled"] | success
        better = loss > s["best_loss"]
        s["best_loss"] = torch.where(better, loss, s["best_loss"])
        s["best"] = choose(better, s["z"], s["best"])
        s["best_gradient"] = choose(better, gradient, s["best_gradient"])
        if self.attack.unsuccessful == "largest_loss":
            s["found"] = choose(~s["fooled"], s["best"], s["found"])
        back = self.review(s, loss)
        current, gradient = choose(back, s["best"], s["z"]), choose(back, s["best_gradient"], gradient)
        s["z"], s["before"] = self.move(s, current, gradient), current
        s["k"] = s["k"] + 1
        return s

    def _evaluate(self, s: State) -> tuple[Tensor, Tensor, Tensor]:
        """Loss [W] and gradient at z, averaged over the EOT iterations, and the last logits."""
        loss, gradient, logits = gradient_of(self.model, lambda logits: self._loss(logits, s["y"], s["target"]), s["z"])
        for _ in range(self.attack.eot_iterations - 1):
            again, further, logits = gradient_of(
                self.model, lambda logits: self._loss(logits, s["y"], s["target"]), s["z"]
            )
            loss, gradient = loss + again, gradient + further
        if self.attack.eot_iterations > 1:
            return loss / self.attack.eot_iterations, gradient / self.attack.eot_iterations, logits
        return loss, gradient, logits

    def _loss(self, logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
        if self.attack.loss == "cross_entropy":
            return cross_entropy(logits, y) if not self.targeted else -cross_entropy(logits, target)
        if self.attack.loss == "probability_margin":
            return targeted_probability_margin(logits, target) if self.targeted else probability_margin(logits, y)
        if self.targeted or self.attack.loss == "targeted_dlr":
            if self.classes >= 4:
                return targeted_dlr(logits, y, target)
            return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None]))[:, 0]
        return dlr(logits, y) if self.classes >= 3 else margin(logits, y)

    @abstractmethod
    def review(self, s: State, loss: Tensor) -> Tensor:
        """Change what the next step goes by, given the loss at z [W]; returns who goes back to its best point [W]."""

    @abstractmethod
    def move(self, s: State, current: Tensor, gradient: Tensor) -> Tensor:
        """The next z."""


class MomentumSearch(APGDSearch):
    """In Linf and L2: momentum, and a step size that is halved where the loss has stopped to rise (Croce & Hein
    2020a).
    """

    def __init__(self, attack: APGD, model: Network, classes: int, targeted: bool) -> None:
        super().__init__(attack, model, classes, targeted)
        self._review, self._periods = (torch.tensor(table) for table in checkpoints(attack.steps))

    @property
    def derived(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("low", "high") if isinstance(self.attack.threat, Linf) else ()

    def derive(self, state: State) -> State:
        if not isinstance(self.attack.threat, Linf):
            return {}
        low, high = self.attack.threat.bounds(state["x"])
        return {"low": low, "high": high}

    def start_from(self, start: Tensor, examples: Examples, rank: Tensor, count: int) -> State:
        s = super().start_from(start, examples, rank, count)
        return s | self.derive(s)

    def review(self, s: State, loss: Tensor) -> Tensor:
        """Where the step size is halved [W] (Section 3.2, conditions 1 and 2).

        As in the released code, the loss after the first step counts as an increase if it is above 0, not above the
        start's.
        """
        self._review, self._periods = self._review.to(loss.device), self._periods.to(loss.device)
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

    def move(self, s: State, current: Tensor, gradient: Tensor) -> Tensor:
        """Steepest step, projection, momentum of weight 1/4 except in the first step, projection (Algorithm 1, lines 3,
        7, 8).
        """
        threat, x = self.attack.threat, s["x"]
        size, weight = spread(s["step_size"], x), spread(torch.where(s["k"] == 0, 1.0, 0.75).to(x.dtype), x)
        if isinstance(threat, Linf):
            low, high = s["low"], s["high"]
            ahead = torch.addcmul(current, size, signs(gradient)).clamp_(low, high)
            ahead = ahead.sub_(current).mul_(weight).add_(current)
            return ahead.add_((current - s["before"]).mul_(1 - weight)).clamp_(low, high)
        direction = threat.step(torch.zeros_like(current), gradient, 1.0)
        # as released: a gradient of rounding errors hardly moves an image
        if gradient.dtype is torch.float64:
            length = threat.norm(gradient)
            direction = direction * spread(torch.where(length > _ROUNDING, length / (length + 1e-12), 1.0), x)
        ahead = into_ball(threat, current + size * direction, x)
        return into_ball(threat, current + (ahead - current) * weight + (current - s["before"]) * (1 - weight), x)


class SparseSearch(APGDSearch):
    """In L1: sparse steps without momentum; how many coordinates they move follows the best point (Croce & Hein 2021,
    Algorithm 1).

    Every 4 % of the steps their share becomes the best point's share of changed pixels over 1.5. Where that has fallen
    by 5 %, the step size begins anew at epsilon, from the best point; elsewhere it shrinks by 1.5, down to epsilon /
    10.
    """

    def __init__(self, attack: APGD, model: Network, classes: int, targeted: bool) -> None:
        super().__init__(attack, model, classes, targeted)
        length = attack.steps if len(attack.radii) == 1 else int(0.9 * attack.steps / len(attack.radii))
        self._narrower = {length * (place + 1): radius for place, radius in enumerate(attack.radii[1:])}
        """The radius that follows, by the step after which it does."""
        self._period = max(int(0.04 * length), 1)

    def start_from(self, start: Tensor, examples: Examples, rank: Tensor, count: int) -> State:
        s = super().start_from(start, examples, rank, count)
        pixels, radius = s["x"][0].numel(), self.attack.radii[0]
        s["radius"] = torch.full_like(s["step_size"], radius)
        s["begun"] = torch.zeros_like(s["k"])
        s["step_size"] = s["radius"] * self.attack.threat.epsilon
        s["changed"] = torch.full_like(s["radius"], pixels) if radius == 1 else changed(s["z"], s["x"])
        s["density"] = torch.full_like(s["radius"], 0.2) if radius == 1 else s["changed"] / pixels / 1.5
        return s

    def review(self, s: State, loss: Tensor) -> Tensor:
        """Where the best point has become sparser [W]."""
        age, full = s["k"] - s["begun"], s["radius"] * self.attack.threat.epsilon
        due, now = (age > 0) & (age % self._period == 0), changed(s["best"], s["x"])
        sparser = due & (now < 0.95 * s["changed"])
        shrunk = torch.maximum(s["step_size"] / 1.5, full / 10)
        s["step_size"] = torch.where(due, torch.where(sparser, full, shrunk), s["step_size"])
        s["density"] = torch.where(due, now / s["x"][0].numel() / 1.5, s["density"])
        s["changed"] = torch.where(due, now, s["changed"])
        return sparser

    def move(self, s: State, current: Tensor, gradient: Tensor) -> Tensor:
        """Sparse step and projection; where a radius is over, the best point, projected, begins the next one."""
        threat, x = cast(L1, self.attack.threat), s["x"]
        ahead = current + spread(s["step_size"], x) * threat.sparse(gradient, s["density"])
        z = threat.within(ahead, x, s["radius"] * threat.epsilon)
        for end, radius in self._narrower.items():
            over = s["k"] == end
            best = threat.within(s["best"], x, torch.full_like(s["radius"], radius * threat.epsilon))
            z, s["best"] = choose(over, best, z), choose(over, best, s["best"])
            s["best_loss"] = torch.where(over, -torch.inf, s["best_loss"])
            s["radius"] = torch.where(over, radius, s["radius"])
            s["step_size"] = torch.where(over, radius * threat.epsilon, s["step_size"])
            s["changed"] = torch.where(over, changed(best, x), s["changed"])
            s["density"] = torch.where(over, s["changed"] / x[0].numel() / 1.5, s["density"])
            s["begun"] = torch.where(over, end + 1, s["begun"])
        return z


def changed(z: Tensor, x: Tensor) -> Tensor:
    """How many pixels of each z differ from x's [B]."""
    return (z != x).flatten(1).sum(1).to(x.dtype)


def into_ball(threat: Threat, z: Tensor, x: Tensor) -> Tensor:
    """`threat.project` in L2, without its safety margin below the sphere, on which APGD moves."""
    size = threat.norm(z - x)
    share = torch.where(size > threat.epsilon, threat.epsilon / size, torch.ones_like(size))
    return (x + (z - x) * spread(share, x)).clamp(0, 1)
