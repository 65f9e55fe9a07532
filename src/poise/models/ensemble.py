"""Several networks answering as one: plain ensembles, and the collaboration of Synergy-of-Experts (Cui et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.core import papers
from poise.core.exact import widened
from poise.core.papers import Paper
from poise.core.settings import PositiveCount, settings
from poise.models.dual_head import Confidence, DualHead, DualHeadModule, confidence_of
from poise.models.network import Collective, Network, Shape

Output = Literal["mean_probabilities", "mean_logits", "vote"]
_FLOOR = 1e-40  # DVERGE's clamp of the mean probability, applied to its logarithm so that float32 can hold it


def log_mean_probabilities(logits: Tensor) -> Tensor:
    """log(mean over the members of softmax) [B, C] of logits [M, B, C], at least log(1e-40); serves as logits
    (DVERGE).
    """
    log_mean = torch.logsumexp(F.log_softmax(widened(logits), -1), 0) - math.log(len(logits))
    return log_mean.clamp(min=math.log(_FLOOR))


def mean_logits(logits: Tensor) -> Tensor:
    """Mean over the members [B, C] of logits [M, B, C]."""
    return widened(logits).mean(0)


def log_votes(logits: Tensor) -> Tensor:
    """Log of each class's share of the members' votes [B, C], from logits [M, B, C]; ties go to the larger mean
    probability.

    The tie-break takes 0.001 / M of the share, too little to outweigh a vote, and is all that has a gradient: that of
    the cross-entropy is the mean probability's up to a positive factor per example, so steps of its sign or direction
    are the same.
    """
    logits = widened(logits)
    share = F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype).mean(0)
    weight = 1e-3 / len(logits)
    mixture = (1 - weight) * share + weight * F.softmax(logits, -1).mean(0)
    return mixture.clamp(min=torch.finfo(mixture.dtype).tiny).log()


_COMBINE = {"mean_probabilities": log_mean_probabilities, "mean_logits": mean_logits, "vote": log_votes}


class EnsembleModule(nn.Module):
    """Members asked one after the other; `output` combines their logits."""

    def __init__(self, members: Sequence[nn.Module], output: Output) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.output: Output = output

    def all_logits(self, x: Tensor) -> Tensor:
        """Every member's logits [M, B, C]."""
        return torch.stack([member(x) for member in self.members])

    def combine(self, logits: Tensor) -> Tensor:
        """The ensemble's output [B, C] from its members' logits [M, B, C]."""
        return _COMBINE[self.output](logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.combine(self.all_logits(x))


@settings
class Ensemble(Collective):
    """`members` networks of one architecture with different initial weights."""

    member: Network
    members: PositiveCount = 3
    output: Output = "mean_probabilities"
    """Log of the mean softmax; mean of the logits; or log of the share of votes, whose gradient has the direction of
    the mean softmax's.
    """

    def module(self, shape: Shape, classes: int) -> EnsembleModule:
        return EnsembleModule([self.member.assembled(shape, classes) for _ in range(self.members)], self.output)


class CollaborationModule(nn.Module):
    """Experts with two heads; each example is answered by the expert that is most confident of it."""

    def __init__(self, members: Sequence[DualHeadModule], confidence: Confidence) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.confidence: Confidence = confidence

    def all_heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Every expert's logits [M, B, C] and raw evaluator output [M, B, 1]."""
        logits, evaluator = zip(*[member.heads(x) for member in self.members], strict=True)  # type: ignore[operator]
        return torch.stack(logits), torch.stack(evaluator)

    def confidences(self, logits: Tensor, evaluator: Tensor) -> Tensor:
        """Confidence of each expert in each example [M, B]."""
        return confidence_of(self.confidence, logits, evaluator)

    def winners(self, confidences: Tensor) -> Tensor:
        """The most confident expert for each example, int64 [B]; the first among equals. Carries no gradient."""
        return confidences.argmax(0)

    def select(self, logits: Tensor, confidences: Tensor) -> Tensor:
        """The logits [B, C] of each example's most confident expert; gradients reach that expert's logits only."""
        index = self.winners(confidences)[None, :, None].expand(1, *logits.shape[1:])
        return logits.gather(0, index)[0]

    def forward(self, x: Tensor) -> Tensor:
        logits, evaluator = self.all_heads(x)
        return self.select(logits, self.confidences(logits.detach(), evaluator.detach()))


@settings
class Collaboration(Collective):
    """`members` experts of one architecture with different initial weights, each with an evaluator
    (Synergy-of-Experts).
    """

    paper: ClassVar[Paper | None] = papers.SYNERGY

    member: Network
    """The backbone of each expert; it carries the normalisation."""
    members: PositiveCount = 3
    confidence: Confidence = "rectified"

    def module(self, shape: Shape, classes: int) -> CollaborationModule:
        expert = DualHead(backbone=self.member, confidence=self.confidence)
        return CollaborationModule([expert.module(shape, classes) for _ in range(self.members)], self.confidence)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside what leaves its output as it is: torch.compile, DataParallel, a Sequential of it and
    identities.
    """
    inside = model._modules.get("_orig_mod")  # what torch.compile calls it; its class is slow to import
    if isinstance(model, nn.DataParallel):
        inside = model.module
    if type(model) is nn.Sequential:
        parts = [part for part in model if not isinstance(part, nn.Identity)]
        inside = parts[0] if len(parts) == 1 else None
    return model if inside is None else unwrapped(inside)
