"""One threat of a run: read from where it stands, assigned to all places that equal it, and never written by itself."""

from __future__ import annotations

import dataclasses
import logging

import pytest

from poise.attacks import PGD, Ascent
from poise.core.errors import SettingsError
from poise.core.overrides import override
from poise.core.settings import from_json, to_json
from poise.engine import Experiment, Monitor
from poise.engine.experiment import remarks
from poise.engine.threat import places
from poise.evaluation import Protocol, named
from poise.methods import Generalist, Joint
from poise.objectives import AT, NT
from poise.recipes import experiment, recipes
from poise.threats import L1, L2, Linf

MIXED = {
    "generalist_three_digits": (Linf(epsilon=0.2), {L2(epsilon=0.8)}),
    "generalist_three_cifar10_resnet18": (Linf(), {L2()}),
    "generalist_norms_digits": (Linf(epsilon=0.2), {L2(epsilon=0.8), L1(epsilon=2.0, density=0.05)}),
    "generalist_norms_cifar10_resnet18": (
        Linf(),
        {L2(epsilon=0.5), L1(epsilon=12.0), L1(epsilon=12.0, density=0.05)},
    ),
    "dverge_cifar10_resnet20x3": (Linf(epsilon=0.03), {Linf(epsilon=0.07)}),
    "dverge_adv_cifar10_resnet20x3_eps0.01": (Linf(epsilon=0.01), {Linf(epsilon=0.07)}),
    "trades_cifar10_wrn34-10_official": (Linf(epsilon=0.031), {Linf()}),
    "iat_cifar10_resnet18_official": (Linf(epsilon=0.0314), {Linf(epsilon=0.031), Linf()}),
    "trades_cifar10_wrn34-5_st": (Linf(), {Linf(epsilon=0.031)}),
}


def threats(made: Experiment) -> dict[str, object]:
    return {path: part.threat for path, part in places(made)}  # type: ignore[attr-defined]


def steps(made: Experiment) -> dict[str, float]:
    return {path: part.step_size for path, part in places(made) if hasattr(part, "step_size")}  # type: ignore[attr-defined]


def test_epsilon_is_assigned_everywhere_and_step_sizes_keep_their_share() -> None:
    base = experiment("generalist_digits")
    made = override(base, {"epsilon": 0.1})
    assert (base.threat, base.epsilon, made.threat, made.epsilon) == (Linf(epsilon=0.2), 0.2, Linf(epsilon=0.1), 0.1)
    assert set(threats(made).values()) == {Linf(epsilon=0.1)} and len(threats(made)) == len(threats(base)) >= 5
    assert steps(made) == {path: size / 2 for path, size in steps(base).items()}
    assert override(made, {"epsilon": 0.2}) == dataclasses.replace(
        base, protocol=override(made, ["epsilon=0.2"]).protocol
    )


def test_a_view_is_written_in_every_way_alike_and_never_into_json() -> None:
    base = experiment("generalist_cifar10_resnet18")
    made = override(base, ["epsilon=4/255"])
    assert (
        made
        == override(base, {"epsilon": 4 / 255})
        == override(base, ["threat.epsilon=4/255"])
        == override(base, {"threat": Linf(epsilon=4 / 255)})
    )
    data = to_json(made)
    assert not {"threat", "epsilon"} & set(data)
    assert from_json(Experiment, data) == made
    assert base.published is not None and made.published is None and made.group != base.group
    assert override(base, {"epsilon": 8 / 255}) == base
    with pytest.raises(SettingsError, match=r"Experiment\.epsilon is a view"):
        from_json(Experiment, {**data, "epsilon": 0.1})
    with pytest.raises(SettingsError, match=r"Experiment\.epsilon is a view"):
        dataclasses.replace(base, epsilon=0.1)  # type: ignore[call-arg]


def test_another_norm_sets_step_sizes_by_the_rule() -> None:
    """2.5 epsilon / steps, at most epsilon."""
    made = override(experiment("at_digits"), ["threat=L2", "epsilon=0.6"])
    objective = made.method.policies()["joint"].objective
    assert isinstance(objective, AT)
    assert (objective.inner.threat, objective.inner.steps, objective.inner.step_size) == (
        L2(epsilon=0.6),
        5,
        pytest.approx(0.3),
    )
    (monitor,) = [monitor.attack for monitor in made.monitors if isinstance(monitor.attack, PGD)]
    assert (monitor.steps, monitor.step_size) == (10, pytest.approx(0.15))
    assert made.protocol.name == "strict-l2-eps0.6"
    few = Experiment(method=Joint(policy=AT(inner=Ascent(steps=1))))  # type: ignore[arg-type]
    assert override(few, ["threat=L2"]).method.policies()["joint"].objective.inner.step_size == L2().epsilon  # type: ignore[attr-defined]


