"""Names are resolved among what may stand in their place; a path that leads nowhere is answered by near ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from poise.core.errors import SettingsError
from poise.core.overrides import override
from poise.core.papers import Paper
from poise.core.settings import Settings, from_json, spelled, to_json
from poise.core.settings import settings as registered
from poise.data import Digits
from poise.engine import Experiment, Monitor
from poise.learners import EMA, Policy
from poise.learners import Step as StepSchedule
from poise.methods import Generalist, Joint
from poise.models import Network
from poise.objectives import NT, TRADES
from poise.threats import L2, Linf

OWN = Paper("own", "A network of the tests", "here")


@registered
class Step(Network):
    """A network of a user's own that is called as a schedule of the house."""

    width: int = 4

    def module(self, shape, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))


class Policed(NT):
    """Natural training under a name that the policy around it has."""

    tag: ClassVar[str] = "Policy"
    paper = OWN


registered(Policed)


def test_classes_of_one_name_in_different_families_stand_each_in_its_own_place():
    base = Experiment(method=Joint(policy=Policy(objective=TRADES())))
    own = override(base, ["model=Step", "model.width=7"])
    assert own.model == Step(width=7)
    both = override(own, ["method.schedule=Step", "method.schedule.at=[3]", "method.schedule.factors=[0.5]"])
    schedule = both.method.policies()["joint"].schedule
    assert isinstance(schedule, StepSchedule) and both.model == Step(width=7)
    assert from_json(Experiment, to_json(both)) == both


def test_an_objective_may_be_called_as_the_policy_around_it():
    assert from_json(Policy, {"type": "Policy"}) == Policy()
    around = Policy(objective=Policed())
    assert from_json(Policy, to_json(around)) == around
    assert override(Generalist(), ["robust.objective=Policy"]).robust.objective == Policed()


def test_a_settings_class_alone_may_have_the_name_of_one_of_ours():
    @registered
    class Monitor(Settings):
        """A user's own, of no family."""

        every: int = 3

    assert from_json(Monitor, {"type": "Monitor", "every": 4}) == Monitor(every=4)
    assert from_json(Experiment, to_json(Experiment())) == Experiment()


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("lr=0.1", "'method.policy.optimizer.learning_rate'?"),
        ("method.lr=0.1", "'method.policy.optimizer.learning_rate'?"),
        ("eps=0.1", "'epsilon', 'method.policy.objective.inner.threat.epsilon' or 'monitors.1.attack"),
        ("alpha=0.1", "'method.policy.objective.inner.step_size'"),
        ("batch=64", "'method.batch_size'?"),
        ("bacth_size=64", "'method.batch_size'?"),
        ("method.policy.optimizer.lr=1", "did you mean 'learning_rate'?"),
        ("method.batchsize=1", "did you mean 'batch_size'?"),
        ("objective=AT", "'method.policy.objective'?"),
        ("inner.steps=7", "'method.policy.objective.inner.steps'?"),
        ("beta=6", "'method.policy.objective.beta'?"),
        ("method.policy.objective.inner.treat=L2", "did you mean 'threat'?"),
        ("monitors.1.atack.steps=3", "did you mean 'attack'?"),
        ("monitors.1.attack.lr=3", "'method.policy.optimizer.learning_rate'?"),
    ],
)
def test_a_mistyped_path_is_answered_by_the_nearest_ones_at_any_depth(path, nearest):
    attack = {"type": "PGD"}
    trades = override(Experiment(), {"method.objective": TRADES, "monitors": [{}, {"name": "pgd", "attack": attack}]})
    with pytest.raises(SettingsError) as caught:
        override(trades, [path])
    assert nearest in str(caught.value)
    assert str(caught.value).count("'") <= 2 * (2 + 5)  # the path, the name that isn't there, at most five others


def test_a_place_of_each_learner_is_suggested():
    with pytest.raises(
        SettingsError, match=r"'method\.natural\.optimizer\.learning_rate' or 'method\.robust\.optimizer"
    ):
        override(Experiment(method=Generalist()), ["lr=1"])


def test_programs_give_numbers_words_settings_and_classes():
    given = {"epochs": 3, "held_out": np.float32(0.25), "method.batch_size": torch.tensor(32), "method.average": None}
    given |= {"method.average": EMA(decay=0.5), "method.objective": TRADES, "method.beta": 3.0, "deterministic": False}
    given |= {"data": Digits(fold=2), "initial": Path("a") / "b", "keep_epochs": (1, 2), "monitors": [Monitor()]}
    changed = override(Experiment(), given)
    policy = changed.method.policies()["joint"]
    assert (changed.epochs, changed.held_out, changed.method.batch_size) == (3, 0.25, 32)
    assert policy.objective == TRADES(beta=3) and policy.average == EMA(decay=0.5)
    assert (changed.deterministic, changed.data, changed.initial) == (False, Digits(fold=2), str(Path("a") / "b"))
    assert (changed.keep_epochs, changed.monitors) == ((1, 2), (Monitor(),))
    assert override(changed, {"method.average": None}).method.policies()["joint"].average is None
    assert override(changed, {"epochs": 4.0}).epochs == 4


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("epochs", 2.5, "Experiment.epochs = 2.5: must be a valid integer"),
        ("epochs", True, "Experiment.epochs = True: must be a whole number"),
        ("epochs", None, "Experiment.epochs = None: must be a valid integer"),
        ("held_out", True, "Experiment.held_out = True: must be a number"),
        ("held_out", math.nan, "held_out: nan of type float cannot be written as a setting"),
        ("held_out", np.float64("inf"), "held_out: inf of type float cannot be written as a setting"),
        ("model", nn.Linear(1, 1), "of type Linear cannot be written as a setting"),
    ],
)
def test_values_of_another_kind_are_refused_with_their_path(path, value, message):
    with pytest.raises(SettingsError) as caught:
        override(Experiment(), {path: value})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8 / 255, "8/255"),
        (2 / 255, "2/255"),
        (128 / 255, "128/255"),
        (0.2, "0.2"),
        (0.031, "0.031"),
        (0.5, "0.5"),
        (0.0, "0"),
        (3.0, "3"),
        (1 / 3, "0.3333"),
        (0.5 / 255, "0.5/255"),
    ],
)
def test_a_number_is_spelled_as_papers_print_it(value, text):
    assert spelled(value) == text
    assert f"epsilon={value!r}" in repr(L2(epsilon=value)) or f"epsilon={text}," in repr(L2(epsilon=value))


def test_a_settings_repr_makes_it_again():
    method = Generalist(robust=TRADES())  # type: ignore[arg-type]
    assert "Linf(epsilon=8/255)" in repr(method)
    assert repr(Step(width=7)) == "Step(normalise=None, width=7)"
    assert eval(repr(Linf(epsilon=4 / 255)), {"Linf": Linf}) == Linf(epsilon=4 / 255)
