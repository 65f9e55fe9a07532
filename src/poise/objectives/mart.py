"""MART (Wang et al. 2020, Eq. 9-12)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from poise.attacks.ascent import Ascent, Score
from poise.attacks.pgd import score_of
from poise.core import papers
from poise.core.batches import Batch, Now
from poise.core.exact import widened
from poise.core.modes import CraftMode
from poise.core.settings import NonNegative, UnitInterval, settings
from poise.losses import boosted_ce, log_probabilities
from poise.objectives.at import Adversarial, AdversarialObjective
from poise.objectives.objective import Forwards, Terms


@settings
class MART(AdversarialObjective):
    """BCE(x_adv) + beta KL(p(x) || p(x_adv)) (1 - p_y(x)), x_adv by PGD on cross-entropy from a Gaussian start."""

    paper = papers.MART
    beta: NonNegative = 5.0
    inner: Ascent = Ascent(start="gaussian")
    label_smoothing: UnitInterval = 0.0
    """Of BCE's first term, the cross-entropy of x_adv; its second, the margin, has no labels to smooth."""
    craft_mode: CraftMode = "evaluating"

    def forwards(self) -> Forwards:
        return Forwards(2 * self.inner.steps, 6)

    def score(self, model: nn.Module, batch: Batch) -> Score:
        return score_of("cross_entropy", model, batch.x, batch.y)

    def loss(self, model: nn.Module, examples: Adversarial, now: Now) -> Terms:
        """Two forwards: natural, adversarial. The constants are those of the released code; nothing is detached."""
        log_p = log_probabilities(model(examples.x))
        adversarial_logits = widened(model(examples.x_adv))
        log_q = (F.softmax(adversarial_logits, 1) + 1e-12).log()
        # p log p has no gradient where p underflows to 0
        robust = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
        wrong_probability = 1.0000001 - log_p.gather(1, examples.y[:, None])[:, 0].exp()
        return {
            "natural": boosted_ce(adversarial_logits, examples.y, self.label_smoothing),
            "robust": self.beta * robust * wrong_probability,
        }
