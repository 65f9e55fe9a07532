"""Experts whose logits are mixed by a gate that looks at the image (Jacobs et al. 1991; MoRE, Cheng et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from poise.core import papers
from poise.core.exact import widened
from poise.core.papers import Paper
from poise.core.settings import settings
from poise.models.network import Collective, Network, Shape


class MixtureModule(nn.Module):
    """Output sum_i softmax(gate(x))_i * logits_i(x)."""

    def __init__(self, members: Sequence[nn.Module], gate: nn.Module) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.gate = gate

    def all_logits(self, x: Tensor) -> Tensor:
        """Every expert's logits [M, B, C]."""
        return torch.stack([member(x) for member in self.members])

    def shares(self, x: Tensor) -> Tensor:
        """Each expert's share in each example [M, B]; they sum to 1."""
        return F.softmax(widened(self.gate(x)), 1).T

    def forward(self, x: Tensor) -> Tensor:
        return (self.shares(x)[..., None] * self.all_logits(x)).sum(0)


@settings
class Mixture(Collective):
    """`members` experts of one architecture with different initial weights, and a gate with one output per expert."""

    paper: ClassVar[Paper | None] = papers.MORE

    member: Network
    gate: Network
    """A network on the image, its "classes" the experts; the published one has the experts' architecture."""
    members: Annotated[int, Field(ge=2)] = 3

    def module(self, shape: Shape, classes: int) -> MixtureModule:
        experts = [self.member.assembled(shape, classes) for _ in range(self.members)]
        return MixtureModule(experts, self.gate.assembled(shape, self.members))
