"""Recipes: the papers' experiments and ours, one module per paper or data set."""

from poise.recipes import (
    digits,
    ensembles_cifar10,
    ensembles_digits,
    generalist_ablations,
    generalist_cifar10,
    generalist_policies,
    generalist_transfer,
    gowal2020,
    imagenet,
    mnist,
    official,
    squeeze_training,
    squeeze_training_ablations,
    squeeze_training_extra,
    synergy_of_experts,
    trades_matched,
    zipper_baselines,
)
from poise.recipes.registry import Recipe, experiment, recipe, recipes
from poise.recipes.rows import register

__all__ = [
    "Recipe",
    "digits",
    "ensembles_cifar10",
    "ensembles_digits",
    "experiment",
    "generalist_ablations",
    "generalist_cifar10",
    "generalist_policies",
    "generalist_transfer",
    "gowal2020",
    "imagenet",
    "mnist",
    "official",
    "recipe",
    "recipes",
    "register",
    "squeeze_training",
    "squeeze_training_ablations",
    "squeeze_training_extra",
    "synergy_of_experts",
    "trades_matched",
    "zipper_baselines",
]
