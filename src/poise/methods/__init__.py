"""Methods: which learners exist and in which order they move."""

from poise.methods.generalist import Generalist
from poise.methods.joint import Joint
from poise.methods.method import Build, Method

__all__ = ["Build", "Generalist", "Joint", "Method"]
