"""A network that also says how far to trust it: the expert of Synergy-of-Experts (Cui et al. 2022)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from poise.core import papers
from poise.core.errors import SettingsError
from poise.core.exact import widened
from poise.core.papers import Paper
from poise.core.settings import settings
from poise.models.layers import Classifier
from poise.models.network import Collective, Network, Shape

Confidence = Literal["evaluator", "rectified"]
"""Paper: sigmoid(e), trained towards p_y. Released code: max_k p_k * sigmoid(e), trained towards p_y; the default."""


def confidence_of(form: Confidence, logits: Tensor, evaluator: Tensor) -> Tensor:
    """Confidence in [0, 1] [...] from logits [..., C] and the evaluator's raw output e [..., 1]."""
    trust = widened(evaluator).squeeze(-1).sigmoid()
    return trust if form == "evaluator" else F.softmax(widened(logits), -1).amax(-1) * trust


class DualHeadModule(nn.Module):
    """A predictor head (the backbone's own) and an evaluator head on the same features; neither detaches them."""

    def __init__(self, backbone: Classifier, confidence: Confidence) -> None:
        super().__init__()
        self.backbone = backbone
        self.evaluator = nn.Linear(backbone.feature_dim, 1)
        self.confidence: Confidence = confidence

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, C] and the evaluator's raw output [B, 1], from one pass over the shared features."""
        features = self.backbone.features(x)
        return self.backbone.head(features), self.evaluator(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x)

    def features(self, x: Tensor) -> Tensor:
        return self.backbone.features(x)

    @property
    def head(self) -> nn.Linear:
        return self.backbone.head

    @property
    def feature_dim(self) -> int:
        return self.backbone.feature_dim


@settings
class DualHead(Collective):
    """`backbone` with an evaluator, one linear layer from its features to one number."""

    paper: ClassVar[Paper | None] = papers.SYNERGY

    backbone: Network
    confidence: Confidence = "rectified"

    def module(self, shape: Shape, classes: int) -> DualHeadModule:
        backbone = self.backbone.assembled(shape, classes)
        if not isinstance(backbone, Classifier):
            name = type(self.backbone).__name__
            raise SettingsError(
                f"{name} cannot be the backbone of a DualHead: it must be one network with features and a linear head"
            )
        return DualHeadModule(backbone, self.confidence)
