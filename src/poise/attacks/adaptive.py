"""Attacks aimed at a network that chooses among experts (Cui et al. 2022, Section 4.2; methods for any hard selection).

Their gradients are those of `surrogate`, which equals the network up to rounding; success is judged on the network
itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from poise.attacks.ascent import Score, Start
from poise.attacks.attack import Attack
from poise.attacks.gradients import heard
from poise.attacks.pgd import Form, run_of, score_of, worst_of
from poise.core import papers
from poise.core.answers import answer
from poise.core.errors import InputError
from poise.core.exact import widened
from poise.core.seeds import Draw
from poise.core.settings import NonNegative, Positive, PositiveCount, settings
from poise.losses import cross_entropy
from poise.models.ensemble import CollaborationModule, EnsembleModule, log_mean_probabilities, unwrapped
from poise.models.folding import surrogate
from poise.models.mixture import MixtureModule
from poise.threats import Linf, Threat

Aim = Literal["confidence", "mismatch"]
"""Paper's l1: the winner's confidence falls. Paper's l2: an expert that is wrong becomes confident."""


@settings
class AdaptivePGD(Attack):
    """PGD on both heads of a collaboration: CE + lambda l1 and CE + lambda l2 for every lambda, the worst per example.

    l1 = -log g_j of the most confident expert j;  l2 = max_j -log(p_j(y) g_j + 1 - g_j)  (Section 4.2). Nothing is
    detached.
    """

    paper = papers.SYNERGY
    threat: Threat = Linf()
    step_size: Positive = 8 / 255 / 5
    """Published: epsilon / 5."""
    steps: PositiveCount = 50
    start: Start = "uniform"
    restarts: PositiveCount = 5
    aims: Annotated[tuple[Aim, ...], Field(min_length=1)] = ("confidence", "mismatch")
    lambdas: Annotated[tuple[NonNegative, ...], Field(min_length=1)] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """Weights of the second loss; 0 is plain PGD, for both aims the same. One value at a time gives the paper's Fig. 5.
    """

    @property
    def name(self) -> str:
        aims = "" if len(self.aims) == 2 else f"-{self.aims[0]}"
        swept = AdaptivePGD.__dataclass_fields__["lambdas"].default  # type: ignore[attr-defined]
        lambdas = "" if self.lambdas == swept else "-" + ",".join(f"{value:g}" for value in self.lambdas)
        return f"AdaptivePGD-{self.steps}" + (f"x{self.restarts}" if self.restarts > 1 else "") + aims + lambdas

    def forwards(self) -> float:
        return 2.0 * self.steps * self.restarts * len(self.aims) * len(self.lambdas) + 1

    def check(self, model: nn.Module) -> None:
        collaboration_of(unwrapped(model), "AdaptivePGD")

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None = None) -> Tensor:
        untargeted(target, "AdaptivePGD")
        network = collaboration_of(surrogate(unwrapped(model)), "AdaptivePGD")
        forms: list[tuple[Aim, float]] = [
            (aim, value) for value in self.lambdas for aim in self.aims if value > 0 or aim == self.aims[0]
        ]
        starts = range(self.restarts)
        runs = [run_of(self, adaptive_form(network, *form), "restart", restart) for form in forms for restart in starts]
        return worst_of(runs, model, x, y, draw)


@settings
class TransferFromExperts(Attack):
    """PGD on every expert of a collaboration, ensemble or mixture by itself; of the results each example keeps the
    whole's worst.

    The gradient of a hard choice sees the chosen expert only; this attack needs no gradient through the choice.
    """

    paper = papers.SYNERGY
    threat: Threat = Linf()
    step_size: Positive = 8 / 255 / 5
    steps: PositiveCount = 50
    start: Start = "uniform"
    restarts: PositiveCount = 5

    @property
    def name(self) -> str:
        return f"TransferFromExperts-{self.steps}" + (f"x{self.restarts}" if self.restarts > 1 else "")

    def check(self, model: nn.Module) -> None:
        self._whole(model)

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None = None) -> Tensor:
        forms = [partial(score_of, "cross_entropy", surrogate(member)) for member in self._whole(model).members]
        starts = range(self.restarts)
        runs = [
            run_of(self, form, "expert", expert, "restart", restart)
            for expert, form in enumerate(forms)
            for restart in starts
        ]
        return worst_of(runs, model, x, y, draw, target)

    def _whole(self, model: nn.Module) -> CollaborationModule | EnsembleModule | MixtureModule:
        whole = unwrapped(model)
        if not isinstance(whole, CollaborationModule | EnsembleModule | MixtureModule):
            needed_kind = "a Collaboration, an Ensemble or a Mixture"
            raise InputError(
                f"TransferFromExperts attacks {needed_kind}, not {type(whole).__name__}, which has no experts"
            )
        return whole


