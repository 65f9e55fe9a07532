"""Collaborative examples (Li et al. 2023, Eq. 4): neighbours on which the model is more certain of the label than on
the image.
"""

from __future__ import annotations

from torch import Tensor, nn

from poise.attacks.ascent import Start, ascent, started
from poise.attacks.attack import Attack
from poise.attacks.gradients import heard
from poise.core import papers
from poise.core.answers import answer
from poise.core.errors import InputError
from poise.core.seeds import Draw
from poise.core.settings import Positive, PositiveCount, settings
from poise.losses import cross_entropy
from poise.threats import Linf, Threat


@settings
class Collaborative(Attack):
    """Projected descent of the cross-entropy, from the image itself. It helps the model: robust accuracy under it is no
    verdict.
    """

    paper = papers.SQUEEZE_TRAINING
    against = False
    threat: Threat = Linf()
    step_size: Positive = 1 / 255
    steps: PositiveCount = 100
    start: Start = "zero"

    @property
    def name(self) -> str:
        return f"Collaborative-{self.steps}"

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, draw: Draw, target: Tensor | None = None) -> Tensor:
        if target is not None:
            raise InputError("target is given, must be None: collaborative examples are sought for the label itself")

        def score(z: Tensor) -> tuple[Tensor, Tensor]:
            logits = heard(answer(model, z))
            return -cross_entropy(logits, y), logits

        z = started(self.start, self.threat, x, draw)
        return ascent(score, x, z, threat=self.threat, step_size=self.step_size, steps=self.steps)
