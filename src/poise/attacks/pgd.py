"""FGSM, PGD, MIM and the margin (CW) attack: four settings of the one ascent loop.

Their gradients are those of `surrogate(model)`, which equals the model up to rounding; whether an example was reached
is always asked of the model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from poise.attacks.ascent import Rank, Score, Start, ascent, started
from poise.attacks.attack import Attack
from poise.attacks.gradients import heard
from poise.core import papers
from poise.core.answers import answer
from poise.core.exact import exact
from poise.core.lengths import wide
from poise.core.seeds import Draw
from poise.core.settings import NonNegative, Number, Positive, PositiveCount, newer, settings
from poise.losses import (
    cross_entropy,
    kl,
    margin,
    probability_margin,
    targeted_margin,
    targeted_probability_margin,
)
from poise.models.folding import surrogate
from poise.threats import Linf, Threat, spread

Loss = Literal["cross_entropy", "kl", "margin", "probability_margin"]
_PREFIX: dict[Loss, str] = {
    "cross_entropy": "PGD",
    "kl": "PGD-KL",
    "margin": "PGD-margin",
    "probability_margin": "PGD-PMA",
}
Run = Callable[[Tensor, Tensor, Draw, Tensor | None], Tensor]
"""(x, y, draw, target) -> images: one run of an attack on part of a batch."""
Form = Callable[[Tensor, Tensor, Tensor | None], Score]
"""(x, y, target) -> what a run ascends."""
Ranking = Callable[[Tensor, Tensor | None], Rank | None]
"""(y, target) -> the rank by which a run keeps an iterate; None keeps the last."""


def score_of(
    loss: Loss, model: nn.Module, x: Tensor, y: Tensor, target: Tensor | None = None, confidence: float | None = None
) -> Score:
    """What an attack maximises at z: cross-entropy, KL(p(x) || p(z)) with p(x) constant, or the margin max_{k != y} z_k
    - z_y, of logits or of probabilities.

    With a target it is minus the cross-entropy of, or a margin towards, the target class.
    """
    with torch.no_grad():
        natural = answer(model, x) if loss == "kl" else x

    def score(z: Tensor) -> tuple[Tensor, Tensor]:
        logits = heard(answer(model, z))
        if loss == "kl":
            return kl(natural, logits), logits
        if loss == "margin":
            return (margin(logits, y, confidence) if target is None else targeted_margin(logits, target)), logits
        if loss == "probability_margin":
            lead = probability_margin(logits, y) if target is None else targeted_probability_margin(logits, target)
            return lead, logits
        return (cross_entropy(logits, y) if target is None else -cross_entropy(logits, target)), logits

    return score


@settings
class FGSM(Attack):
    """One step of size epsilon along the sign (Linf) or direction (L2) of the cross-entropy's gradient, from the image
    itself.
    """

    paper = papers.FGSM
    threat: Threat = Linf()

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None = None) -> Tensor:
        score = score_of("cross_entropy", surrogate(model), x, y, target)
        return ascent(score, x, x, threat=self.threat, step_size=self.threat.epsilon, steps=1).contiguous()


@settings
class PGD(Attack):
    """Projected gradient ascent with random starts; of several restarts each example keeps one that fools the model, if
    any.
    """

    paper = papers.PGD
    threat: Threat = Linf()
    step_size: Positive = 2 / 255
    steps: PositiveCount = 20
    start: Start = "uniform"
    restarts: PositiveCount = 1
    loss: Loss = "cross_entropy"
    keep: Literal["last", "largest_loss", "largest_margin"] = "last"
    """Which iterate is returned; with "largest_margin" an example counts as robust only if it is at every iterate."""

    @property
    def name(self) -> str:
        return f"{_PREFIX[self.loss]}-{self.steps}" + (f"x{self.restarts}" if self.restarts > 1 else "")

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None = None) -> Tensor:
        form = partial(score_of, self.loss, surrogate(model))
        runs = [run_of(self, form, "restart", restart, rank=self._rank) for restart in range(self.restarts)]
        return worst_of(runs, model, x, y, draw, target) if len(runs) > 1 else runs[0](x, y, draw, target)

    def _rank(self, y: Tensor, target: Tensor | None) -> Rank | None:
        if self.keep == "last":
            return None
        if self.keep == "largest_loss":
            return lambda values, logits: values
        return lambda values, logits: success(logits, y, target)


@settings
class MIM(Attack):
    """Momentum iterative method: the step follows accumulated gradients, each normalised by its mean absolute value."""

    paper = papers.MIM
    threat: Threat = Linf()
    step_size: Positive = 2 / 255
    steps: PositiveCount = 20
    start: Start = "uniform"
    momentum: NonNegative = 1.0
    normalised: bool = newer(default=True)
    """Whether each gradient is divided by its mean absolute value before it is summed, as in the paper."""

    @property
    def name(self) -> str:
        return f"MIM-{self.steps}" if self.normalised else f"MIM-raw-{self.steps}"

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None = None) -> Tensor:
        z = started(self.start, self.threat, x, draw.within("restart", 0))
        score = score_of("cross_entropy", surrogate(model), x, y, target)
        return ascent(
            score,
            x,
            z,
            threat=self.threat,
            step_size=self.step_size,
            steps=self.steps,
            momentum=self.momentum,
            normalised=self.normalised,
        ).contiguous()


@settings
class CW(Attack):
    """Projected ascent of the margin max_{k != y} z_k - z_y: the field's "CW-infinity"."""

    paper = papers.CW
    threat: Threat = Linf()
    step_size: Positive = 2 / 255
    steps: PositiveCount = 100
    start: Start = "uniform"
    confidence: Number | None = None
    """Stop pushing once the margin exceeds this many logits; None pushes on (methods of the papers' released code: 50).
    """

    @property
    def name(self) -> str:
        return f"CW-{self.steps}"

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None = None) -> Tensor:
        z = started(self.start, self.threat, x, draw.within("restart", 0))
        score = score_of("margin", surrogate(model), x, y, target, self.confidence)
        return ascent(score, x, z, threat=self.threat, step_size=self.step_size, steps=self.steps).contiguous()


