"""ADP (Pang et al. 2019): the members' predictions are kept apart on the classes that are not the true one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poise.attacks.ascent import Ascent
from poise.attacks.pgd import score_of
from poise.core import papers
from poise.core.batches import Batch, Now
from poise.core.errors import SettingsError
from poise.core.exact import widened
from poise.core.lengths import unit
from poise.core.modes import CraftMode
from poise.core.settings import NonNegative, UnitInterval, settings
from poise.losses import cross_entropy
from poise.models.ensemble import EnsembleModule
from poise.objectives.at import Adversarial
from poise.objectives.objective import Forwards, Objective, Terms

# the largest wrong class's probability below which all are taken among themselves: their directions are the same
_GONE = 1e-30


def ensemble_of(model: nn.Module, asking: str) -> EnsembleModule:
    """The model itself. Raises: SettingsError unless it is an ensemble."""
    if not isinstance(model, EnsembleModule):
        raise SettingsError(f"{asking} trains an Ensemble, not {type(model).__name__}; set model=Ensemble(member=...)")
    return model


def attacked(adversarial: Ascent | None, model: nn.Module, batch: Batch, now: Now) -> Tensor:
    """The batch's adversarial images by PGD on the network's output [B, C, H, W]; without settings, no images [B,
    0].
    """
    if adversarial is None:
        return batch.x.new_empty(len(batch), 0)
    score = score_of("cross_entropy", model, batch.x, batch.y)
    return adversarial.at(now).maximise(score, batch.x, now.draw("craft", batch))


def entropy_of_mean(logits: Tensor) -> Tensor:
    """Entropy of the members' mean probability [B] from logits [M, B, C]; the log's argument is moved by 1e-20 as
    released.
    """
    mean = F.softmax(logits, -1).mean(0)
    return -(mean * (mean + 1e-20).log()).sum(-1)


def log_determinant(logits: Tensor, y: Tensor) -> Tensor:
    """log det(G + 1e-6 I) [B], G the Gram matrix of the members' normalised probabilities of the wrong classes; logits
    [M, B, C].

    The largest is 0, where the members' wrong classes are orthogonal (Pang et al. 2019, Eq. 4).
    """
    probabilities = F.softmax(logits, -1)
    # a zero changes no inner product
    wrong = probabilities.scatter(-1, y.expand(len(logits), -1)[..., None], 0.0).transpose(0, 1)
    among_wrong = F.softmax(logits.scatter(-1, y.expand(len(logits), -1)[..., None], float("-inf")), -1).transpose(0, 1)
    gone = wrong.amax(-1, keepdim=True) < _GONE
    directions = unit(torch.where(gone, among_wrong, wrong))
    gram = directions @ directions.transpose(1, 2)
    return torch.logdet(gram + 1e-6 * torch.eye(len(logits), dtype=gram.dtype, device=gram.device))


@settings
class ADP(Objective[Adversarial]):
    """sum_i CE_i - alpha H(mean probability) - beta log det of the wrong classes [+ sum_i CE_i(x_adv)], x_adv from the
    ensemble.

    With alpha = beta = 0 the members train independently: the baseline ensemble, surrogate of the transfer protocols.
    """

    paper = papers.ADP
    alpha: NonNegative = 2.0
    beta: NonNegative = 0.5
    adversarial: Ascent | None = None
    """PGD on the ensemble, for adversarial training; None: natural images only."""
    label_smoothing: UnitInterval = 0.0
    craft_mode: CraftMode = "training"

    def check(self, model: nn.Module) -> None:
        ensemble_of(model, "ADP")

    def forwards(self) -> Forwards:
        return Forwards(0, 3) if self.adversarial is None else Forwards(2 * self.adversarial.steps, 6)

    def craft(self, model: nn.Module, batch: Batch, now: Now, teacher: nn.Module | None = None) -> Adversarial:
        return Adversarial(batch.y, batch.x, attacked(self.adversarial, ensemble_of(model, "ADP"), batch, now))

    def loss(self, model: nn.Module, examples: Adversarial, now: Now) -> Terms:
        """Forwards of every member: natural, then adversarial."""
        ensemble = ensemble_of(model, "ADP")
        logits = widened(ensemble.all_logits(examples.x))
        with torch.autocast(logits.device.type, enabled=False):  # no determinant in half precision
            terms = {"natural": sum_of_losses(logits, examples.y, self.label_smoothing)}
            if self.alpha > 0:
                terms["entropy"] = -self.alpha * entropy_of_mean(logits)
            if self.beta > 0:
                terms["diversity"] = -self.beta * log_determinant(logits, examples.y)
        if self.adversarial is not None:
            terms["robust"] = sum_of_losses(ensemble.all_logits(examples.x_adv), examples.y, self.label_smoothing)
        return terms


def sum_of_losses(logits: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Sum of the members' cross-entropies [B] from logits [M, B, C]."""
    return torch.stack([cross_entropy(member_logits, y, label_smoothing) for member_logits in logits]).sum(0)
