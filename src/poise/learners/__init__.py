"""Learners: what one loss trains, and the settings of how."""

from poise.learners.averages import EMA, SWA, Average
from poise.learners.learner import Learner, Metrics, Policy
from poise.learners.optimizers import SGD, Adam, AdamW, Optimizer
from poise.learners.perturbations import AWP, RWP, WeightPerturbation
from poise.learners.schedules import Constant, Cosine, OneCycle, PiecewiseLinear, Schedule, Step, WarmupCosine
from poise.learners.teachers import OwnAverage, Teacher, Trained
from poise.learners.torch_optimizer import Torch
from poise.learners.torch_schedule import TorchSchedule

__all__ = [
    "AWP",
    "EMA",
    "RWP",
    "SGD",
    "SWA",
    "Adam",
    "AdamW",
    "Average",
    "Constant",
    "Cosine",
    "Learner",
    "Metrics",
    "OneCycle",
    "Optimizer",
    "OwnAverage",
    "PiecewiseLinear",
    "Policy",
    "Schedule",
    "Step",
    "Teacher",
    "Torch",
    "TorchSchedule",
    "Trained",
    "WarmupCosine",
    "WeightPerturbation",
]
