"""Synergy-of-Experts on CIFAR-10 (Cui et al. 2022): the grid of epsilon, the number of experts, the phases, what the paper leaves open.

100 epochs of phase I at learning rate .1 (times .1 after 50 and 75, as the released milestones say), then 50 of phase II at .01 (times
.1 after 25); how long each phase lasts is printed nowhere. Evaluate a run by
  poise evaluate runs/... --protocol soe-lambdas       accuracy against lambda, Figure 5
  poise transfer runs/... --surrogate runs/ensemble3_cifar10_resnet20       Table 2; soe-transfer-30: Table 3
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from poise.core.errors import SettingsError
from poise.core.records import EvaluationRecord
from poise.engine.experiment import Experiment
from poise.evaluation import named
from poise.learners import SGD, Policy, Step
from poise.methods import Joint, Method
from poise.models import Collaboration, Network
from poise.objectives import SynergyOfExperts
from poise.recipes.ensembles_cifar10 import AUGMENTATION, EPSILONS, MEMBER, add, cifar10, inner, published
from poise.recipes.rows import unprinted
from poise.threats import Linf

EPOCHS = 150
SCHEDULE = Step(at=(51, 76, 101, 126), factors=(0.1, 0.01, 0.1, 0.01))
ABLATED = 0.03
"""The epsilon of all but the grid."""
MEMBERS_GRID = (0.01, 0.03, 0.05, 0.07)


def soe(epsilon: float, members: int = 3, **changes: Any) -> Experiment:
    """SoE at one epsilon; changes: settings of the objective, `inner` those of its attack, and `confidence` of the network."""
    model = Collaboration(member=MEMBER, members=members, confidence=changes.pop("confidence", "rectified"))
    row = published("SoE", epsilon) if members == 3 and not changes and model.confidence == "rectified" else None
    attack = dataclasses.replace(inner(epsilon), **changes.pop("inner", {}))
    objective = SynergyOfExperts(inner=attack, **changes)
    policy = Policy(objective=objective, optimizer=SGD(learning_rate=0.1, weight_decay=1e-4), schedule=SCHEDULE, augmentation=AUGMENTATION)
    protocol = named("soe-adaptive").at(Linf(epsilon=epsilon))
    made = cifar10(model, Joint(policy=policy), EPOCHS, epsilon, protocol, row)
    return dataclasses.replace(made, title=f"SoE, {members} experts" if members != 3 else "SoE")


def growing(experiments: Sequence[Experiment]) -> bool:
    """Whether these are collaborations of 1, 2, 3 ... experts, all else (but names) being the same."""
    alike = []
    for made in experiments:
        if not isinstance(made.model, Collaboration):
            return False
        alike.append(dataclasses.replace(made, name="", title="", published=None, model=dataclasses.replace(made.model, members=1)))
    numbers = [made.model.members for made in experiments if isinstance(made.model, Collaboration)]
    return len(numbers) > 1 and len(set(numbers)) == len(numbers) and all(each == alike[0] for each in alike)


def gains(records: Sequence[EvaluationRecord]) -> list[tuple[float, float]]:
    """(accuracy, gain over the record before), both in [0, 1], of the worst case over each record's attacks.

    records: of 1, 2, 3 ... experts under the same transfer protocol. Raises: SettingsError where their attacks or images differ.
    """
    sets = {tuple((attack.name, str(attack.settings.get("digest"))) for attack in record.attacks) for record in records}
    if len(sets) != 1 or len({tuple(record.labels) for record in records}) != 1:
        raise SettingsError("records must be of the same attacks on the same images; make them with: poise transfer")
    values = [record.worst_case_accuracy for record in records]
    return [(value, value - before) for value, before in zip(values, [values[0], *values], strict=False)]


def cost(model: Network, method: Method) -> str:
    """Forwards an image in each phase that there is, for `rows.cost`: attacks on every expert alone, or one on all of them together."""
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
        made = soe(epsilon, members, **changes)
        where = "the number of experts" if members != 3 else "variants"
        row = unprinted(f"Synergy-of-Experts, {where} (CIFAR-10, ResNet-20)", line.removeprefix("Synergy-of-Experts "))
        return made if made.published is not None else dataclasses.replace(made, published=row)

    made = make()
    add(name, line, cost(made.model, made.method), make, note)


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

for _ending, (_what, _changes) in VARIANTS.items():
    _line = f"Synergy-of-Experts at epsilon {ABLATED:g}, {_what}"
    _note = "the attack takes steps of .01 whatever the epsilon" if _ending == "compat" else ""
    _add(f"soe_cifar10_resnet20x3_eps{ABLATED:g}_{_ending}", _line, ABLATED, _note, **_changes)
