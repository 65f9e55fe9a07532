"""One attack for every network of a comparison: it takes the forms that fit the network and keeps the worst of them per example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from poise.attacks.adaptive import Aim, Run, adaptive_score, soft_mixture, untargeted, worst_of
from poise.attacks.ascent import Score, Start, ascent, started
from poise.attacks.attack import Attack
from poise.attacks.pgd import score_of
from poise.core import papers
from poise.core.seeds import Draw
from poise.core.settings import NonNegative, Positive, PositiveCount, settings
from poise.losses import cross_entropy
from poise.models.ensemble import CollaborationModule, EnsembleModule, log_mean_probabilities, mean_logits
from poise.models.folding import surrogate
from poise.models.mixture import MixtureModule
from poise.threats import Linf, Threat

_AIMS: tuple[Aim, ...] = ("confidence", "mismatch")


@settings
class AimedPGD(Attack):
    """PGD in every form that fits the network, so that a choice, a vote or a gate cannot hide behind its missing gradient.

    Any network: CE of its output. A collaboration: both adaptive losses for every lambda, and the mixture that its choice is the
    limit of. An ensemble: CE of its members' mean probabilities and of their mean logits. Whatever has experts: CE of each of them.
    """

    paper = papers.SYNERGY
    threat: Threat = Linf()
    step_size: Positive = 8 / 255 / 5
    steps: PositiveCount = 50
    start: Start = "uniform"
    restarts: PositiveCount = 1
    """Of each form."""
    lambdas: Annotated[tuple[NonNegative, ...], Field(min_length=1)] = (0.2, 0.4, 0.6, 0.8, 1.0)
    """Weights of the adaptive losses' second part."""
    temperature: Positive = 0.1
    """Of the mixture over confidences."""

    @property
    def name(self) -> str:
        return f"AimedPGD-{self.steps}" + (f"x{self.restarts}" if self.restarts > 1 else "")

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None = None) -> Tensor:
        untargeted(target, "AimedPGD")
        asked = surrogate(model)
        count = len(self._scores(asked, x, y))

        def run(form: int, restart: int) -> Run:
            def once(x: Tensor, y: Tensor, draw: Draw, target: Tensor | None) -> Tensor:
                z = started(self.start, self.threat, x, draw.within("restart", restart))
                score = self._scores(asked, x, y)[form]
                return ascent(score, x, z, threat=self.threat, step_size=self.step_size, steps=self.steps)

            return once

        return worst_of([run(form, restart) for form in range(count) for restart in range(self.restarts)], model, x, y, draw)

    def _scores(self, model: nn.Module, x: Tensor, y: Tensor) -> list[Score]:
        """What is ascended in each form."""
        scores = [score_of("cross_entropy", model, x, y)]
        if isinstance(model, CollaborationModule):
            scores.append(self._soft(model, y))
            scores += [adaptive_score(model, y, aim, weight) for weight in self.lambdas if weight > 0 for aim in _AIMS]
        if isinstance(model, EnsembleModule):
            others = {"mean_probabilities": log_mean_probabilities, "mean_logits": mean_logits}
            scores += [_combined(model, y, form) for name, form in others.items() if name != model.output]
        if isinstance(model, CollaborationModule | EnsembleModule | MixtureModule):
            scores += [score_of("cross_entropy", member, x, y) for member in model.members]
        return scores

    def _soft(self, model: CollaborationModule, y: Tensor) -> Score:
        def score(z: Tensor) -> tuple[Tensor, Tensor]:
            logits = soft_mixture(model, z, self.temperature)
            return cross_entropy(logits, y), logits

        return score


def _combined(model: EnsembleModule, y: Tensor, form: Callable[[Tensor], Tensor]) -> Score:
    def score(z: Tensor) -> tuple[Tensor, Tensor]:
        logits = form(model.all_logits(z))
        return cross_entropy(logits, y), logits

    return score
