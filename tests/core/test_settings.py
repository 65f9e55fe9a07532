"""Settings: validated on construction, written as JSON, changed by paths."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import ClassVar

import pytest

from poise.attacks import Ascent
from poise.core.errors import SettingsError
from poise.core.overrides import override
from poise.core.settings import Settings, from_json, newer, read_json, registered, settings, to_json
from poise.engine import Experiment
from poise.engine.experiment import Published
from poise.learners import SGD, Policy
from poise.methods import Generalist, Joint
from poise.objectives import AT, NT, TRADES, Objective
from poise.threats import L2, Linf, Threat


def test_fractions_are_numbers():
    assert Linf(epsilon="8/255").epsilon == 8 / 255  # type: ignore[arg-type]


def test_settings_are_frozen_and_keyword_only():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Linf().epsilon = 1  # type: ignore[misc]
    with pytest.raises(SettingsError, match="keyword arguments only"):
        Linf(0.1)  # type: ignore[call-arg]


def test_a_polymorphic_field_keeps_its_class_in_json():
    method = Generalist(natural=NT(), robust=TRADES(beta=3))  # type: ignore[arg-type]
    back = from_json(Generalist, json.loads(json.dumps(to_json(method))))
    assert back == method
    assert isinstance(back.robust.objective, TRADES)


def test_an_objective_stands_for_the_default_policy():
    assert Joint(policy=TRADES()).policy == Policy(objective=TRADES())  # type: ignore[arg-type]


def test_override_resolves_the_class_before_its_settings_whatever_the_order():
    method = override(
        Generalist(), ["robust.beta=6", "robust=TRADES", "natural.optimizer=Adam", "robust.inner.steps=7"]
    )
    assert method.robust.objective == TRADES(beta=6, inner=dataclasses.replace(TRADES().inner, steps=7))
    assert type(method.natural.optimizer).__name__ == "Adam"
    assert method.robust.optimizer == Generalist().robust.optimizer


def test_paths_through_transparent_settings_are_as_long_as_written_out():
    """`method.beta` is `method.policy.objective.beta`: the objective is chosen first, whatever is typed first."""
    inner = Ascent(threat=Linf(epsilon=0.2), step_size=0.05)
    base = Experiment(method=Joint(policy=Policy(objective=AT(inner=inner))))
    for chosen in ("method.objective=TRADES", "method.policy.objective=TRADES", "method.policy=TRADES"):
        for order in ([chosen, "method.beta=3"], ["method.beta=3", chosen]):
            made = override(base, order).method.policies()["joint"].objective
            assert isinstance(made, TRADES) and (made.beta, made.inner.threat, made.inner.step_size) == (
                3,
                Linf(epsilon=0.2),
                0.05,
            ), order
    robust = override(Generalist(), ["robust.beta=6", "robust.objective=TRADES"]).robust.objective
    assert isinstance(robust, TRADES) and robust.beta == 6


def test_override_reaches_through_a_method_of_one_policy():
    experiment = override(
        Experiment(), {"method.objective": "AT", "method.beta": "0.5", "method.optimizer.learning_rate": "1/4"}
    )
    assert experiment.method == Joint(policy=Policy(objective=AT(beta=0.5), optimizer=SGD(learning_rate=0.25)))


def test_a_class_put_in_anothers_place_takes_over_where_it_searches():
    """Threat, step size, steps and ramp are the run's; the start and all else are the new objective's."""
    inner = Ascent(threat=Linf(epsilon=0.2), step_size=0.05, steps=5, ramp=0.3)
    base = Experiment(
        title="AT", method=Joint(policy=Policy(objective=AT(inner=inner))), published=Published(table="a table")
    )
    for name in ("TRADES", "SqueezeTraining", "FAT", "TwoExamples", "GAIRRST"):
        schedule = {"FAT": ["method.tau_from=1,2,3"], "GAIRRST": ["method.from_epoch=9"]}.get(name, [])
        made = override(base, [f"method.objective={name}", *schedule])
        new = made.method.policies()["joint"].objective
        found = getattr(getattr(new, "objective", new), "inner", None)
        assert isinstance(found, Ascent)
        assert type(new).__name__ == name
        assert (found.threat, found.step_size, found.steps, found.ramp) == (Linf(epsilon=0.2), 0.05, 5, 0.3)
        assert made.title == name and made.published is None
    trades = override(base, ["method.objective=TRADES", "method.inner.steps=9"]).method.policies()["joint"].objective
    assert isinstance(trades, TRADES) and trades.inner.start == TRADES().inner.start and trades.inner.steps == 9


def test_a_title_stays_where_objectives_do_and_where_it_is_given():
    base = Experiment(title="AT", method=Joint(policy=Policy(objective=AT())))
    assert override(base, ["method.objective=AT", "epochs=3"]).title == "AT"
    assert override(base, ["method.objective=TRADES", "title=mine"]).title == "mine"
    assert override(base, ["method=Generalist"]).title == "Generalist (natural: NT, robust: AT)"


def test_settings_between_a_class_and_its_own_need_not_fit_yet():
    """GAIRAT's published schedule begins at epoch 60; only what stands at the end is judged."""
    made = override(Experiment(epochs=30), ["method.objective=GAIRAT", "method.objective.from_epoch=20"])
    assert made.method.policies()["joint"].objective.from_epoch == 20  # type: ignore[attr-defined]
    with pytest.raises(SettingsError, match=r"GAIRAT\.from_epoch = 60: must be at most epochs = 30"):
        override(Experiment(epochs=30), ["method.objective=GAIRAT"])


