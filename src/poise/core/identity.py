"""When two attacks, or two experiments, are the same: by what they do, not by how their settings are spelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """An attack's settings as JSON, without the folder of a set of images that a digest names; equal for attacks that
    are the same.

    Attacks are compared by this wherever a record is looked up or put beside another, so that a set may lie elsewhere.
    """
    return {name: value for name, value in settings.items() if name != "path" or not settings.get("digest")}


BENCHMARKS = frozenset({"CIFAR10", "CIFAR100", "Digits", "MNIST", "SVHN", "TinyImageNet", "ImageNet"})
"""Data sources on whose test sets papers choose; all others are somebody's own data."""
_HOW = {
    "name",
    "title",
    "seed",
    "published",
    "also_published",
    "protocol",
    "compile",
    "placement",
    "deterministic",
    "diagnosis",
}
_KEPT = {"keep_last", "keep_epochs", "save_every", "monitors", "overfitting"}
_EXACT = {"microbatch", "idle", "overlap", "download"}
"""Settings that leave the numbers as they are."""


def definition(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """Of an experiment's settings as JSON, what makes it this one and no other: all that moves its numbers, but for the
    seed.

    Names, how it is run, what is kept on disk and what else is watched are no part of it; by what it is evaluated
    neither.
    """
    left_out = _HOW | _KEPT | ({"monitor_every", "natural_floor"} if experiment.get("criterion") == "last" else set())
    data = {name: value for name, value in experiment.items() if name not in left_out}
    if data.get("criterion") != "last":
        monitors = [monitor for monitor in experiment.get("monitors") or [] if monitor.get("split") == "selection"]
        kinds = [
            [monitor for monitor in monitors if (monitor.get("attack") is None) == natural][:1]
            for natural in (True, False)
        ]
        data["chosen by"] = [{**monitor, "name": ""} for kind in kinds for monitor in kind]
    if data.get("selection") == "test":
        data.pop("held_out", None)
    data["initial"] = data.get("initial") is not None  # where it lies on this disk says nothing
    return _without(data, _EXACT)


def chosen_on_own_test_images(experiment: Mapping[str, Any]) -> bool:
    """Whether an experiment, as JSON, chooses its epoch by looking at the test images of somebody's own data."""
    own_data = (experiment.get("data") or {}).get("type", "Digits") not in BENCHMARKS
    return own_data and experiment.get("selection") == "test" and experiment.get("criterion") != "last"


def _without(data: Any, names: set[str]) -> Any:
    if isinstance(data, Mapping):
        return {name: _without(value, names) for name, value in data.items() if name not in names}
    return [_without(value, names) for value in data] if isinstance(data, list) else data
