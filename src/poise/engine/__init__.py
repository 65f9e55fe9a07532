"""The engine: experiments, the training loop, checkpoints and run folders."""

from poise.engine.experiment import Experiment, Monitor, Published
from poise.engine.loop import finished, resume, train
from poise.engine.runs import Run, load

__all__ = ["Experiment", "Monitor", "Published", "Run", "finished", "load", "resume", "train"]
