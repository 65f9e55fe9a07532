"""More from data: the augmentation IDBH alone (Li & Spratling 2023), a million generated images (Wang et al. 2023)."""

from __future__ import annotations

import dataclasses

from poise.attacks import PGD, Ascent
from poise.data import CIFAR10, IDBH, CropFlip, Extra, NpzPool
from poise.engine.experiment import Experiment, Monitor, Published
from poise.evaluation import standard
from poise.learners import AWP, EMA, SGD, SWA, Policy, Step, WarmupCosine
from poise.methods import Joint
from poise.models import Network, ResNet18, WideResNet
from poise.objectives import AT, TRADES
from poise.recipes.rows import register, small

GENERATED = NpzPool(path="cifar10_1m.npz")


def cifar10(model: Network, policy: Policy, epochs: int, batch_size: int, row: Published) -> Experiment:
    return Experiment(
        data=CIFAR10(),
        model=model,
        method=Joint(policy=policy, batch_size=batch_size),
        epochs=epochs,
        selection="test",
        criterion="robust",
        monitors=(Monitor(), Monitor(name="PGD-20", attack=PGD())),
        protocol=standard(),
        published=row,
    )


def idbh(erasing: float = 1.0) -> Experiment:
    """PGD-10 AT under IDBH with AWP, averaged from the first drop on."""
    row = Published(
        table="IDBH (CIFAR-10, ResNet-18)",
        row="IDBH-strong with AWP and SWA",
        columns=("natural", "AA"),
        values=(None, 52.46),
        note="natural accuracy is not known here; a rerun of others has 52.31 +- .26",
    )
    policy = Policy(
        objective=AT(),
        optimizer=SGD(learning_rate=0.1, weight_decay=5e-4),
        schedule=Step(at=(101, 151), factors=(0.1, 0.01)),
        average=SWA(from_epoch=101),
        perturbation=AWP(gamma=0.005),
        augmentation=IDBH(erasing=erasing),
    )
    return cifar10(ResNet18(), policy, 200, 128, row)


def generated() -> Experiment:
    """TRADES with seven tenths of every batch from a diffusion model's images."""
    row = Published(
        table="Wang et al. 2023 (CIFAR-10, WRN-28-10)",
        row="1M generated images",
        columns=("natural", "AA"),
        values=(91.12, 63.35),
    )
    policy = Policy(
        objective=TRADES(beta=5.0, inner=Ascent(start="gaussian"), label_smoothing=0.1),
        optimizer=SGD(learning_rate=0.2, weight_decay=5e-4, nesterov=True),
        schedule=WarmupCosine(warmup=10),
        average=EMA(decay=0.995),
        augmentation=CropFlip(),
        extra=Extra(pool=GENERATED, share=0.7),
    )
    return cifar10(WideResNet(depth=28, activation="silu"), policy, 400, 512, row)


def _generated(quick: bool) -> Experiment:
    """The small variant takes its training images once more for the generated ones, of which it needs no file."""
    full = dataclasses.replace(generated(), name="wang2023_cifar10_wrn28-10")
    if not quick:
        return full
    experiment = small(full)
    assert isinstance(experiment.method, Joint)
    policy = dataclasses.replace(experiment.method.policy, extra=Extra(pool=None, share=0.7))
    return dataclasses.replace(experiment, method=dataclasses.replace(experiment.method, policy=policy, batch_size=32))


def _idbh(quick: bool) -> Experiment:
    full = dataclasses.replace(idbh(), name="idbh_cifar10_resnet18")
    return small(full) if quick else full


register(
    "idbh_cifar10_resnet18",
    "Adversarial training under IDBH's augmentation with AWP and SWA, ResNet-18 on CIFAR-10",
    _idbh,
    "IDBH-strong: mirror, CropShift, one change of colour or shape, a box always erased, here with random pixels; 200"
    " epochs of batches of 128, SGD at .1 dropped at 100 and 150, weight decay 5e-4, ten inner steps; SWA here from the"
    " first drop on, AWP's gamma here .005. Needs pip install 'poise[augment]'. Nobody has run this recipe whole",
)
register(
    "wang2023_cifar10_wrn28-10",
    "TRADES with a million generated images (Wang et al. 2023), WRN-28-10 with SiLU on CIFAR-10",
    _generated,
    "beta 5, label smoothing .1, 400 epochs of 98 batches of 512, of which 70 % are generated; Nesterov SGD at .2,"
    " weight decay 5e-4, cosine after a warm-up of here ten epochs, an average of decay .995. The images are looked for"
    f" as {GENERATED.path} here and in the data folder, arrays image and label. Nobody has run this recipe whole",
)
