"""The ensembles that Synergy-of-Experts is compared with on CIFAR-10, three ResNet-20 each, and the surrogates of the
transfer protocols.

Published: Cui et al. 2022, Tables 1 to 3: for every epsilon from .01 to .07 networks of their own, trained
adversarially with that epsilon and evaluated with it. The training attack's step is not printed; here it is epsilon /
4, ten times, from a uniform start.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from poise.attacks import PGD, Ascent
from poise.data import CIFAR10, CropFlip
from poise.engine.experiment import Experiment, Monitor, Published
from poise.evaluation import Protocol, named
from poise.evaluation.soe_protocols import soe_printed
from poise.learners import SGD, Adam, Optimizer, Policy, Step
from poise.methods import DVERGE, Joint, Method
from poise.models import Ensemble, Mixture, Network, ResNet20
from poise.models.network import CIFAR10_NORMALISATION
from poise.objectives import ADP, GAL, MoRE, Objective
from poise.recipes.rows import Cost, register, unprinted
from poise.threats import Linf

EPSILONS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07)
MEMBER = ResNet20(normalise=CIFAR10_NORMALISATION)
AUGMENTATION = CropFlip()
COLUMNS = ("natural", "PGD-50x5", "AdaptivePGD-50x5", "soe-transfer-3", "soe-transfer-30")
REPEATS = "repeats: seed=0, seed=1, seed=2"
SURROGATE = "runs/ensemble3_cifar10_resnet20"
"""What `poise transfer` makes the images of soe-transfer-3 on."""

WHITE_BOX: dict[str, tuple[tuple[float, float], ...]] = {
    "GAL": ((49.5, 87.8), (31.4, 85.4), (25.4, 81.2), (22.7, 78.7), (18.4, 77.3), (13.4, 76.2), (9.0, 76.0)),
    "DVERGE": ((67.3, 85.4), (52.3, 83.0), (41.1, 79.7), (29.9, 77.6), (22.5, 76.7), (14.2, 75.8), (10.0, 75.3)),
    "MoRE": ((67.9, 88.0), (49.9, 85.3), (37.8, 82.0), (31.3, 79.5), (24.0, 78.2), (15.6, 77.1), (12.3, 77.8)),
    "ADP": ((67.7, 89.0), (52.9, 86.8), (40.8, 85.4), (30.8, 83.3), (25.8, 76.0), (23.4, 66.4), (20.3, 63.0)),
    "SoE": ((72.0, 88.8), (57.5, 85.6), (47.8, 80.2), (38.7, 80.0), (30.4, 79.1), (24.3, 76.7), (24.0, 74.1)),
}
"""Table 1: (robust, natural) at each epsilon."""
ADAPTIVE = (70.9, 56.2, 45.6, 38.7, 28.9, 22.1, 21.8)
"""Table 1, SoE (adaptive)."""
TRANSFER_3: dict[str, tuple[tuple[float, float], ...]] = {
    "GAL": ((64.2, 4.2), (48.7, 2.7), (50.2, 3.5), (49.9, 3.2), (52.3, 4.5), (48.7, 3.2), (42.2, 4.1)),
    "ADP": ((85.6, 0.2), (82.9, 0.2), (78.3, 0.3), (73.2, 0.1), (69.6, 0.2), (60.4, 0.2), (57.4, 0.1)),
    "MoRE": ((84.8, 0.3), (82.1, 0.1), (78.4, 0.2), (74.3, 0.1), (73.2, 0.1), (70.3, 0.2), (69.1, 0.3)),
    "DVERGE": ((83.4, 0.3), (80.1, 0.2), (77.3, 0.1), (72.4, 0.1), (71.9, 0.2), (68.8, 0.3), (66.2, 0.2)),
    "SoE": ((85.2, 0.1), (83.4, 0.1), (78.8, 0.1), (76.6, 0.2), (74.6, 0.1), (72.3, 0.2), (70.2, 0.2)),
}
"""Table 2: (accuracy, plus-minus) at each epsilon."""
TRANSFER_30: dict[str, tuple[tuple[float, float], ...]] = {
    "GAL": ((57.8, 3.2), (64.1, 3.7), (46.3, 2.8), (56.0, 3.0), (43.9, 3.1), (44.5, 2.9), (41.4, 3.2)),
    "ADP": ((84.2, 0.2), (80.2, 0.2), (73.7, 0.1), (69.4, 0.2), (65.2, 0.2), (56.7, 0.2), (54.4, 0.2)),
    "MoRE": ((83.7, 0.3), (79.6, 0.2), (74.4, 0.2), (70.2, 0.3), (67.6, 0.1), (63.8, 0.3), (59.3, 0.2)),
    "DVERGE": ((81.5, 0.3), (78.1, 0.3), (73.5, 0.3), (68.4, 0.1), (67.2, 0.2), (63.8, 0.1), (57.1, 0.2)),
    "SoE": ((83.1, 0.3), (80.4, 0.2), (75.1, 0.3), (70.8, 0.2), (69.0, 0.2), (64.0, 0.3), (61.1, 0.2)),
}
"""Table 3. GAL's at .02 and .04 lie above its Table 2, which is impossible: the 30 variants include those 3."""


