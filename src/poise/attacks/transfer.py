"""Attacks made on a surrogate to be tried on other networks: the transfer protocol of DVERGE and Synergy-of-Experts.

soe-transfer-30: surrogates of 3, 5 and 8 members x losses CE, CW x (3 starts of M-PGD, SGM, M-DI2-FGSM), 100 steps of
epsilon / 5
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from poise.attacks.ascent import Start, ascent, started
from poise.attacks.attack import Attack
from poise.attacks.gradients import heard
from poise.core import papers
from poise.core.answers import answer
from poise.core.errors import InputError
from poise.core.seeds import Draw
from poise.core.settings import Count, NonNegative, Number, Positive, PositiveCount, UnitInterval, settings, tag_of
from poise.losses import cross_entropy, margin, targeted_margin
from poise.models.ensemble import EnsembleModule
from poise.models.folding import surrogate
from poise.models.layers import pooled
from poise.models.resnet import ResNetModule
from poise.threats import Linf, Threat

Loss = Literal["cross_entropy", "cw"]
SGM_NEEDS = "SGM needs a ResNet of basic blocks (ResNet18, ResNet20) or an Ensemble of them"
View = Callable[[Tensor], Tensor]
"""Images -> logits as the attack sees the surrogate."""


@dataclass(frozen=True, kw_only=True)
class SurrogateAttack(Attack):
    """One run of the projected ascent on a surrogate; a subclass says how its gradient is taken."""

    step_size: Positive = 8 / 255 / 5
    """Published: epsilon / 5."""
    steps: PositiveCount = 100
    start: Start = "uniform"
    momentum: NonNegative = 0.0
    loss: Loss = "cross_entropy"
    confidence: Number = 0.1
    """The CW loss stops pushing once the margin exceeds this many logits."""
    dverge_cw_compat: bool = False
    """The CW loss as in the code that the published tables stand on: the true class enters the maximum as 0, not
    masked.
    """

    @property
    def name(self) -> str:
        loss = "" if self.loss == "cross_entropy" else "-CW-compat" if self.dverge_cw_compat else "-CW"
        return f"{tag_of(self)}-{self.steps}{loss}"

    @abstractmethod
    def view(self, model: nn.Module, draw: Draw) -> View:
        """The surrogate as this attack differentiates it. Called once; what it returns is called in every step, in
        order.
        """

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None = None) -> Tensor:
        view = self.view(surrogate(model), draw)

        def score(z: Tensor) -> tuple[Tensor, Tensor]:
            logits = heard(answer(view, z))
            return self._loss(logits, y, target), logits

        z = started(self.start, self.threat, x, draw)
        return ascent(
            score, x, z, threat=self.threat, step_size=self.step_size, steps=self.steps, momentum=self.momentum
        ).contiguous()

    def _loss(self, logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
        if self.loss == "cross_entropy":
            return cross_entropy(logits, y) if target is None else -cross_entropy(logits, target)
        if target is not None:
            return targeted_margin(logits, target).clamp(max=self.confidence)
        return dverge_cw(logits, y, self.confidence) if self.dverge_cw_compat else margin(logits, y, self.confidence)


def dverge_cw(logits: Tensor, y: Tensor, confidence: float) -> Tensor:
    """-relu(z_y - max(0, max_{k != y} z_k) + confidence) [B]: DVERGE's form, in which the true class counts with value
    0.

    On log-probabilities, which are never positive, its gradient vanishes once p_y < exp(-confidence).
    """
    wrong_logits = logits.scatter(1, y[:, None], 0.0).amax(1)
    return -torch.relu(logits.gather(1, y[:, None])[:, 0] - wrong_logits + confidence)


@settings
class MPGD(SurrogateAttack):
    """Momentum PGD from a random start; `restart` numbers the starts, each of which is a variant of its own."""

    paper = papers.MIM
    threat: Threat = Linf()
    momentum: NonNegative = 1.0
    restart: Count = 0

    @property
    def name(self) -> str:
        return super().name + (f"-start{self.restart}" if self.restart else "")

    def view(self, model: nn.Module, draw: Draw) -> View:
        return model

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None = None) -> Tensor:
        return super().perturb(model, x, y, draw.within("restart", self.restart), target)


@settings
class SGM(SurrogateAttack):
    """Skip gradient method: PGD with the gradient through the residual branch of every block scaled by `gamma`."""

    paper = papers.SKIP_GRADIENT
    threat: Threat = Linf()
    gamma: UnitInterval = 0.2

    def check(self, model: nn.Module) -> None:
        if not residual(model):
            raise InputError(f"{SGM_NEEDS}, not {type(model).__name__}")

    def view(self, model: nn.Module, draw: Draw) -> View:
        return lambda z: skip_gradient(model, z, self.gamma)


@settings
class MDI2FGSM(SurrogateAttack):
    """Momentum and diverse inputs: before each gradient every image is, or is not, shrunk and put on black at a random
    place.
    """

    paper = papers.DIVERSE_INPUTS
    threat: Threat = Linf()
    start: Start = "zero"
    momentum: NonNegative = 1.0
    probability: UnitInterval = 0.5
    """Of changing an image, drawn per image and step."""
    smallest: UnitInterval = 28 / 32
    """The smallest side, as a share of the image's own."""

    def view(self, model: nn.Module, draw: Draw) -> View:
        step = itertools.count()

        def logits(z: Tensor) -> Tensor:
            return model(diverse(z, draw.within("diversity", next(step)), self.probability, self.smallest))

        return logits