class Ascending(Protocol):
    """What attacks of several runs have alike: where each starts, and its steps."""

    @property
    def threat(self) -> Threat: ...
    @property
    def step_size(self) -> float: ...
    @property
    def steps(self) -> int: ...
    @property
    def start(self) -> Start: ...


def run_of(attack: Ascending, form: Form, *purpose: int | str, rank: Ranking = lambda y, target: None) -> Run:
    """A run of the projected ascent with an attack's settings, from a start that is drawn for `purpose`; rank: which
    iterate is kept.
    """

    def run(x: Tensor, y: Tensor, draw: Draw, target: Tensor | None) -> Tensor:
        z = started(attack.start, attack.threat, x, draw.within(*purpose))
        score, keep = form(x, y, target), rank(y, target)
        return ascent(
            score, x, z, threat=attack.threat, step_size=attack.step_size, steps=attack.steps, keep=keep
        ).contiguous()

    return run


def worst_of(
    runs: Sequence[Run], model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None = None
) -> Tensor:
    """Per example the first run's image that succeeds on `model`, else the one of largest margin; same shape as x.

    It is NaN where the model answered NaN. Runs after the first see only the examples that still stand: one host
    synchronisation per run, none inside it.
    """
    x_adv, score_best = x, torch.full((len(x),), -torch.inf, dtype=wide(x.dtype), device=x.device)
    for run in runs:
        rows = (score_best <= 0).nonzero()[:, 0]
        if not len(rows):
            break
        towards = None if target is None else target[rows]
        z = run(x[rows], y[rows], draw[rows], towards)
        with torch.no_grad(), exact(z.device):
            lead = success(answer(model, z), y[rows], towards)
        # where there is no answer there is no image: `check_found` refuses it
        z = torch.where(spread(lead.isnan(), z), torch.nan, z)
        lead = lead.nan_to_num(nan=torch.inf)
        better = lead > score_best[rows]
        x_adv = x_adv.index_copy(0, rows, torch.where(spread(better, z), z, x_adv[rows]))
        score_best = score_best.index_copy(0, rows, torch.where(better, lead.to(score_best.dtype), score_best[rows]))
    return x_adv


def success(logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """A margin [B] that is positive where the attack has succeeded."""
    return margin(logits, y) if target is None else targeted_margin(logits, target)
