"""What may stand for a schedule."""

from __future__ import annotations

import pytest

from poise.core.errors import SettingsError
from poise.core.overrides import override
from poise.core.settings import from_json, to_json
from poise.learners import Constant, Policy, Schedule, Step
from poise.methods import Generalist


@pytest.mark.parametrize(("text", "at"), [("0.5", 0.5), ("1", 1.0), ("1/4", 0.25)])
def test_a_number_stands_for_a_constant_schedule(text: str, at: float) -> None:
    made = override(Generalist(), [f"gamma={text}"])
    assert made.gamma == Constant(at=at)
    assert from_json(Generalist, to_json(made)) == made
    assert override(Generalist(), [f"natural.schedule={text}"]).natural.schedule == Constant(at=at)


def test_in_python_too() -> None:
    assert Policy(schedule=0.5).schedule == Constant(at=0.5)  # type: ignore[arg-type]
    assert from_json(Schedule, 2) == Constant(at=2.0)  # type: ignore[type-abstract]
    assert from_json(Schedule, "Step") == Step()  # type: ignore[type-abstract]


@pytest.mark.parametrize("text", ["true", "[1, 1, 1, 0.5]", "none"])
def test_what_is_no_number_is_told_the_schedules(text: str) -> None:
    with pytest.raises(SettingsError, match=r"Generalist\.gamma = .*must be one of Constant, Step, PiecewiseLinear"):
        override(Generalist(), [f"gamma={text}"])
    with pytest.raises(SettingsError, match=r"Generalist\.gamma = 'half/2': must be a number such as 0\.031 or 8/255"):
        override(Generalist(), ["gamma=half/2"])
