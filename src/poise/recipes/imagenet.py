"""Robust ImageNet as published: ConvNeXt-T with a ConvStem (Singh et al. 2023) and ResNet-50 (Liu et al. 2023), at Linf
4/255.

Nobody has run these two recipes whole. The photographs are read from a folder `imagenet` with train/ and val/, each
with one subfolder per class. Small variants take generated images, and a thin ResNet-18 in the place of timm's
networks.
"""

from __future__ import annotations

import dataclasses

from poise.attacks import PGD, Ascent
from poise.data import (
    ColourJitter,
    Flip,
    Folder,
    Generated,
    Mixing,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    Several,
)
from poise.data.augment import Augmentation
from poise.engine.experiment import Experiment, Monitor, Published
from poise.evaluation import named
from poise.learners import EMA, AdamW, Policy, WarmupCosine
from poise.methods import Joint
from poise.models import Normalisation, ResNet18, Timm
from poise.objectives import AT
from poise.recipes.rows import register, small
from poise.threats import Linf

THREAT = Linf(epsilon=4 / 255)
NORMALISATION = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SINGH = Published(
    table="Singh et al. 2023 (ImageNet, Linf 4/255, 300 epochs)",
    row="ConvNeXt-T-CvSt",
    columns=("natural", "AA"),
    values=(72.7, 49.5),
)
LIU = Published(
    table="Liu et al. 2023 (ImageNet, Linf 4/255)",
    row="ResNet-50",
    columns=("natural", "AA"),
    values=(67.0, 34.1),
    note="AutoAttack on 1,000 images",
)
UNRUN = "Nobody has run this recipe whole"


def augmentation(*further: Augmentation) -> Several:
    """The augmentation that both share, with `further` changes of colour before a box is erased."""
    return Several(parts=(RandomResizedCrop(), Flip(), RandAugment(), *further, RandomErasing()))


def trained(model: Timm, policy: Policy, row: Published, quick: bool, name: str) -> Experiment:
    """300 epochs of batches of 1,024, the last one's average is evaluated; or the small variant."""
    full = Experiment(
        name=name,
        data=Folder(path="imagenet", image_size=224, shorter_side=256, interpolation="bicubic"),
        model=model,
        method=Joint(policy=policy, batch_size=1024),
        epochs=300,
        selection="test",
        criterion="last",
        monitors=(Monitor(), Monitor(name="PGD-20", attack=PGD(threat=THREAT, step_size=1 / 255), first=1000)),
        monitor_every=10,
        protocol=named("robustbench-imagenet").at(),
        published=row,
    )
    if not quick:
        return full
    method = Joint(policy=policy, batch_size=16)
    variant = dataclasses.replace(full, data=Generated(count=250), model=ResNet18(width=4), method=method)
    return small(variant)


def convnext_t_cvst_imagenet(quick: bool) -> Experiment:
    policy = Policy(
        objective=AT(inner=Ascent(threat=THREAT, steps=2, start="zero", adaptive=True), label_smoothing=0.1),
        optimizer=AdamW(learning_rate=1e-3, betas=(0.9, 0.95), weight_decay=0.05, decay_vectors=False),
        schedule=WarmupCosine(warmup=20, end=5e-6 / 1e-3),
        average=EMA(decay=0.9999),
        augmentation=augmentation(),
        mixing=Mixing(),
    )
    model = Timm(name="convnext_tiny", pretrained=True, conv_stem=True, normalise=NORMALISATION)
    return trained(model, policy, SINGH, quick, "convnext_t_cvst_imagenet")


def resnet50_imagenet(quick: bool) -> Experiment:
    policy = Policy(
        objective=AT(inner=Ascent(threat=THREAT, steps=3, step_size=4 / 3 / 255, ramp=5 / 300), label_smoothing=0.1),
        optimizer=AdamW(learning_rate=5e-4, weight_decay=0.05, decay_vectors=False),
        schedule=WarmupCosine(warmup=5),
        average=EMA(decay=0.9998),
        augmentation=augmentation(ColourJitter()),
        mixing=Mixing(),
    )
    return trained(Timm(name="resnet50", normalise=NORMALISATION), policy, LIU, quick, "resnet50_imagenet")


register(
    "convnext_t_cvst_imagenet",
    "ConvNeXt-T with a ConvStem on ImageNet by adversarial training with APGD-2",
    convnext_t_cvst_imagenet,
    f"{UNRUN}. As Singh et al. 2023 give them; the batch of 1,024 and where stochastic depth is used are not known to"
    " us (here none). It begins with timm's clean weights, whose stem the ConvStem replaces",
)
register(
    "resnet50_imagenet",
    "ResNet-50 on ImageNet by adversarial training",
    resnet50_imagenet,
    f"{UNRUN}. As Liu et al. 2023 give them; the number of steps of PGD (here three), of epochs (here 300) and the"
    " batch of 1,024 are not known to us. Epsilon grows with the step size over the first five epochs, in the paper"
    " the step size alone",
)