def published(row: str, epsilon: float) -> Published:
    """The row's numbers at one epsilon, of all three tables."""
    place = EPSILONS.index(epsilon)
    robust, natural = WHITE_BOX[row][place]
    (three, around_three), (thirty, around_thirty) = TRANSFER_3[row][place], TRANSFER_30[row][place]
    return Published(
        table=f"Synergy-of-Experts, Tables 1 to 3 (CIFAR-10, 3 x ResNet-20, epsilon {epsilon:g})",
        row=row,
        columns=COLUMNS,
        values=(natural, robust, ADAPTIVE[place] if row == "SoE" else None, three, thirty),
        spread=(None, None, None, around_three, around_thirty),
        plus_minus="not stated",
        protocol=soe_printed(Linf(epsilon=epsilon)),
        note=(
            "the released evaluator of Table 2 loads one file three times; its CW loss lets the true class count as 0"
            " (--compat-cw)"
        ),
    )


def inner(epsilon: float) -> Ascent:
    """The training attack."""
    return Ascent(threat=Linf(epsilon=epsilon), step_size=epsilon / 4, steps=10)


def policy(objective: Objective, optimizer: Optimizer | None = None, at: tuple[int, ...] = (101, 151)) -> Policy:
    """Learning rate .1 for SGD, times .1 at each of the epochs `at`."""
    factors = tuple(0.1 ** (place + 1) for place in range(len(at)))
    optimizer_used = optimizer or SGD(learning_rate=0.1, weight_decay=1e-4)
    return Policy(
        objective=objective, optimizer=optimizer_used, schedule=Step(at=at, factors=factors), augmentation=AUGMENTATION
    )


def cifar10(
    model: Network, method: Method, epochs: int, epsilon: float, protocol: Protocol, row: Published | None = None
) -> Experiment:
    """On all 50,000 images, last epoch, as the paper."""
    attack = PGD(threat=Linf(epsilon=epsilon), step_size=epsilon / 4, steps=10)
    return Experiment(
        data=CIFAR10(),
        model=model,
        method=method,
        epochs=epochs,
        selection="test",
        criterion="last",
        monitors=(Monitor(first=1000), Monitor(name="PGD-10", attack=attack, first=1000)),
        monitor_every=10,
        save_every=5,
        protocol=protocol,
        published=row,
    )


def small(made: Experiment) -> Experiment:
    """Two epochs of members of width 4 on the first 500 images: shows that everything runs, no more."""
    whole: Any = made.model
    narrow = dataclasses.replace(whole.member, width=4)
    changes = {"member": narrow, **({"gate": narrow} if isinstance(whole, Mixture) else {})}
    monitors = tuple(dataclasses.replace(monitor, first=20) for monitor in made.monitors)
    attack = dataclasses.replace(monitors[1].attack, steps=5)  # type: ignore[type-var]
    return dataclasses.replace(
        made,
        name=f"{made.name}_quick",
        data=CIFAR10(train_images=500, test_images=100),
        model=dataclasses.replace(whole, **changes),
        epochs=2,
        initial=None,
        monitors=monitors,
        monitor_every=2,
        save_every=1,
        protocol=Protocol(name="quick", attacks=(attack,), first=20),
    )


def add(
    name: str,
    line: str,
    cost: Cost,
    make: Callable[[], Experiment],
    note: str = "",
    repeats: str = REPEATS,
    then: tuple[str, ...] = (),
) -> None:
    """Register a recipe; its text says what it is, how it is run, what it costs and what was published.

    cost: forwards of one member; then: further commands on the run, each after what it shows.
    """

    def build(quick: bool) -> Experiment:
        full = dataclasses.replace(make(), name=name)
        return small(full) if quick else full

    register(name, line, build, "; ".join(filter(None, (note, repeats))), cost, then)


# -- the surrogates, and the baselines alone and in adversarial training
# ---------------------------------------------------------

INDEPENDENT = ADP(alpha=0, beta=0)
ADAM = Adam(learning_rate=1e-3, weight_decay=1e-4, stability=1e-7)
LEAKY = dataclasses.replace(MEMBER, activation="leaky_relu")
START = "dverge_start_cifar10_resnet20x3"
EVALUATED_ALONE = 0.03