def test_override_reads_lists_none_and_elements():
    method = override(Generalist(), ["gamma.values=1,1,1,0.4", "natural.average=none"])
    assert method.gamma.values == (1, 1, 1, 0.4)  # type: ignore[attr-defined]
    assert method.natural.average is None
    experiment = override(Experiment(), ["monitors.0.first=7"])
    assert experiment.monitors[0].first == 7


def test_override_builds_a_third_learner_path_by_path():
    paths = [
        "others.0.inner.threat.epsilon=0.5",
        "others.0.inner.threat=L2",
        'others=[{"name":"l2","policy":"AT"}]',
        "others.0.share=0.2",
    ]
    (third,) = override(Generalist(), paths).others
    assert (third.name, third.share.at) == ("l2", 0.2)  # type: ignore[attr-defined]
    assert third.policy.objective.inner.threat == L2(epsilon=0.5)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("others.0.policy=AT", "'others.0.policy': a list has no '0'"),
        ("batch_size.x=3", "'batch_size.x': a number has no 'x'"),
        ("robust.bta=1", "'robust.bta': AT has no 'bta'; did you mean 'beta'"),
        ("rbust=AT", "has no 'rbust'; did you mean 'robust'"),
        ("robust=TRADE", "no registered"),
        ("robust.beta=2", "AT.beta = 2: must be less than or equal to 1"),
        ("robust.inner.steps=many", "Ascent.steps = 'many'"),
        ("robust", "name=value"),
        ("=3", "name=value"),
    ],
)
def test_bad_overrides_are_refused_in_one_sentence(path, message):
    with pytest.raises(SettingsError) as caught:
        override(Generalist(), [path])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_settings_file_never_names_an_import():
    for name in ("os.system", "poise.objectives.AT", "__import__"):
        with pytest.raises(SettingsError, match="no registered objective"):
            from_json(Objective, {"type": name})  # type: ignore[type-abstract]


def test_broken_json_names_the_file():
    with pytest.raises(SettingsError, match=r"my\.json is not JSON"):
        read_json(Experiment, "{", "my.json")


def test_nested_refusals_say_where_they_stand():
    data = to_json(Generalist())
    data["robust"]["objective"]["inner"]["threat"]["epsilon"] = 3
    with pytest.raises(
        SettingsError,
        match=r"Linf\.epsilon = 3: must be less than or equal to 1 \(at robust\.objective\.inner\.threat\)",
    ):
        from_json(Generalist, data)


def test_a_users_class_joins_its_family():
    @settings
    class HalfPixel(Threat):
        """A threat of a user's own."""

        epsilon: float = 0.5 / 255

        def project(self, z, x):
            return z

        def random_start(self, x, draw):
            return x

        def step(self, z, gradient, step_size):
            return z

        def norm(self, delta):
            return delta.flatten(1).norm(dim=1)

    assert registered(Threat)["HalfPixel"] is HalfPixel
    assert from_json(Threat, {"type": "HalfPixel"}) == HalfPixel()  # type: ignore[type-abstract]


def test_two_classes_of_one_name_are_refused():
    class Impostor(Threat):
        """Wants to be read from other people's files."""

        epsilon: float = 1.0

    Impostor.__name__ = "L2"
    with pytest.raises(SettingsError, match="'L2' is taken by"):
        settings(Impostor)
    assert registered(Threat)["L2"] is L2


def test_values_that_are_no_settings_cannot_be_written():
    with pytest.raises(SettingsError, match="cannot be written"):
        to_json({"a": object()})


def test_a_single_settings_class_needs_no_tag():
    @settings
    class Lonely(Settings):
        """Alone in its family."""

        steps: int = 3

    assert from_json(Lonely, {"steps": 4}) == Lonely(steps=4)


def test_l2_may_exceed_one():
    assert L2(epsilon=3).epsilon == 3


class Renamed(Settings, family="renamed"):
    """A family of this file."""


@settings
class Present(Renamed):
    """A class and a setting that had other names when settings were written, and a setting that is newer than those."""

    tag: ClassVar[str] = "Former"
    aliases: ClassVar[tuple[str, ...]] = ("Foremost",)
    written: ClassVar[Mapping[str, str]] = {"batch_norm": "statistics"}
    batch_norm: str = "averaged"
    pace: int = newer(default=1)


@settings
class Heir(Present):
    """Inherits the settings and no name."""


def test_a_renamed_class_and_setting_are_written_as_ever_and_read_by_either_name():
    former = {"type": "Former", "statistics": "local"}
    assert to_json(Present(batch_norm="local")) == former
    for data in (former, {"type": "Present", "batch_norm": "local"}, {"type": "Foremost", "batch_norm": "local"}):
        assert from_json(Renamed, data) == Present(batch_norm="local")  # type: ignore[type-abstract]
    assert list(registered(Renamed)) == ["Former", "Heir"]
    assert to_json(Heir(batch_norm="local")) == {"type": "Heir", "statistics": "local"}
    assert type(from_json(Renamed, {"type": "Heir"})) is Heir  # type: ignore[type-abstract]


def test_a_setting_that_came_later_is_written_only_where_it_is_not_its_default():
    assert to_json(Present()) == to_json(Present(pace=1)) == {"type": "Former", "statistics": "averaged"}
    assert to_json(Present(pace=2)) == {"type": "Former", "statistics": "averaged", "pace": 2}
    assert to_json(Present(), whole=True) == {"type": "Former", "statistics": "averaged", "pace": 1}
    assert from_json(Renamed, to_json(Present(pace=2))) == Present(pace=2)  # type: ignore[type-abstract]
    assert override(Present(), ["pace=3"]) == Present(pace=3)
