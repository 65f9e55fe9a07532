"""Straightforward training steps, written from the papers in the style in which such code is usually released.

They are what Poise's steps are timed against; tests/benchmarks proves that both move the weights to the same place.
"""

from benchmarks.reference.generalist import GeneralistTrainer, Shadow
from benchmarks.reference.squeeze import squeeze_step
from benchmarks.reference.steps import at_step, mart_step, nt_step, trades_step

__all__ = ["GeneralistTrainer", "Shadow", "at_step", "mart_step", "nt_step", "squeeze_step", "trades_step"]