def residual(model: nn.Module) -> bool:
    """Whether `skip_gradient` knows the network's residual branches."""
    if isinstance(model, EnsembleModule):
        return all(residual(member) for member in model.members)
    return isinstance(model, ResNetModule)


def skip_gradient(model: nn.Module, x: Tensor, gamma: float) -> Tensor:
    """The network's own logits [B, C], whose gradient passes each residual branch scaled by `gamma` and each shortcut
    unscaled.

    Raises: InputError unless the network is a ResNet of basic blocks, or an ensemble of them.
    """
    if isinstance(model, EnsembleModule):
        return model.combine(torch.stack([skip_gradient(member, x, gamma) for member in model.members]))
    if not isinstance(model, ResNetModule):
        raise InputError(f"{SGM_NEEDS}, not {type(model).__name__}")
    x = model.activation(model.bn1(model.conv1(model.normalise(x))))
    for block in model.blocks():
        residual = block.bn2(block.conv2(block.activation(block.first_layer(x))))
        constant = residual.detach()
        x = block.activation(constant + gamma * (residual - constant) + block.shortcut(x))
    return model.head(pooled(x))


def diverse(x: Tensor, draw: Draw, probability: float, smallest: float) -> Tensor:
    """Images [B, C, H, W], some shrunk to a side r of smallest * H .. H (nearest pixel) and placed at random on
    black.
    """
    height, width = x.shape[2:]
    numbers = draw.uniform(4, dtype=torch.float64)
    transformed = numbers[:, 0] < probability
    least = min(height, -int(-smallest * height // 1))
    side = least + (numbers[:, 1] * (height - least + 1)).to(torch.int64)
    rows, inside_rows = _placed(side, numbers[:, 2], height)
    columns, inside_columns = _placed(
        (side * width).div(height, rounding_mode="floor").clamp(min=1), numbers[:, 3], width
    )
    example = torch.arange(len(x), device=x.device)[:, None, None]
    crops = x.permute(0, 2, 3, 1)[example, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    shrunk = crops * (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]
    return torch.where(transformed[:, None, None, None], shrunk, x)


def _placed(side: Tensor, where: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """For one axis: which old pixel each new one shows [B, length], and whether it lies inside the shrunk image."""
    first = (where * (length - side + 1)).to(torch.int64)
    position = torch.arange(length, device=side.device)[None] - first[:, None]
    inside = (position >= 0) & (position < side[:, None])
    source = (position * length).div(side[:, None], rounding_mode="floor").clamp(0, length - 1)
    return source, inside


def soe_transfer(
    variants: Literal[3, 30], threat: Threat, dverge_cw_compat: bool = False
) -> tuple[SurrogateAttack, ...]:
    """The attacks made on each surrogate: with 3 (surrogate of 3 members only) CE and one start; with 30, 10 on each of
    three.

    An image counts as robust only if the target is right on every variant.
    """
    common = {"threat": threat, "step_size": threat.epsilon / 5, "dverge_cw_compat": dverge_cw_compat}
    losses: tuple[Loss, ...] = ("cross_entropy",) if variants == 3 else ("cross_entropy", "cw")
    attacks: list[SurrogateAttack] = []
    for loss in losses:
        starts = range(1 if variants == 3 else 3)
        attacks += [MPGD(loss=loss, restart=restart, **common) for restart in starts]
        attacks += [SGM(loss=loss, **common), MDI2FGSM(loss=loss, **common)]
    return tuple(attacks)