def independent(members: int, row: Published, seed: int = 0) -> Experiment:
    """Independent members on natural images: the baseline ensemble of the field."""
    protocol = named("soe-whitebox").at(Linf(epsilon=EVALUATED_ALONE))
    experiment = cifar10(
        Ensemble(member=MEMBER, members=members), Joint(policy=policy(INDEPENDENT)), 200, EVALUATED_ALONE, protocol, row
    )
    return dataclasses.replace(experiment, seed=seed)


def surrogate(members: int) -> Experiment:
    """Held out: by its seed no target, and no other surrogate, has its initial weights or its order of images."""
    row = unprinted("Synergy-of-Experts, Tables 2 and 3 (the surrogates)", f"{members} x ResNet-20, natural training")
    return independent(members, row, seed=1000 + members)


def start() -> Experiment:
    """What DVERGE begins with. Of the run's own seed, so that no surrogate's weights are in what is attacked by
    transfer.
    """
    return independent(3, unprinted("DVERGE (the trained ensemble it starts from)", "3 x ResNet-20, natural training"))


def baseline(row: str, epsilon: float | None) -> Experiment:
    """ "GAL", "DVERGE", "MoRE", "ADP" or "Vote": alone (None), or in adversarial training with this epsilon."""
    attack = None if epsilon is None else inner(epsilon)
    three = Ensemble(member=MEMBER)
    model, method, epochs = {
        "GAL": (Ensemble(member=LEAKY), Joint(policy=policy(GAL(adversarial=attack), ADAM)), 200),
        "DVERGE": (three, DVERGE(adversarial=attack, policy=policy(INDEPENDENT)), 200),
        "MoRE": (Mixture(member=MEMBER, gate=MEMBER), Joint(policy=policy(MoRE(adversarial=attack), at=(51, 76))), 100),
        "ADP": (three, Joint(policy=policy(ADP(adversarial=attack), ADAM)), 200),
        "Vote": (
            Ensemble(member=MEMBER, output="vote"),
            Joint(policy=policy(ADP(alpha=0, beta=0, adversarial=attack))),
            200,
        ),
    }[row]
    used = epsilon or EVALUATED_ALONE
    alone = unprinted("Synergy-of-Experts, baselines without adversarial training (CIFAR-10, 3 x ResNet-20)", row)
    row_published = None if row == "Vote" else alone if epsilon is None else published(row, epsilon)  # the vote is ours
    experiment = cifar10(model, method, epochs, used, named("soe-whitebox").at(Linf(epsilon=used)), row_published)
    return dataclasses.replace(experiment, title=row, initial=f"runs/{START}/seed-0" if row == "DVERGE" else None)


ALONE = {
    "GAL": "3 x 9",
    "DVERGE": "3 x 8 to 36, with the depth of the epoch's layer",
    "MoRE": "4 x 3",
    "ADP": "3 x 3",
    "Vote": "3 x 3",
}
"""Forwards an image on natural images; adversarial training adds 20 + 3 of every network."""
_FIRST = f"first: poise train {START} --seeds 3 --out runs/{START}"
NOTES = {
    "DVERGE": (
        f"starts from a trained ensemble of its own seed ({_FIRST}), with seed=1 also initial=runs/{START}/seed-1, and"
        " so on"
    )
}


def _register(row: str) -> None:
    forwards, note = f"{ALONE[row]} forwards an image", NOTES.get(row, "")
    adversarial = f"{forwards}, and {4 if row == 'MoRE' else 3} x 23 for the adversarial ones"
    add(
        f"{row.lower()}_cifar10_resnet20x3",
        f"{row}, 3 x ResNet-20 on CIFAR-10",
        forwards,
        lambda: baseline(row, None),
        note,
    )
    for epsilon in EPSILONS:
        line = f"{row} in adversarial training, 3 x ResNet-20 on CIFAR-10, epsilon {epsilon:g}"
        name = f"{row.lower()}_adv_cifar10_resnet20x3_eps{epsilon:g}"
        then = (f"accuracy under transfer: poise transfer runs/{name} --surrogate {SURROGATE}",)
        add(name, line, adversarial, lambda epsilon=epsilon: baseline(row, epsilon), note, then=then)


for _members in (3, 5, 8):
    _line = f"{_members} independent ResNet-20 on CIFAR-10, natural training: a surrogate of the transfer protocols"
    _held_out = f"seed {1000 + _members}, held out: train no target with it"
    _cost = f"{_members} x 3 forwards an image"
    add(
        f"ensemble{_members}_cifar10_resnet20",
        _line,
        _cost,
        lambda members=_members: surrogate(members),
        repeats=_held_out,
    )
add(
    START,
    "3 independent ResNet-20 on CIFAR-10, natural training: what DVERGE starts from",
    "3 x 3 forwards an image",
    start,
)
for _row in ALONE:
    _register(_row)
