"""Adversarial training with a teacher: ReBAT and ADR on CIFAR-10, as far as their settings are known."""

from __future__ import annotations

from poise.attacks import PGD
from poise.data import CIFAR10, CropFlip
from poise.engine.experiment import Experiment, Monitor, Published
from poise.evaluation import standard
from poise.learners import AWP, EMA, SGD, OwnAverage, Policy, Step, WeightPerturbation
from poise.methods import Joint
from poise.models import Network, PreActResNet18, ResNet18
from poise.objectives import ADR, Objective, ReBAT
from poise.recipes.rows import add

COLUMNS = ("natural", "AA")
SECOND_HAND = "taken from a third party's table, not checked against the paper"


def taught(
    model: Network,
    objective: Objective,
    schedule: Step,
    average: EMA,
    row: Published,
    perturbation: WeightPerturbation | None = None,
) -> Experiment:
    """200 epochs of SGD at .1 with weight decay 5e-4; the teacher is the average, which is deployed too."""
    policy = Policy(
        objective=objective,
        optimizer=SGD(learning_rate=0.1, weight_decay=5e-4),
        schedule=schedule,
        average=average,
        teacher=OwnAverage(),
        perturbation=perturbation,
        augmentation=CropFlip(),
    )
    return Experiment(
        data=CIFAR10(),
        model=model,
        method=Joint(policy=policy),
        epochs=200,
        selection="test",
        criterion="robust",
        monitors=(Monitor(), Monitor(name="PGD-20", attack=PGD())),
        protocol=standard(),
        published=row,
    )


def rebat() -> Experiment:
    """The learning rate falls by a factor of 1.5 at epochs 100 and 150."""
    row = Published(
        table="ReBAT (CIFAR-10, PreAct-ResNet-18)",
        row="ReBAT",
        columns=COLUMNS,
        values=(82.09, 50.72),
        note=SECOND_HAND,
    )
    schedule = Step(at=(101, 151), factors=(1 / 1.5, 1 / 1.5**2))
    return taught(PreActResNet18(), ReBAT(), schedule, EMA(from_epoch=105), row)


def adr(values: tuple[float, float], row: str, perturbation: WeightPerturbation | None = None) -> Experiment:
    """The learning rate falls to a tenth at epochs 100 and 150."""
    row_published = Published(table="ADR (CIFAR-10, ResNet-18)", row=row, columns=COLUMNS, values=values)
    schedule = Step(at=(101, 151), factors=(0.1, 0.01))
    return taught(ResNet18(), ADR(), schedule, EMA(decay=0.995, warmup=False), row_published, perturbation)


KNOWN = (
    "200 epochs of batches of 128, SGD at .1, weight decay 5e-4, ten inner steps of 2/255 at 8/255. Nobody has run this"
    " recipe whole"
)

add(
    "rebat_cifar10_preactresnet18",
    "ReBAT, PreAct-ResNet-18 on CIFAR-10",
    rebat,
    "beta 1 and an average of decay .999 as teacher, both from epoch 105, learning rates divided by 1.5 at 100 and"
    f" 150; {KNOWN}",
)
add(
    "adr_cifar10_resnet18",
    "ADR with weight averaging, ResNet-18 on CIFAR-10",
    lambda: adr((82.59, 50.86), "ADR + WA"),
    "temperature 2.5 to 2, share .7 to .95; the average's decay (here .995) and the schedule (a tenth at 100 and 150)"
    f" are not stated where the row was found; {KNOWN}",
)
add(
    "adr_awp_cifar10_resnet18",
    "ADR with weight averaging and adversarial weight perturbation, ResNet-18 on CIFAR-10",
    lambda: adr((83.26, 51.24), "ADR + WA + AWP", AWP(gamma=0.005)),
    f"as adr_cifar10_resnet18, with AWP, whose gamma (here .005) is not stated where the row was found; {KNOWN}",
)
