"""TRADES (Zhang et al. 2019), with the divergence replaceable as in Squeeze Training's Fig. 6."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from poise.attacks.ascent import Ascent, Score
from poise.core import papers
from poise.core.batches import Batch, Now
from poise.core.modes import CraftMode
from poise.core.settings import NonNegative, UnitInterval, settings
from poise.losses import Divergence, cross_entropy, divergence
from poise.objectives.at import Adversarial, AdversarialObjective
from poise.objectives.objective import Forwards, Terms
from poise.objectives.watch import watched


@settings
class TRADES(AdversarialObjective):
    """CE(x) + beta D(p(x), p(x_adv)), x_adv maximising the same D; D is KL(p(x) || p(x_adv)) unless another is
    named.
    """

    paper = papers.TRADES
    beta: NonNegative = 6.0
    """1 / lambda of the paper."""
    divergence: Divergence = "kl"
    inner: Ascent = Ascent(start="gaussian")
    label_smoothing: UnitInterval = 0.0
    """Of the loss; what is watched stays plain cross-entropy."""
    outer_order: Literal["natural_first", "adversarial_first"] = "natural_first"
    """Order of the forwards: natural, adversarial, natural (released code), or adversarial, natural, natural
    (TRADES-AWP's).
    """
    craft_mode: CraftMode = "evaluating"

    @property
    def takes_soft_labels(self) -> bool:
        return True

    def forwards(self) -> Forwards:
        return Forwards(2 * self.inner.steps + 1, 7, moving=1)

    def score(self, model: nn.Module, batch: Batch) -> Score:
        natural = model(batch.x).detach()

        def score(z: Tensor) -> tuple[Tensor, Tensor]:
            logits = model(z)
            return divergence(self.divergence, natural, logits), logits

        return score

    def loss(self, model: nn.Module, examples: Adversarial, now: Now) -> Terms:
        """Three forwards, as released, each of which moves BatchNorm's statistics; nothing is detached.

        The last one has the first one's logits, so it is taken only where statistics move, and without a graph.
        Watched: the cross-entropies of Squeeze Training's Fig. 5; the share of "collaborative" is that of examples of
        lower loss.
        """
        if self.outer_order == "natural_first":
            first, adversarial_logits = model(examples.x), model(examples.x_adv)
        else:
            adversarial_logits, first = model(examples.x_adv), model(examples.x)
        robust = divergence(self.divergence, first, adversarial_logits)
        if _moves_statistics(model):
            with torch.no_grad():
                model(examples.x)
        natural, adversarial = cross_entropy(first, examples.y), cross_entropy(adversarial_logits, examples.y)
        collaborative = adversarial < natural
        return {
            "natural": cross_entropy(first, examples.y, self.label_smoothing),
            "robust": self.beta * robust,
            **watched("natural", natural),
            **watched("adversarial", adversarial, ~collaborative),
            **watched("collaborative", adversarial, collaborative),
        }


def _moves_statistics(model: nn.Module) -> bool:
    return any(isinstance(part, _NormBase) and part.training and part.track_running_stats for part in model.modules())
