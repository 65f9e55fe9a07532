"""Attacks: `attack(model, x, y) -> x_adv`."""

from poise.attacks.adaptive import AdaptivePGD, SoftMixturePGD, TransferFromExperts
from poise.attacks.aimed import AimedPGD
from poise.attacks.ascent import Ascent, ascent
from poise.attacks.attack import Attack
from poise.attacks.autoattack import AutoAttack
from poise.attacks.autoattack.apgd import APGD
from poise.attacks.autoattack.fab import FAB
from poise.attacks.autoattack.square import Square
from poise.attacks.collaborative import Collaborative
from poise.attacks.pgd import CW, FGSM, MIM, PGD
from poise.attacks.saved import AdversarialSet, Saved
from poise.attacks.third_party import ART, Foolbox, ThirdParty, Torchattacks
from poise.attacks.transfer import MDI2FGSM, MPGD, SGM

__all__ = [
    "APGD",
    "ART",
    "CW",
    "FAB",
    "FGSM",
    "MDI2FGSM",
    "MIM",
    "MPGD",
    "PGD",
    "SGM",
    "AdaptivePGD",
    "AdversarialSet",
    "AimedPGD",
    "Ascent",
    "Attack",
    "AutoAttack",
    "Collaborative",
    "Foolbox",
    "Saved",
    "SoftMixturePGD",
    "Square",
    "ThirdParty",
    "Torchattacks",
    "TransferFromExperts",
    "ascent",
]
