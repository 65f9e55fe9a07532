"""MoRE (Cheng et al. 2022) in the form that Synergy-of-Experts compares itself with: experts mixed by a gate, trained
end to end.
"""

from __future__ import annotations

from torch import nn

from poise.attacks.ascent import Ascent
from poise.core import papers
from poise.core.batches import Batch, Now
from poise.core.errors import SettingsError
from poise.core.modes import CraftMode
from poise.core.settings import UnitInterval, settings
from poise.losses import cross_entropy
from poise.models.mixture import MixtureModule
from poise.objectives.adp import attacked
from poise.objectives.at import Adversarial
from poise.objectives.objective import Forwards, Objective, Terms


@settings
class MoRE(Objective[Adversarial]):
    """CE(x) [+ CE(x_adv)] of the mixture sum_i gate_i * logits_i, x_adv by PGD on the mixture."""

    paper = papers.MORE
    adversarial: Ascent | None = Ascent()
    """PGD on the mixture, for adversarial training; None: natural images only."""
    label_smoothing: UnitInterval = 0.0
    craft_mode: CraftMode = "training"

    def check(self, model: nn.Module) -> None:
        _mixture(model)

    def forwards(self) -> Forwards:
        return Forwards(0, 3) if self.adversarial is None else Forwards(2 * self.adversarial.steps, 6)

    def craft(self, model: nn.Module, batch: Batch, now: Now, teacher: nn.Module | None = None) -> Adversarial:
        return Adversarial(batch.y, batch.x, attacked(self.adversarial, _mixture(model), batch, now))

    def loss(self, model: nn.Module, examples: Adversarial, now: Now) -> Terms:
        """Forwards of the mixture: natural, then adversarial."""
        mixture = _mixture(model)
        terms = {"natural": cross_entropy(mixture(examples.x), examples.y, self.label_smoothing)}
        if self.adversarial is not None:
            terms["robust"] = cross_entropy(mixture(examples.x_adv), examples.y, self.label_smoothing)
        return terms


def _mixture(model: nn.Module) -> MixtureModule:
    if not isinstance(model, MixtureModule):
        raise SettingsError(
            f"MoRE trains a Mixture, not {type(model).__name__}; set model=Mixture(member=..., gate=...)"
        )
    return model
