"""The engine: experiments, the training loop, checkpoints and run folders."""

from poise.engine.callbacks import Callback
from poise.engine.diagnostics import Diagnosis
from poise.engine.experiment import Experiment, Monitor, Published
from poise.engine.loop import finished, resume, train, train_or_resume
from poise.engine.runs import Run, load

__all__ = [
    "Callback",
    "Diagnosis",
    "Experiment",
    "Monitor",
    "Published",
    "Run",
    "finished",
    "load",
    "resume",
    "train",
    "train_or_resume",
]
