"""IAT: interpolated adversarial training (Lamb et al. 2019): mixup on natural and on adversarial examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from poise.attacks.ascent import Ascent
from poise.attacks.pgd import score_of
from poise.core import papers
from poise.core.batches import Batch, Now
from poise.core.distributed import ALONE, World
from poise.core.modes import CraftMode
from poise.core.settings import UnitInterval, settings
from poise.losses import cross_entropy
from poise.objectives.objective import Examples, Forwards, Objective, Terms


@dataclass(frozen=True)
class Mixture:
    """Images x [B, C, H, W], each mixed, once exchanged, with a partner of label `other` [B]; share: lambda, the
    image's own part [B].

    key: int64 [B]; the batch in the order of its keys is the permutation that names the partners.
    """

    x: Tensor
    other: Tensor
    share: Tensor
    key: Tensor


@dataclass(frozen=True)
class Interpolated(Examples):
    """The two branches; y: the labels of the images themselves."""

    natural: Mixture
    adversarial: Mixture


@settings
class IAT(Objective[Interpolated]):
    """Half mixup on images, half mixup on adversarial examples of the unmixed images, each with its own lambda ~
    Beta(1, 1) and order.

    Partners are found in the whole batch, over all microbatches and ranks.
    """

    paper = papers.IAT
    inner: Ascent = Ascent()
    label_smoothing: UnitInterval = 0.0
    """Of both labels of a mixture alike."""
    craft_mode: CraftMode = "evaluating"

    def forwards(self) -> Forwards:
        return Forwards(2 * self.inner.steps, 6)

    def craft(self, model: nn.Module, batch: Batch, now: Now, teacher: nn.Module | None = None) -> Interpolated:
        score = score_of("cross_entropy", model, batch.x, batch.y)
        x_adv = self.inner.at(now).maximise(score, batch.x, now.draw("craft", batch))

        def branch(x: Tensor, name: str) -> Mixture:
            share = now.draw_once(f"share of {name}", device=x.device).uniform(1, dtype=x.dtype)[0].expand(len(x))
            return Mixture(x, batch.y, share, now.draw(f"order of {name}", batch).bits(1)[:, 0])

        return Interpolated(batch.y, branch(batch.x, "natural"), branch(x_adv, "adversarial"))

    def exchange(self, examples: Sequence[Interpolated], now: Now, world: World = ALONE) -> Sequence[Interpolated]:
        """Mix each branch with its own permutation of the whole step."""
        counts = [int(text) for text in world.exchange(str(sum(len(part.y) for part in examples)))]
        natural = _mixed([part.natural for part in examples], counts, world)
        adversarial = _mixed([part.adversarial for part in examples], counts, world)
        return [
            replace(part, natural=n, adversarial=a) for part, n, a in zip(examples, natural, adversarial, strict=True)
        ]

    def loss(self, model: nn.Module, examples: Interpolated, now: Now) -> Terms:
        """Two forwards: natural, adversarial."""
        return {
            "natural": _mixup(model, examples.natural, examples.y, self.label_smoothing) / 2,
            "robust": _mixup(model, examples.adversarial, examples.y, self.label_smoothing) / 2,
        }


def _mixed(parts: Sequence[Mixture], counts: list[int], world: World) -> list[Mixture]:
    """The parts with their images mixed. counts: examples on each rank; the images of all ranks meet on every rank."""
    here = slice(sum(counts[: world.rank]), sum(counts[: world.rank + 1]))
    everyone = [torch.cat(tensors) for tensors in zip(*((part.x, part.other, part.key) for part in parts), strict=True)]
    if world.size > 1:
        whole = [tensors.new_zeros(sum(counts), *tensors.shape[1:]) for tensors in everyone]
        for total, tensors in zip(whole, everyone, strict=True):
            total[here] = tensors
        world.sum_(whole)
        everyone = whole
    x, y, key = everyone
    partner = torch.argsort(key, stable=True)[here]
    shares = torch.cat([part.share for part in parts]).view(-1, *[1] * (x.dim() - 1))
    sizes = [len(part.x) for part in parts]
    pieces = zip(
        (shares * x[here] + (1 - shares) * x[partner]).split(sizes), y[partner].split(sizes), parts, strict=True
    )
    return [replace(part, x=images, other=other_labels) for images, other_labels, part in pieces]


def _mixup(model: nn.Module, mixture: Mixture, y: Tensor, label_smoothing: float) -> Tensor:
    logits = model(mixture.x)
    loss_own, loss_other = (cross_entropy(logits, labels, label_smoothing) for labels in (y, mixture.other))
    return mixture.share * loss_own + (1 - mixture.share) * loss_other