def test_a_named_protocol_becomes_itself_under_the_threat() -> None:
    made = override(experiment("generalist_cifar10_resnet18"), ["epsilon=4/255"])
    assert made.protocol == named("zipper-linf").at(Linf(epsilon=4 / 255))
    assert made.protocol.name == "zipper-linf-eps0.01569"
    chosen = override(experiment("at_digits"), ["protocol=pgd-rst", "epsilon=0.1"])
    assert {attack.threat for attack in chosen.protocol.attacks} != {Linf(epsilon=0.1)}, (
        "its threat is another than the run's"
    )


def test_what_is_said_more_precisely_stays() -> None:
    base = experiment("at_digits")
    made = override(base, ["method.inner.step_size=0.01", "epsilon=0.1", "monitors.1.attack.threat.epsilon=0.2"])
    assert steps(made)["method.policy.objective.inner"] == 0.01
    assert threats(made)["monitors.1.attack"] == Linf(epsilon=0.2)
    assert made.epsilon == 0.1
    trades = override(base, ["epsilon=0.1", "method.objective=TRADES", "method.beta=2"])
    assert (trades.epsilon, trades.title.partition(",")[0]) == (0.1, "TRADES")
    late = override(base, ["method.objective=GAIRAT", "epochs=20", "method.objective.from_epoch=9", "epsilon=0.1"])
    assert late.epsilon == 0.1


@pytest.mark.parametrize("name", MIXED)
def test_of_several_threats_the_runs_is_rewritten_and_the_others_are_listed(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    base, (own, others) = experiment(name), MIXED[name]
    assert base.threat == own
    made = override(base, {"epsilon": own.epsilon / 2})
    before, after = threats(base), threats(made)
    rewritten = {path for path, threat in before.items() if threat == own}
    assert {after[path] for path in rewritten} == {made.threat} == {dataclasses.replace(own, epsilon=own.epsilon / 2)}
    stay = {path: threat for path, threat in before.items() if threat != own}
    assert set(stay.values()) == others and all(after[path] == threat for path, threat in stay.items())
    (message,) = [record.getMessage() for record in caplog.records]
    assert all(f"{path}.threat" in message for path in stay)
    assert not any(f"{path}.threat" in message for path in rewritten)


def test_every_recipe_has_one_threat_and_keeps_its_group_where_it_is_assigned_again() -> None:
    mixed = 0
    for name in recipes():
        made = experiment(name)
        mixed += len(set(threats(made).values())) > 1
        assert made.threat in threats(made).values(), name
        assert override(made, {"epsilon": made.epsilon}).group == made.group, name
    assert mixed >= 33


def test_where_no_threat_is_the_runs_it_is_refused() -> None:
    natural = Experiment(method=Joint(policy=NT()))  # type: ignore[arg-type]
    for base in (natural, dataclasses.replace(natural, protocol=Protocol())):
        with pytest.raises(SettingsError, match="has no threat: nothing attacks in it"):
            override(base, {"epsilon": 0.1})
    l2 = AT(inner=Ascent(threat=L2()))
    two = Experiment(method=Generalist(natural=l2, robust=AT()))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="natural within L2 128/255, robust within Linf 8/255"):
        _ = two.threat
    judged = dataclasses.replace(two, monitors=(Monitor(), Monitor(name="pgd", attack=PGD(threat=L2()))))
    assert judged.threat == L2()
    (search,) = [part for path, part in places(override(judged, {"epsilon": 0.25})) if "robust" in path]
    assert search.threat == Linf()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("value", "message"), [("0", "must be positive"), ("2", r"Linf\.epsilon = 2"), ("big", r"Linf\.epsilon = 'big'")]
)
def test_an_epsilon_that_cannot_be_is_refused(value: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        override(experiment("at_digits"), [f"epsilon={value}"])


def test_unknown_threats_are_answered_by_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="did you mean 'Linf'"):
        override(experiment("at_digits"), ["threat=linfinity"])


def test_steps_that_never_reach_epsilon_are_said(caplog: pytest.LogCaptureFixture) -> None:
    short = Ascent(threat=Linf(epsilon=0.3), step_size=2 / 255, steps=10)
    made = Experiment(method=Joint(policy=AT(inner=short)))  # type: ignore[arg-type]
    (sentence,) = remarks(made)
    assert "learner 'joint': 10 steps of 2/255 never go as far as epsilon = 0.3" in sentence
    with caplog.at_level(logging.WARNING, "poise"):
        override(made, {"epsilon": 0.2})
    assert "method.policy.objective.inner: 10 steps of 0.005229 never go as far as epsilon = 0.2" in caplog.text
    enough = override(made, ["method.inner.steps=39"])
    assert remarks(enough) == []
