"""The named protocols are the papers', scale with the threat, and can be named wherever a protocol is expected."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest
import torch

from poise.attacks import MDI2FGSM, MPGD, PGD, SGM, AdaptivePGD, AutoAttack, SoftMixturePGD, TransferFromExperts
from poise.core.errors import InputError, SettingsError
from poise.core.overrides import override
from poise.core.settings import from_json, to_json
from poise.data import Split
from poise.engine import Experiment
from poise.evaluation import PROTOCOLS, Protocol, at_each, named, plus_autoattack, soe_transfer, standard, strict, union
from poise.recipes import experiment
from poise.threats import L1, L2, Linf

COMPONENTS = ["APGD-CE", "APGD-T", "FAB-T", "Square"]
WITH_DLR = ["APGD-CE", "APGD-DLR", "APGD-T", "FAB-T", "Square", "AutoAttack"]
GRID = ("0.2", "0.4", "0.6", "0.8", "1")
NAMES: dict[str, list[str]] = {
    "standard": ["FGSM", "PGD-20", "PGD-100", "MIM-20", "CW-100", *COMPONENTS, "AutoAttack"],
    "gradient": ["FGSM", "PGD-20", "PGD-100", "MIM-20", "CW-100"],
    "strict": ["PGD-20", "PGD-100x3", "PGD-margin-100"],
    "autoattack": [*COMPONENTS, "AutoAttack"],
    "union": ["AutoAttack", "AutoAttack", "AutoAttack"],
    "zipper-linf": ["PGD-20", "PGD-100", "MIM-20", "CW-100", *WITH_DLR],
    "zipper-l2": ["PGD-20", "PGD-100", "MIM-20", "CW-100", *WITH_DLR],
    "zipper-mnist": ["PGD-40", "PGD-100", "MIM-40", "AutoAttack"],
    "zipper-compat": ["PGD-10", "MIM-10", "CW-10", *WITH_DLR],
    "squeeze": ["FGSM", "PGD-20", "PGD-100", "CW-100", "AutoAttack"],
    "pgd-trades": ["PGD-20"],
    "pgd-rst": ["PGD-40x5"],
    "soe-whitebox": ["PGD-50x5", "APGD-CE"],
    "soe-blackbox": ["Square"],
    "soe-adaptive": ["PGD-50x5", "AdaptivePGD-50x5"],
    "soe-lambdas": [
        "PGD-50x5",
        *(f"AdaptivePGD-50x5-{aim}-{weight}" for aim in ("confidence", "mismatch") for weight in GRID),
    ],
    "soe-aimed": [
        "PGD-50x5",
        "AdaptivePGD-50x5",
        "TransferFromExperts-50x5",
        "SoftMixturePGD-50x5",
        "APGD-CE",
        "APGD-DLR",
        "Square",
    ],
    "soe-benchmark": ["PGD-50x5", "AimedPGD-50-15runs", "AutoAttack"],
}
SCALES: dict[str, tuple[type, float, float | None]] = {
    "standard": (Linf, 8 / 255, 2 / 255),
    "zipper-linf": (Linf, 8 / 255, 2 / 255),
    "zipper-l2": (L2, 128 / 255, 15 / 255),
    "zipper-mnist": (Linf, 0.3, 0.01),
    "zipper-compat": (Linf, 0.031, 0.007),
    "squeeze": (Linf, 8 / 255, 2 / 255),
    "pgd-trades": (Linf, 0.031, 0.003),
    "pgd-rst": (Linf, 0.031, 0.01),
    "soe-whitebox": (Linf, 0.03, 0.006),
    "soe-blackbox": (Linf, 0.03, None),
    "soe-adaptive": (Linf, 0.03, 0.006),
    "soe-lambdas": (Linf, 0.03, 0.006),
    "soe-aimed": (Linf, 0.03, 0.006),
    "soe-benchmark": (Linf, 0.03, 0.006),
}
"""Norm, epsilon and step size, typed from the papers' settings a second time."""


@pytest.mark.parametrize("name", NAMES)
def test_a_protocol_has_the_columns_of_its_paper(name: str) -> None:
    assert [attack.name for attack in named(name).at().attacks] == NAMES[name]


@pytest.mark.parametrize("name", SCALES)
def test_every_attack_of_a_protocol_has_the_papers_epsilon_and_step_size(name: str) -> None:
    norm, epsilon, step_size = SCALES[name]
    made = named(name).at()
    assert made.name == name
    assert all(type(attack.threat) is norm and attack.threat.epsilon == epsilon for attack in made.attacks)
    assert {step for attack in made.attacks if (step := getattr(attack, "step_size", None)) is not None} == (
        {step_size} - {None}
    )


