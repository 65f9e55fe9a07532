"""The names of the `robustbench` package over Poise's evaluation.

    from poise.interop.robustbench import benchmark, load_model
    model = load_model("Carmon2019Unlabeled", model_dir="models", dataset="cifar10", threat_model="Linf")
    clean_accuracy, robust_accuracy = benchmark(model, dataset="cifar10", threat_model="Linf", eps=8 / 255)

Weights lie at <model_dir>/<dataset>/<threat_model>/<model_name>.pt and are fetched there once (see `downloads`). What
differs: AutoAttack is seeded and resumable (see `poise.interop.autoattack`), networks come from the weights themselves
(see `released_weights`), and the corruption error relative to AlexNet is not given.
"""

from poise.interop.robustbench import data, eval, model_zoo, utils
from poise.interop.robustbench.data import load_cifar10, load_cifar100
from poise.interop.robustbench.eval import benchmark
from poise.interop.robustbench.info import ModelInfo, new_model_issue
from poise.interop.robustbench.utils import clean_accuracy, load_model

__all__ = [
    "ModelInfo",
    "benchmark",
    "clean_accuracy",
    "data",
    "eval",
    "load_cifar10",
    "load_cifar100",
    "load_model",
    "model_zoo",
    "new_model_issue",
    "utils",
]
