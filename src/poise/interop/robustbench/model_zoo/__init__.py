"""`robustbench.model_zoo`: the words for data sets and threat models."""

from poise.interop.robustbench.model_zoo import enums

__all__ = ["enums"]