def test_a_union_names_its_columns_by_norm_and_may_hold_no_threat_twice() -> None:
    made = named("union").at()
    assert made.columns == ["AutoAttack at Linf 0.03137", "AutoAttack at L2 0.5", "AutoAttack at L1 12"]
    assert [attack.threat for attack in made.attacks] == [Linf(), L2(epsilon=0.5), L1(epsilon=12.0)]
    several = at_each("strict", [named("strict").at(Linf(epsilon=0.1)), named("strict").at(L1(epsilon=2.0))])
    assert several.name == "strict-linf-eps0.1-l1-eps2"
    assert several.columns[:4:3] == ["PGD-20 at Linf 0.1", "PGD-20 at L1 2"]
    joined = union(named("strict").at(), [PGD(threat=L2(), steps=7), PGD(threat=L1(), steps=7)])
    assert (joined.name, joined.columns[-2:]) == ("strict+l2+l1", ["PGD-7 at L2 0.502", "PGD-7 at L1 12"])
    with pytest.raises(SettingsError, match="--epsilon 2, 2: every one of a list must be another, within L1"):
        at_each("strict", [named("strict").at(L1(epsilon=2.0))] * 2)


def attack_of(protocol: Protocol, name: str) -> Any:
    return next(attack for attack in protocol.attacks if attack.name == name)


def test_details_that_change_numbers_are_the_papers() -> None:
    rst = attack_of(named("pgd-rst").at(), "PGD-40x5")
    assert (rst.steps, rst.restarts, rst.keep, rst.start) == (40, 5, "largest_margin", "uniform")
    compat = attack_of(named("zipper-compat").at(), "CW-10")
    assert (compat.confidence, compat.start, compat.steps) == (50, "unclamped_uniform", 10)
    assert attack_of(named("zipper-linf").at(), "CW-100").confidence is None
    assert attack_of(named("zipper-linf").at(), "APGD-DLR").restarts == 1
    for name in ("standard", "soe-blackbox"):
        square = attack_of(named(name).at(), "Square")
        assert (square.queries, square.rescale) == (5000, False)
    white = attack_of(named("soe-whitebox").at(), "PGD-50x5")
    assert (white.loss, white.start, white.restarts) == ("cross_entropy", "uniform", 5)
    aimed = named("soe-aimed").at()
    adaptive = attack_of(aimed, "AdaptivePGD-50x5")
    assert (adaptive.aims, adaptive.lambdas) == (("confidence", "mismatch"), (0, 0.2, 0.4, 0.6, 0.8, 1))
    assert {
        attack.start
        for attack in aimed.attacks
        if isinstance(attack, AdaptivePGD | TransferFromExperts | SoftMixturePGD)
    } == {"uniform"}
    assert attack_of(aimed, "Square").queries == 5000


@pytest.mark.parametrize(("name", "count"), [("soe-transfer-3", 3), ("soe-transfer-30", 10)])
def test_details_of_transfer_are_the_papers(name: str, count: int) -> None:
    made = soe_transfer(name, Linf(epsilon=0.05))
    assert len(made.attacks) == count and made.surrogates == ((3,) if count == 3 else (3, 5, 8))
    for attack in made.attacks:
        assert (attack.steps, attack.threat, attack.step_size) == (100, Linf(epsilon=0.05), pytest.approx(0.01))
        assert (attack.confidence, attack.dverge_cw_compat) == (0.1, False)
    kinds = [type(attack).__name__ for attack in made.attacks if attack.loss == "cross_entropy"]
    assert kinds == ["MPGD"] * (1 if count == 3 else 3) + ["SGM", "MDI2FGSM"]
    momenta = [(attack.momentum, attack.start) for attack in made.attacks if isinstance(attack, MPGD)]
    assert set(momenta) == {(1, "uniform")}
    skipping = next(attack for attack in made.attacks if isinstance(attack, SGM))
    assert skipping.gamma == 0.2
    diverse = next(attack for attack in made.attacks if isinstance(attack, MDI2FGSM))
    assert (diverse.probability, diverse.smallest, diverse.momentum, diverse.start) == (0.5, 28 / 32, 1, "zero")


@pytest.mark.parametrize("name", ["standard", "zipper-linf", "zipper-l2", "zipper-compat", "autoattack"])
def test_the_components_beside_an_autoattack_are_its_own(name: str) -> None:
    made = named(name).at()
    whole = attack_of(made, "AutoAttack")
    assert isinstance(whole, AutoAttack)
    assert set(whole.components()) <= set(made.attacks)


@pytest.mark.parametrize(
    "name", [name for name in PROTOCOLS if name not in ("autoattack", "union", "soe-blackbox", "robustbench-imagenet")]
)
def test_step_sizes_scale_with_epsilon_and_the_name_says_it(name: str) -> None:
    plain = named(name).at()
    threat, step = named(name).scales[0]
    half = named(name).at(dataclasses.replace(cast(Any, threat), epsilon=threat.epsilon / 2))
    assert half.name == f"{name}-eps{threat.epsilon / 2:.4g}"
    for before, after in zip(plain.attacks, half.attacks, strict=True):
        assert after.threat.epsilon == before.threat.epsilon / 2
        if hasattr(before, "step_size"):
            assert after.step_size == pytest.approx(before.step_size / 2)  # type: ignore[attr-defined]
    given = named(name).at(threat, step / 4) if not name.startswith("soe-") else plain
    assert given.name == (f"{name}-step{step / 4:.4g}" if not name.startswith("soe-") else name)


