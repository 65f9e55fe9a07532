"""Synergy-of-Experts (Cui et al. 2022, Algorithms 1 and 2): experts share the images out among them and learn whom to
trust.

One network, a `Collaboration`, holds all experts, so one learner trains them: SGD acts element by element, which makes
it equal to one optimizer per expert as long as no gradient is clipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from poise.attacks.ascent import Ascent
from poise.attacks.pgd import score_of
from poise.core import papers
from poise.core.batches import Batch, Now
from poise.core.errors import SettingsError
from poise.core.modes import CraftMode
from poise.core.settings import NonNegative, Positive, UnitInterval, settings
from poise.losses import cross_entropy
from poise.models.dual_head import DualHeadModule
from poise.models.ensemble import CollaborationModule
from poise.objectives.objective import Examples, Forwards, Objective, Terms
from poise.objectives.surrogates import Surrogate, combined, confidence_loss
from poise.objectives.watch import watched


@dataclass(frozen=True)
class Sources(Examples):
    """x: natural images [B, C, H, W]; x_adv: one adversarial image per source of attack, [B, S, C, H, W]."""

    x: Tensor
    x_adv: Tensor


@settings
class SynergyOfExperts(Objective[Sources]):
    """mean over sources of surrogate(CE of all experts) + lambda BCE(confidence, p_y), on adversarial and on natural
    images.

    Phase I: the sources are attacks on each expert alone. Phase II: one attack on the collaboration, which chooses anew
    at every step.
    """

    paper = papers.SYNERGY
    surrogate: Surrogate = "smooth"
    """"smooth" is Eq. 6; "hard" the minimum of Eq. 5; "released" weights by softmax of the experts' own confidence, a
    constant.
    """
    sigma: Positive = 1.0
    """Temperature of the smooth minimum; at most sigma * ln(experts) below the minimum (Eq. 7)."""
    confidence_weight: NonNegative = 1.0
    """Lambda, on the evaluators' loss."""
    clean_term: bool = True
    """Both losses on the natural images too: in the released code, not in the paper's algorithms."""
    phase_two_from: UnitInterval = 2 / 3
    """Share of the epochs after which phase II begins; 1 leaves it out, 0 leaves phase I out."""
    update: Literal["joint", "per_source"] = "joint"
    """"joint": a step is one update, by the mean over all sources (released code). "per_source": in phase I a step
    attacks one expert after the other, and updates all of them after each, on the same batch (Algorithm 1, line 10)."""
    detach_features: bool = False
    """True: the evaluators' loss trains evaluators only (Algorithm 1, line 6); the released code lets it reach features
    and predictors.
    """
    inner: Ascent = Ascent()
    """The released step is a fixed 0.01, from the image itself; here it is epsilon / 4 from a uniform start."""
    label_smoothing: UnitInterval = 0.0
    """Of the experts' cross-entropies inside the surrogate; which expert is watched as the best one goes by the plain
    ones.
    """
    craft_mode: CraftMode = "evaluating"

    def phase(self, now: Now) -> Literal[1, 2]:
        """Which of the two algorithms this epoch belongs to."""
        return 2 if now.epoch - 1 >= self.phase_two_from * now.epochs - 1e-9 else 1

    def check(self, model: nn.Module) -> None:
        collaboration_of(model, "SynergyOfExperts")

    def forwards(self) -> Forwards:
        """Those of phase II; phase I of M experts descends on M sources, 3 M in place of 3."""
        return Forwards(2 * self.inner.steps, 6 if self.clean_term else 3)

    def turns(self, model: nn.Module, now: Now) -> int:
        single = self.update == "joint" or self.phase(now) == 2
        return 1 if single else len(collaboration_of(model, "SynergyOfExperts").members)

    def craft(self, model: nn.Module, batch: Batch, now: Now, teacher: nn.Module | None = None) -> Sources:
        whole = collaboration_of(model, "SynergyOfExperts")
        inner, draw = self.inner.at(now), now.draw("craft", batch)
        experts = list(enumerate(whole.members))
        if self.phase(now) == 2:
            sources = [("collaboration", whole)]
        elif self.update == "per_source":
            sources = [experts[now.turn]]
        else:
            sources = experts
        x_adv = [
            inner.maximise(score_of("cross_entropy", network, batch.x, batch.y), batch.x, draw.within("source", source))
            for source, network in sources
        ]
        return Sources(batch.y, batch.x, torch.stack(x_adv, 1))

    def loss(self, model: nn.Module, examples: Sources, now: Now) -> Terms:
        """Forwards of every expert: natural images, then those of all sources at once."""
        whole = collaboration_of(model, "SynergyOfExperts")
        terms: Terms = {}
        if self.clean_term:
            fit, trust, _ = self._losses(whole, examples.x, examples.y)
            terms = {"natural": fit, "natural_confidence": self.confidence_weight * trust}
        count, sources = examples.x_adv.shape[:2]
        y = examples.y.repeat_interleave(sources)
        fit, trust, chose_best = self._losses(whole, examples.x_adv.flatten(0, 1), y)
        terms["robust"] = fit.view(count, sources).mean(1)
        terms["robust_confidence"] = self.confidence_weight * trust.view(count, sources).mean(1)
        return terms | watched("chose_best", chose_best.view(count, sources).mean(1))

    def _losses(self, whole: CollaborationModule, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The surrogate, the mean of the experts' BCE and whether the most confident expert is the best one, each
        [B].
        """
        logits, evaluator, for_trust = heads(whole, x, self.detach_features)
        losses = torch.stack([cross_entropy(member_logits, y, self.label_smoothing) for member_logits in logits])
        with torch.no_grad():
            confidences = whole.confidences(logits, evaluator)
            best = torch.stack([cross_entropy(member_logits, y) for member_logits in logits]).argmin(0)
            chose_best = (whole.winners(confidences) == best).to(losses.dtype)
        trust = torch.stack(
            [confidence_loss(whole.confidence, *pair, y) for pair in zip(for_trust, evaluator, strict=True)]
        )
        return combined(self.surrogate, losses, self.sigma, confidences), trust.mean(0), chose_best


def collaboration_of(model: nn.Module, asking: str) -> CollaborationModule:
    """The model itself. Raises: SettingsError unless it is a collaboration."""
    if not isinstance(model, CollaborationModule):
        raise SettingsError(
            f"{asking} trains a Collaboration of experts, not {type(model).__name__}; set"
            " model=Collaboration(member=...)"
        )
    return model


def heads(whole: CollaborationModule, x: Tensor, detach_features: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Experts' logits [M, B, C], evaluators' outputs [M, B, 1], and the logits as the evaluators' loss sees them [M, B,
    C].
    """
    if not detach_features:
        logits, evaluator = whole.all_heads(x)
        return logits, evaluator, logits
    outputs: list[tuple[Tensor, Tensor]] = []
    for member in whole.members:
        assert isinstance(member, DualHeadModule)
        features = member.features(x)
        outputs.append((member.head(features), member.evaluator(features.detach())))
    logits, evaluator = (torch.stack(tensors) for tensors in zip(*outputs, strict=True))
    return logits, evaluator, logits.detach()
