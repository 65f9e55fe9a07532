"""Cheap adversarial training, by single steps and for free, and RPAT: on CIFAR-10, as far as settings are known."""

from __future__ import annotations

from poise.attacks import PGD
from poise.data import CIFAR10, CropFlip
from poise.engine.experiment import Experiment, Monitor, Published
from poise.evaluation import standard
from poise.learners import EMA, SGD, Policy, Schedule, Step
from poise.methods import Joint
from poise.models import Network, ResNet18, WideResNet
from poise.objectives import FGSMPGI, NFGSM, RPAT, FreeAT, Objective
from poise.recipes.rows import add, unprinted
from poise.recipes.taught import COLUMNS, SECOND_HAND

DROPS = Step(at=(1 / 2, 3 / 4), factors=(0.1, 0.01), unit="fraction")


def fast(
    objective: Objective,
    row: Published,
    *,
    model: Network | None = None,
    epochs: int = 100,
    schedule: Schedule = DROPS,
    average: EMA | None = None,
    weight_decay: float = 5e-4,
) -> Experiment:
    """Batches of 128 by SGD at .1, the learning rate dropped twice to a tenth."""
    optimizer = SGD(learning_rate=0.1, weight_decay=weight_decay)
    policy = Policy(
        objective=objective, optimizer=optimizer, schedule=schedule, average=average, augmentation=CropFlip()
    )
    return Experiment(
        data=CIFAR10(),
        model=model or ResNet18(),
        method=Joint(policy=policy),
        epochs=epochs,
        selection="test",
        criterion="robust",
        monitors=(Monitor(), Monitor(name="PGD-20", attack=PGD())),
        protocol=standard(),
        published=row,
    )


def fast_at(name: str, *values: float) -> Published:
    table = "FastAT benchmark (CIFAR-10, ResNet-18, 100 epochs, weight averaging, label smoothing)"
    return Published(table=table, row=name, columns=COLUMNS, values=values, note=SECOND_HAND)


FREE = unprinted(
    "Free adversarial training, Table 1 (CIFAR-10, WRN-32-10)", "Free (m = 8)", "no numbers are known here"
)
KNOWN = (
    "100 epochs with weight averaging (here .999 per step) and label smoothing (here .1) are the benchmark's; batches"
    " of 128, SGD at .1 dropped at one half and three quarters, weight decay 5e-4 are ours. Nobody has run this recipe"
    " whole"
)

add(
    "n_fgsm_cifar10_resnet18",
    "N-FGSM, ResNet-18 on CIFAR-10",
    lambda: fast(NFGSM(label_smoothing=0.1), fast_at("N-FGSM", 78.59, 47.77), average=EMA()),
    f"noise of 2 epsilons, one step of epsilon = 8/255, not projected; {KNOWN}",
)
add(
    "fgsm_pgi_cifar10_resnet18",
    "FGSM-PGI with momentum (FGSM-MEP), ResNet-18 on CIFAR-10",
    lambda: fast(FGSMPGI(label_smoothing=0.1), fast_at("FGSM-PGI", 79.72, 49.89), average=EMA()),
    "one step of epsilon = 8/255 from the last epochs' prior, momentum .3, lambda 10 on the mean over classes, priors"
    f" begun anew every 40 epochs, as public code of this family has them; {KNOWN}",
)
add(
    "free_at_cifar10_wrn32-10",
    "Free adversarial training, each batch replayed 8 times, WRN-32-10 on CIFAR-10",
    lambda: fast(FreeAT(), FREE, model=WideResNet(depth=32), epochs=25, schedule=DROPS, weight_decay=2e-4),
    "80,000 updates, which are 25 epochs of 8 replays, dropped after 40,000 and 60,000, weight decay 2e-4, as in"
    " Madry et al.'s training. Nobody has run this recipe whole",
)
add(
    "rpat_cifar10_resnet18",
    "RPAT, ResNet-18 on CIFAR-10",
    lambda: fast(
        RPAT(), unprinted("RPAT (CIFAR-10, ResNet-18)", "PGD-AT + RPAT", "no numbers are known here"), epochs=200
    ),
    "weight 1, ten inner steps of 2/255 at 8/255, 200 epochs, learning rates dropped at 100 and 150. Nobody has run"
    " this recipe whole",
)