@settings
class SoftMixturePGD(Attack):
    """PGD on a collaboration whose hard choice is replaced by a mixture of the experts' probabilities.

    They are weighted by softmax(confidence / temperature). The gradient reaches all experts and, through the weights,
    the choice itself; success is judged by the hard choice.
    """

    paper = papers.SYNERGY
    threat: Threat = Linf()
    step_size: Positive = 8 / 255 / 5
    steps: PositiveCount = 50
    start: Start = "uniform"
    restarts: PositiveCount = 5
    temperature: Positive = 0.1
    """Confidences lie in [0, 1]; towards 0 the mixture becomes the hard choice."""

    @property
    def name(self) -> str:
        usual = SoftMixturePGD.__dataclass_fields__["temperature"].default  # type: ignore[attr-defined]
        warmth = "" if self.temperature == usual else f"-temperature{self.temperature:g}"
        return f"SoftMixturePGD-{self.steps}" + (f"x{self.restarts}" if self.restarts > 1 else "") + warmth

    def check(self, model: nn.Module) -> None:
        collaboration_of(unwrapped(model), "SoftMixturePGD")

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None = None) -> Tensor:
        network = collaboration_of(surrogate(unwrapped(model)), "SoftMixturePGD")
        form = entropy_form(lambda z: soft_mixture(network, z, self.temperature))
        runs = [run_of(self, form, "restart", restart) for restart in range(self.restarts)]
        return worst_of(runs, model, x, y, draw, target)


def collaboration_of(model: nn.Module, attack: str) -> CollaborationModule:
    """The model itself. Raises: InputError unless it is a collaboration."""
    if not isinstance(model, CollaborationModule):
        raise InputError(
            f"{attack} attacks the choice of a Collaboration; {type(model).__name__} chooses among no experts"
        )
    return model


def untargeted(target: Tensor | None, attack: str) -> None:
    """Raises: InputError for target classes, which the attack has no loss for."""
    if target is not None:
        raise InputError(f"{attack} cannot be targeted; leave target out")


def entropy_form(logits_of: Callable[[Tensor], Tensor]) -> Form:
    """The cross-entropy of logits [B, C] computed from images; with a target minus that of the target class."""

    def form(x: Tensor, y: Tensor, target: Tensor | None) -> Score:
        def score(z: Tensor) -> tuple[Tensor, Tensor]:
            logits = heard(answer(logits_of, z))
            return (cross_entropy(logits, y) if target is None else -cross_entropy(logits, target)), logits

        return score

    return form


def adaptive_form(whole: CollaborationModule, aim: Aim, weight: float) -> Form:
    """CE of the chosen expert plus `weight` times l1 ("confidence") or l2 ("mismatch"), [B]."""

    def form(x: Tensor, y: Tensor, target: Tensor | None) -> Score:
        return lambda z: adaptive_loss(whole, *whole.all_heads(z), y, aim, weight)

    return form


def adaptive_loss(
    whole: CollaborationModule, logits: Tensor, evaluator: Tensor, y: Tensor, aim: Aim, weight: float
) -> tuple[Tensor, Tensor]:
    """The adaptive loss [B] and the chosen logits [B, C], from all experts' heads [M, B, C] and [M, B, 1]."""
    confidences = whole.confidences(logits, evaluator)
    logits_of_choice = whole.select(logits, confidences)
    smallest = torch.finfo(confidences.dtype).tiny
    if aim == "confidence":
        second = -confidences.amax(0).clamp(min=smallest).log()
    else:
        doubt = 1 - F.softmax(widened(logits), -1).gather(-1, y.expand(len(logits), -1)[..., None])[..., 0]
        second = -(1 - confidences * doubt).clamp(min=smallest).log().amin(0)
    return cross_entropy(logits_of_choice, y) + weight * second, logits_of_choice


def soft_mixture(whole: CollaborationModule, x: Tensor, temperature: float) -> Tensor:
    """log sum_i w_i softmax(logits_i) [B, C], w = softmax(confidence / temperature) over the experts."""
    logits, evaluator = whole.all_heads(x)
    log_shares = F.log_softmax(whole.confidences(logits, evaluator) / temperature, 0)
    return torch.logsumexp(F.log_softmax(widened(logits), -1) + log_shares[..., None], 0)


def chooses(model: nn.Module) -> bool:
    """Whether a network chooses: a collaboration, a vote, or an ensemble of such."""
    whole = unwrapped(model)
    if isinstance(whole, EnsembleModule):
        return whole.output == "vote" or any(map(chooses, whole.members))
    return isinstance(whole, CollaborationModule)


def softened(model: nn.Module, x: Tensor, temperature: float) -> Tensor:
    """The logits [B, C] of a network whose choices are replaced by what they are the limits of: a collaboration's by
    its mixture (see `soft_mixture`), a vote by the mean probabilities, those of an ensemble's members alike."""
    whole = unwrapped(model)
    if isinstance(whole, CollaborationModule):
        return soft_mixture(whole, x, temperature)
    if isinstance(whole, EnsembleModule):
        logits = torch.stack([softened(member, x, temperature) for member in whole.members])
        return log_mean_probabilities(logits) if whole.output == "vote" else whole.combine(logits)
    return model(x)
