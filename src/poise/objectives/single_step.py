"""What adversarial training by single steps of epsilon has in common."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from poise.attacks.ascent import Ascent
from poise.core.errors import SettingsError
from poise.core.modes import CraftMode
from poise.core.settings import UnitInterval, shared
from poise.objectives.at import Adversarial
from poise.objectives.objective import Objective, searches_of

E = TypeVar("E", bound=Adversarial)


@shared
class SingleStep(Objective[E]):
    """One step, whose size is a share of epsilon (the papers': all of it), from a start of the objective's own."""

    inner: Ascent = Ascent(step_size=8 / 255, steps=1, start="zero")
    label_smoothing: UnitInterval = 0.0
    craft_mode: CraftMode = "training"

    def __post_init__(self) -> None:
        if self.inner.steps != 1:
            raise SettingsError(
                f"{type(self).__name__}.inner.steps = {self.inner.steps}: must be 1; several steps are AT"
            )

    def hand_on(self, new: Any) -> Any:
        """The threat stays; one step of epsilon is no search for others, whose own steps are scaled to it."""
        theirs = searches_of(new) if isinstance(new, Objective) else []
        if not theirs or type(new) is type(self):
            return new
        threat = self.inner.threat
        step_size = theirs[0].step_size * threat.epsilon / theirs[0].threat.epsilon
        return new.searching(replace(theirs[0], threat=threat, step_size=step_size))

    def searching(self, like: Ascent) -> SingleStep[E]:
        """Within the same threat, by one step of its epsilon."""
        step_size = self.inner.step_size * like.threat.epsilon / self.inner.threat.epsilon
        return replace(self, inner=replace(self.inner, threat=like.threat, step_size=step_size, ramp=like.ramp))
