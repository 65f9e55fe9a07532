"""Synergy-of-Experts on CIFAR-10 (Cui et al. 2022): the grid of epsilon, the number of experts, the phases, what the
paper leaves open.

100 epochs of phase I at learning rate .1 (times .1 after 50 and 75, as the released milestones say), then 50 of phase
II at .01 (times .1 after 25); how long each phase lasts is printed nowhere. Each recipe says how its run is then
evaluated under adaptive attacks (Table 1 and Figure 5) and under transfer (Table 2; with --protocol soe-transfer-30 and
its three surrogates, Table 3).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from poise.core.errors import SettingsError
from poise.core.records import EvaluationRecord
from poise.engine.experiment import Experiment
from poise.evaluation import named
from poise.learners import SGD, Policy, Step
from poise.methods import Joint, Method
from poise.models import Collaboration, Network
from poise.objectives import SynergyOfExperts
from poise.recipes.ensembles_cifar10 import AUGMENTATION, EPSILONS, MEMBER, SURROGATE, add, cifar10, inner, published
from poise.recipes.rows import unprinted
from poise.threats import Linf

EPOCHS = 150
SCHEDULE = Step(at=(51, 76, 101, 126), factors=(0.1, 0.01, 0.1, 0.01))
ABLATED = 0.03
"""The epsilon of all but the grid."""
MEMBERS_GRID = (0.01, 0.03, 0.05, 0.07)


def soe(epsilon: float, members: int = 3, **changes: Any) -> Experiment:
    """SoE at one epsilon; changes: settings of the objective, `inner` those of its attack, and `confidence` of the
    network.
    """
    model = Collaboration(member=MEMBER, members=members, confidence=changes.pop("confidence", "rectified"))
    row = published("SoE", epsilon) if members == 3 and not changes and model.confidence == "rectified" else None
    attack = dataclasses.replace(inner(epsilon), **changes.pop("inner", {}))
    objective = SynergyOfExperts(inner=attack, **changes)
    policy = Policy(
        objective=objective,
        optimizer=SGD(learning_rate=0.1, weight_decay=1e-4),
        schedule=SCHEDULE,
        augmentation=AUGMENTATION,
    )
    protocol = named("soe-adaptive").at(Linf(epsilon=epsilon))
    experiment = cifar10(model, Joint(policy=policy), EPOCHS, epsilon, protocol, row)
    plot_row = (
        (unprinted("Synergy-of-Experts, Figure 5 (CIFAR-10, ResNet-20)", f"epsilon {epsilon:g}"),)
        if row is not None
        else ()
    )
    return dataclasses.replace(
        experiment, title=f"SoE, {members} experts" if members != 3 else "SoE", also_published=plot_row
    )


def growing(experiments: Sequence[Experiment]) -> bool:
    """Whether these are collaborations of at least two numbers of experts, all else (but names and seeds) being the
    same.
    """
    alike, numbers = [], set()
    for experiment in experiments:
        if not isinstance(experiment.model, Collaboration):
            return False
        numbers.add(experiment.model.members)
        single = dataclasses.replace(experiment.model, members=1)
        alike.append(
            dataclasses.replace(
                experiment, name="one", title="", seed=0, published=None, also_published=(), model=single
            )
        )
    return len(numbers) > 1 and all(number == alike[0] for number in alike)


@dataclasses.dataclass(frozen=True)
class Gain:
    """Accuracies [seeds] of so many experts in [0, 1], and what their mean gains over that of the next smaller
    number.
    """

    members: int
    values: tuple[float, ...]
    gain: float = 0.0

    @property
    def text(self) -> str:
        """As `3 experts: 61.20 ± 0.30 % (3 seeds), +1.10`; without a spread for one seed."""
        percent = [100 * value for value in self.values]
        spread = f" ± {stdev(percent):.2f}" if len(percent) > 1 else ""
        seeds = f" ({len(percent)} seeds)" if len(percent) > 1 else ""
        return (
            f"{self.members} expert{'s' * (self.members > 1)}: {fmean(percent):.2f}{spread} %{seeds},"
            f" {100 * self.gain:+.2f}"
        )


def gains(records: Mapping[int, Sequence[EvaluationRecord]]) -> list[Gain]:
    """What each number of experts gains, in the worst case over each record's attacks, by the number.

    records: by the number of experts, one for each seed, all under the same transfer protocol. Raises: SettingsError
    where their attacks or images differ.
    """
    every = [record for seeds in records.values() for record in seeds]
    sets = {tuple((attack.name, str(attack.settings.get("digest"))) for attack in record.attacks) for record in every}
    if len(sets) != 1 or len({tuple(record.labels) for record in every}) != 1:
        raise SettingsError("records must be of the same attacks on the same images; make them with: poise transfer")
    gains_list: list[Gain] = []
    for members in sorted(records):
        values = tuple(record.worst_case_accuracy for record in records[members])
        gains_list.append(Gain(members, values, fmean(values) - fmean(gains_list[-1].values) if gains_list else 0.0))
    return gains_list


def gained(experiments: Sequence[Experiment], records: Sequence[EvaluationRecord]) -> list[str]:
    """A line for each number of experts, where the experiments differ in nothing else; each has its record."""
    if not growing(experiments):
        return []
    by_members: dict[int, list[EvaluationRecord]] = {}
    for experiment, record in zip(experiments, records, strict=True):
        assert isinstance(experiment.model, Collaboration)
        by_members.setdefault(experiment.model.members, []).append(record)
    return [gain.text for gain in gains(by_members)]


def cost(model: Network, method: Method) -> str:
    """Forwards an image in each phase that there is, for `rows.cost`: attacks on every expert alone, or one on all of
    them together.
    """
    objective = method.policies()["joint"].objective
    assert isinstance(model, Collaboration) and isinstance(objective, SynergyOfExperts)
    members, attack, natural = model.members, 2 * objective.inner.steps, int(objective.clean_term)
    again = members if objective.update == "per_source" else 1  # a natural term in every update
    first = f"{members} x {attack + 3 * (members + natural * again):.3g} forwards an image"
    second = f"{members} x {attack + 3 * (1 + natural)}"
    if objective.phase_two_from in (0, 1):
        return first if objective.phase_two_from else f"{second} forwards an image"
    return f"{first} in phase I, {second} in phase II"


def _add(name: str, line: str, epsilon: float, note: str = "", members: int = 3, **changes: Any) -> None:
    def make() -> Experiment:
        experiment = soe(epsilon, members, **changes)
        where = "the number of experts" if members != 3 else "variants"
        row = unprinted(f"Synergy-of-Experts, {where} (CIFAR-10, ResNet-20)", line.removeprefix("Synergy-of-Experts "))
        return experiment if experiment.published is not None else dataclasses.replace(experiment, published=row)

    end = name.partition("_eps")[2]
    grid = (
        [name] if members == 3 else [f"soe_cifar10_resnet20x{members_count}_eps{end}" for members_count in range(1, 6)]
    )
    targets = " ".join(f"runs/{members_count}" for members_count in grid)
    then = (
        f"accuracy against lambda: poise evaluate runs/{name} --protocol soe-lambdas",
        (
            f"{'accuracy' if members == 3 else 'the gain per expert'} under transfer: poise transfer {targets}"
            f" --surrogate {SURROGATE}"
        ),
    )
    add(name, line, lambda made: cost(made.model, made.method), make, note, then=then)


for _epsilon in EPSILONS:
    _line = f"Synergy-of-Experts, 3 x ResNet-20 on CIFAR-10, epsilon {_epsilon:g}"
    _add(f"soe_cifar10_resnet20x3_eps{_epsilon:g}", _line, _epsilon, "phase I for 100 epochs, phase II for 50: ours")
for _epsilon in MEMBERS_GRID:
    for _members in (1, 2, 4, 5):
        _what = f"Synergy-of-Experts with {_members} expert{'s' * (_members > 1)}, epsilon {_epsilon:g}"
        _line = f"{_what}: the gain per added expert under transfer"
        _add(f"soe_cifar10_resnet20x{_members}_eps{_epsilon:g}", _line, _epsilon, members=_members)

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "phase1": ("phase I only, for as many epochs", {"phase_two_from": 1.0}),
    "phase2": ("phase II only, for as many epochs", {"phase_two_from": 0.0}),
    "hard": ("the hard minimum (Eq. 5)", {"surrogate": "hard"}),
    "released": ("the released code's weights by predicted confidence", {"surrogate": "released"}),
    "sigma0.1": ("sigma .1", {"sigma": 0.1}),
    "sigma0.5": ("sigma .5", {"sigma": 0.5}),
    "sigma2": ("sigma 2", {"sigma": 2.0}),
    "noclean": ("without the natural term, as the paper's algorithms", {"clean_term": False}),
    "evaluator": ("the evaluator alone as confidence, as the paper", {"confidence": "evaluator"}),
    "persource": ("an update after each source, as in Algorithm 1", {"update": "per_source"}),
    "detached": ("the evaluators' loss trains evaluators only, as Algorithm 1", {"detach_features": True}),
    "compat": (
        "as the released code: its weights, and its attack from the image itself in training mode",
        {"surrogate": "released", "craft_mode": "training", "inner": {"step_size": 0.01, "start": "zero"}},
    ),
    "paper": (
        "as the paper prints it: Algorithm 1's updates, evaluators that train and are trusted alone, no natural term",
        {"update": "per_source", "detach_features": True, "confidence": "evaluator", "clean_term": False},
    ),
}
"""What differs between paper and released code, and what neither prints: the name's ending, in words, the settings."""

PRINTED = [
    *((3, epsilon) for epsilon in EPSILONS),
    *((members, epsilon) for members in (1, 2, 4, 5) for epsilon in MEMBERS_GRID),
]
"""Numbers of experts and epsilons at which there is the form as the paper prints it."""

for _ending, (_what, _changes) in VARIANTS.items():
    _note = "the attack takes steps of .01 whatever the epsilon" if _ending == "compat" else ""
    for _members, _epsilon in PRINTED if _ending == "paper" else [(3, ABLATED)]:
        _with = "" if _members == 3 else f" with {_members} expert{'s' * (_members > 1)}"
        _line = f"Synergy-of-Experts{_with} at epsilon {_epsilon:g}, {_what}"
        _add(f"soe_cifar10_resnet20x{_members}_eps{_epsilon:g}_{_ending}", _line, _epsilon, _note, _members, **_changes)
