"""Attacks: `attack(model, x, y) -> x_adv`."""

from poise.attacks.ascent import Ascent, ascent
from poise.attacks.attack import Attack
from poise.attacks.collaborative import Collaborative
from poise.attacks.pgd import CW, FGSM, MIM, PGD

__all__ = ["CW", "FGSM", "MIM", "PGD", "Ascent", "Attack", "Collaborative", "ascent"]
