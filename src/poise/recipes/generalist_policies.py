"""Generalist beyond the published pair: three base learners (the paper's |A| > 2), customised policies, and runs that
are diagnosed.

No numbers are published for these. Diagnosed runs keep the epochs before and after redistributions, for the t-SNE of
adversarial images in Zipper's Fig. 6 (`poise embed`); all their learners are trained throughout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from poise.attacks import PGD, Ascent
from poise.engine.diagnostics import Diagnosis
from poise.engine.experiment import Experiment, Published
from poise.evaluation import named, union
from poise.learners import Adam, Constant, Policy
from poise.methods import BaseLearner, Generalist
from poise.objectives import AT, NT, SqueezeTraining
from poise.recipes import digits
from poise.recipes.generalist_cifar10 import generalist_cifar10_resnet18
from poise.recipes.rows import register, unprinted
from poise.threats import L1, L2

SHARE = 1 / 3
"""Of the third learner; gamma divides the rest."""
ROUND_DIGITS, ROUND_CIFAR10 = L2(epsilon=0.8), Ascent(threat=L2(epsilon=128 / 255), step_size=15 / 255)
AROUND_REDISTRIBUTIONS = {"digits": (29, 30, 31, 32), "cifar10": (79, 80, 84, 85)}


def generalist_of(made: Experiment) -> Generalist:
    assert isinstance(made.method, Generalist)
    return made.method


def three(made: Experiment, inner: Ascent) -> Experiment:
    """With a learner that is robust in L2 beside the natural and the Linf one, and an attack within its threat beside
    the others.

    PGD-40, by steps of epsilon / 8: no other attack of these protocols has that name, so that its column is its own.
    """
    method, threat = generalist_of(made), inner.threat
    flat = dataclasses.replace(method.robust, objective=AT(inner=inner))
    method = dataclasses.replace(method, others=(BaseLearner(name="l2", policy=flat, share=Constant(at=SHARE)),))
    attack = PGD(threat=threat, step_size=threat.epsilon / 8, steps=40)
    note = (
        f"{attack.name} is within L2 {threat.epsilon:.4g}, the threat of learner l2, all others within that of learner"
        " robust: the worst "
    )
    note += "case is over both threats"
    protocol = dataclasses.replace(
        made.protocol, name=f"{made.protocol.name}+l2", attacks=(*made.protocol.attacks, attack), note=note
    )
    attack_watching = dataclasses.replace(attack, steps=20)
    monitors = (
        *made.monitors,
        dataclasses.replace(made.monitors[1], name=f"L2 {attack_watching.name}", attack=attack_watching),
    )
    return dataclasses.replace(
        made, method=method, protocol=protocol, monitors=monitors, title="Generalist, three learners"
    )


def of_norms(made: Experiment, inner: Ascent, flat: Ascent, sparse: Ascent) -> Experiment:
    """Base learners within Linf, L2 and L1, a third of the mix each when gamma ends, judged over the threats' union.

    The L2 learner stands in the natural one's place, with the natural one's optimizer.
    """
    method = generalist_of(made)
    learners = {ascent.threat: AT(inner=ascent) for ascent in (inner, flat, sparse)}
    linf, l2, l1 = learners.values()
    further = (
        BaseLearner(name="l1", policy=dataclasses.replace(method.robust, objective=l1), share=Constant(at=SHARE)),
    )
    method = dataclasses.replace(
        method,
        natural=dataclasses.replace(method.natural, objective=l2),
        robust=dataclasses.replace(method.robust, objective=linf),
        others=further,
    )
    attacks = tuple(
        PGD(threat=ascent.threat, step_size=ascent.threat.epsilon / 8, steps=40, loss=loss)
        for ascent in (flat, sparse)
        for loss in ("cross_entropy", "margin")
    )
    attacks_watching = tuple(dataclasses.replace(attack, steps=20) for attack in attacks[::2])
    monitors = tuple(
        dataclasses.replace(made.monitors[1], name=f"{type(watching.threat).__name__} {watching.name}", attack=watching)
        for watching in attacks_watching
    )
    return dataclasses.replace(
        made,
        method=method,
        protocol=union(made.protocol, attacks),
        monitors=(*made.monitors, *monitors),
        title="Generalist (Linf, L2, L1)",
    )


def customised(made: Experiment, rate: float) -> Experiment:
    """A natural learner by Adam with smoothed labels, a robust one by Squeeze Training."""
    method = generalist_of(made)
    assert isinstance(method.robust.objective, AT)
    inner = dataclasses.replace(method.robust.objective.inner, start="gaussian")
    natural: Policy = dataclasses.replace(
        method.natural, objective=NT(label_smoothing=0.1), optimizer=Adam(learning_rate=rate)
    )
    robust = dataclasses.replace(method.robust, objective=SqueezeTraining(inner=inner))
    return dataclasses.replace(
        made, method=dataclasses.replace(method, natural=natural, robust=robust), title="Generalist (Adam NT, ST)"
    )


def diagnosed(made: Experiment, attack: PGD, kept: tuple[int, ...]) -> Experiment:
    """Measured after every epoch, with complete checkpoints around redistributions."""
    last = min(2, made.epochs)
    epochs = kept if max(kept) <= made.epochs else tuple(range(1, last + 1))
    return dataclasses.replace(made, diagnosis=Diagnosis(attack=attack), monitor_every=1, keep_epochs=epochs)


def _register(name: str, line: str, make: Callable[[bool], Experiment], row: Published | None = None) -> None:
    def build(quick: bool) -> Experiment:
        return dataclasses.replace(
            make(quick), name=f"{name}_quick" if quick else name, published=row, also_published=()
        )

    register(name, line, build)


def _on_digits(quick: bool) -> Experiment:
    return digits.generalist_digits(quick)


ON_DIGITS = PGD(threat=digits.THREAT, step_size=0.05, steps=10)
SPARSE_DIGITS = Ascent(threat=L1(epsilon=2.0, density=0.05), step_size=0.8, steps=5)
FLAT_CIFAR10 = Ascent(threat=L2(epsilon=0.5), step_size=0.125)
SPARSE_CIFAR10 = Ascent(threat=L1(epsilon=12.0, density=0.05), step_size=3.0)
FLAT_DIGITS = Ascent(threat=ROUND_DIGITS, step_size=0.4 * ROUND_DIGITS.epsilon, steps=5)

_register(
    "generalist_three_digits",
    "Generalist of a natural, an Linf and an L2 learner, on digits",
    lambda q: three(_on_digits(q), FLAT_DIGITS),
)
_register(
    "generalist_three_cifar10_resnet18",
    "Generalist of a natural, an Linf and an L2 learner, ResNet-18 on CIFAR-10",
    lambda q: three(generalist_cifar10_resnet18(q), ROUND_CIFAR10),
    unprinted("Generalist, more than two base learners (CIFAR-10, ResNet-18)", "natural, Linf and L2"),
)


def _norms_cifar10(quick: bool) -> Experiment:
    experiment = of_norms(generalist_cifar10_resnet18(quick), Ascent(), FLAT_CIFAR10, SPARSE_CIFAR10)
    return experiment if quick else dataclasses.replace(experiment, protocol=named("union").at())


_register(
    "generalist_norms_digits",
    "Generalist of an Linf, an L2 and an L1 learner, judged over the union, on digits",
    lambda q: of_norms(_on_digits(q), digits.INNER, FLAT_DIGITS, SPARSE_DIGITS),
)
_register(
    "generalist_norms_cifar10_resnet18",
    "Generalist of an Linf, an L2 and an L1 learner, judged over the union, ResNet-18 on CIFAR-10",
    _norms_cifar10,
    unprinted("Generalist++ (CIFAR-10, ResNet-18)", "Linf, L2 and L1", "no numbers of all three are known"),
)
_register(
    "generalist_customised_digits",
    "Generalist of a natural learner by Adam with smoothed labels and a robust one by Squeeze Training, on digits",
    lambda q: customised(_on_digits(q), 1e-3),
)
_register(
    "generalist_customised_cifar10_resnet18",
    "Generalist of a natural learner by Adam with smoothed labels and a robust one by Squeeze Training, ResNet-18 on"
    " CIFAR-10",
    lambda q: customised(generalist_cifar10_resnet18(q), 1e-4),
    unprinted("Generalist, customised policies (CIFAR-10, ResNet-18)", "NT by Adam, Squeeze Training"),
)
_register(
    "generalist_diagnosed_digits",
    "Generalist on digits, its base learners measured after every epoch and kept around redistributions",
    lambda q: diagnosed(_on_digits(q), ON_DIGITS, AROUND_REDISTRIBUTIONS["digits"]),
)
_register(
    "generalist_diagnosed_cifar10_resnet18",
    "Generalist, ResNet-18 on CIFAR-10, its base learners measured after every epoch and kept around redistributions",
    lambda q: diagnosed(generalist_cifar10_resnet18(q), PGD(), AROUND_REDISTRIBUTIONS["cifar10"]),
    unprinted("Zipper, Appendix C.1 (CIFAR-10, ResNet-18)", "Generalist", "figures; no numbers are printed"),
)
