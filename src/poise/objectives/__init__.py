"""Training objectives: what one network is shown and what it minimises."""

from poise.objectives.adp import ADP
from poise.objectives.at import AT, Adversarial, AdversarialObjective
from poise.objectives.bat import BAT
from poise.objectives.collaborative import CollaborativeTraining
from poise.objectives.fat import FAT
from poise.objectives.fgsm_pgi import FGSMPGI
from poise.objectives.free_at import FreeAT
from poise.objectives.gairat import GAIRAT, GAIRRST
from poise.objectives.gal import GAL
from poise.objectives.iat import IAT
from poise.objectives.mart import MART
from poise.objectives.more import MoRE
from poise.objectives.n_fgsm import NFGSM
from poise.objectives.natural import NT, Natural
from poise.objectives.objective import Examples, Objective, Terms
from poise.objectives.rpat import RPAT
from poise.objectives.rst import RST, WeightedRST
from poise.objectives.squeeze import SqueezeTraining
from poise.objectives.synergy import SynergyOfExperts
from poise.objectives.taught import ADR, ReBAT
from poise.objectives.trades import TRADES
from poise.objectives.two_examples import TwoExamples

__all__ = [
    "ADP",
    "ADR",
    "AT",
    "BAT",
    "FAT",
    "FGSMPGI",
    "GAIRAT",
    "GAIRRST",
    "GAL",
    "IAT",
    "MART",
    "NFGSM",
    "NT",
    "RPAT",
    "RST",
    "TRADES",
    "Adversarial",
    "AdversarialObjective",
    "CollaborativeTraining",
    "Examples",
    "FreeAT",
    "MoRE",
    "Natural",
    "Objective",
    "ReBAT",
    "SqueezeTraining",
    "SynergyOfExperts",
    "Terms",
    "TwoExamples",
    "WeightedRST",
]
