"""Sanity: a verdict on whether a network's accuracies under attack can be believed, check by check."""

from poise.core.verdicts import Finding, Verdict
from poise.evaluation.sanity.inspection import CHECKS, inspect
from poise.evaluation.sanity.subject import Claim, Effort

__all__ = ["CHECKS", "Claim", "Effort", "Finding", "Verdict", "inspect"]
