"""Evaluation: protocols of attacks run on a network and a split, written as records. Knows no objective."""

from poise.evaluation.predictions import accuracy, predict, predict_under
from poise.evaluation.protocol import Protocol, evaluate, standard, strict

__all__ = ["Protocol", "accuracy", "evaluate", "predict", "predict_under", "standard", "strict"]