def test_no_two_epsilons_norms_or_steps_have_one_name() -> None:
    threats = [None, Linf(epsilon=0.1), Linf(epsilon=0.2), L2(epsilon=0.1), L2()]
    names = [named("standard").at(threat, step).name for threat in threats for step in (None, 0.01)]
    assert len(set(names)) == len(names)
    assert named("standard").at(L2()).name == "standard-l2"


def test_a_protocol_is_had_by_its_name_wherever_one_is_expected() -> None:
    made = override(experiment("at_digits"), ["protocol=zipper-l2"])
    assert made.protocol == named("zipper-l2").at()
    assert from_json(Experiment, to_json(made)) == made
    with pytest.raises(SettingsError, match=r"no protocol 'zipper-linff'; did you mean 'zipper-linf'\?"):
        override(experiment("at_digits"), ["protocol=zipper-linff"])


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: named("zipper-linf").at(L2()), "'zipper-linf' is defined for Linf only, not for L2"),
        (lambda: named("zipper").at(), "no protocol 'zipper'"),
        (lambda: named("autoattack").at(None, 0.01), "'autoattack' has no step size"),
        (lambda: named("soe-adaptive").at(None, 0.01), "'soe-adaptive' has no step size"),
        (lambda: named("standard").at(Linf(), -1.0), "step_size"),
        (lambda: named("autoattack").at(None, "small"), "step_size = 'small': must be a number"),
        (lambda: named("standard").at(None, "1/0"), "step_size = '1/0': must be a number"),
    ],
)
def test_what_a_protocol_cannot_be_is_refused(act: Any, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        act()


def test_autoattack_is_added_at_another_epsilon() -> None:
    made = plus_autoattack(named("pgd-rst").at())
    assert (made.name, [attack.name for attack in made.attacks]) == ("pgd-rst+aa", ["PGD-40x5", "AutoAttack"])
    assert [attack.threat.epsilon for attack in made.attacks] == [0.031, 8 / 255]


def test_the_functions_are_the_named_protocols() -> None:
    assert standard() == named("standard").at()
    assert strict(Linf(), 2 / 255) == named("strict").at()


RECIPES = {
    "generalist_cifar10_resnet18": "zipper-linf",
    "fat_cifar100_resnet18": "zipper-linf",
    "generalist_tinyimagenet_resnet18": "zipper-linf",
    "trades1_cifar10_resnet18_l2": "zipper-l2",
    "fat_mnist_resnet18": "zipper-mnist",
    "st_cifar10_resnet18": "squeeze",
    "st_svhn_resnet18": "squeeze",
    "st_cifar10_wrn34-10": "pgd-trades+aa",
    "st_rst_cifar10_wrn28-10": "pgd-rst+aa",
    "trades_cifar10_wrn34-10_official": "standard",
    "at_digits": "strict",
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_evaluated_by_their_papers_protocol_and_quick_ones_cheaply(name: str) -> None:
    assert experiment(name).protocol.name == RECIPES[name]
    quick = experiment(name, quick=True).protocol
    assert not any(isinstance(attack, AutoAttack) for attack in quick.attacks)


def test_the_images_of_a_protocol_are_the_first_ones_or_the_published_thousand() -> None:
    split = Split.of(torch.zeros(10_000, 1, 1, 1, dtype=torch.uint8), torch.zeros(10_000, dtype=torch.int64))
    assert Protocol().images(split) is split
    assert Protocol(first=3).images(split).ids.tolist() == [0, 1, 2]
    drawn = named("soe-whitebox").at().images(split).ids
    # Python: random.seed(0); random.sample(range(10000), 1000)
    assert drawn[:5].tolist() == [
        6311,
        6890,
        663,
        4242,
        8376,
    ]
    assert len(drawn.unique()) == 1000
    assert named("soe-blackbox").at().images(split).ids.tolist() == list(range(1000))
    with pytest.raises(
        InputError, match="soe-blackbox takes the first 1,000 images, but there are 400; give fewer with --first"
    ):
        named("soe-blackbox").at().images(split.first(400))
    assert named("soe-whitebox").at().instead(split) == ""


def test_of_another_number_of_test_images_the_first_ones_stand_in_for_the_published() -> None:
    split = Split.of(torch.zeros(2000, 1, 1, 1, dtype=torch.uint8), torch.zeros(2000, dtype=torch.int64))
    protocol = named("soe-whitebox").at()
    for images, words in ((split, "the first 1,000 of 2,000"), (split.first(20), "all 20")):
        assert torch.equal(protocol.images(images).ids, images.ids[:1000])
        assert (
            protocol.instead(images)
            == f"the published images are chosen from 10,000 test images; here {words} are evaluated"
        )
    assert Protocol(first=7).instead(split) == ""
    with pytest.raises(InputError, match="takes the first 3,000 images, but there are 2,000"):
        Protocol(first=3000).images(split)
