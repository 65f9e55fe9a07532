"""Methods: which learners exist and in which order they move."""

from poise.methods.dverge import DVERGE
from poise.methods.generalist import BaseLearner, Generalist
from poise.methods.joint import Joint
from poise.methods.method import Build, Method

__all__ = ["DVERGE", "BaseLearner", "Build", "Generalist", "Joint", "Method"]
