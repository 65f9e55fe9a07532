"""Evaluation: protocols of attacks run on a network and a split, written as records. Knows no objective."""

from poise.evaluation.columns import Searching
from poise.evaluation.corruption import CorruptionAccuracy, evaluate_corruptions
from poise.evaluation.experts import Choice, EnsembleMeasures, measure_ensemble
from poise.evaluation.predictions import accuracy, predict, predict_under
from poise.evaluation.protocol import Protocol, evaluate
from poise.evaluation.protocols import (
    PROTOCOLS,
    NamedProtocol,
    at_each,
    named,
    plus_autoattack,
    standard,
    strict,
    union,
)
from poise.evaluation.soe_protocols import (
    TransferProtocol,
    soe_adaptive,
    soe_aimed,
    soe_benchmark,
    soe_lambdas,
    soe_transfer,
)
from poise.evaluation.subsets import published_subset
from poise.evaluation.transfer import TransferMatrix, made_or_kept, make_set, set_path, survived, transfer_matrix

__all__ = [
    "PROTOCOLS",
    "Choice",
    "CorruptionAccuracy",
    "EnsembleMeasures",
    "NamedProtocol",
    "Protocol",
    "Searching",
    "TransferMatrix",
    "TransferProtocol",
    "accuracy",
    "at_each",
    "evaluate",
    "evaluate_corruptions",
    "made_or_kept",
    "make_set",
    "measure_ensemble",
    "named",
    "plus_autoattack",
    "predict",
    "predict_under",
    "published_subset",
    "set_path",
    "soe_adaptive",
    "soe_aimed",
    "soe_benchmark",
    "soe_lambdas",
    "soe_transfer",
    "standard",
    "strict",
    "survived",
    "transfer_matrix",
    "union",
]
