"""Recipes: the papers' experiments and ours, one module per paper or data set."""

from poise.recipes import digits, generalist_cifar10, mnist
from poise.recipes.registry import Recipe, experiment, recipe, recipes

__all__ = ["Recipe", "digits", "experiment", "generalist_cifar10", "mnist", "recipe", "recipes"]
