"""Quantities that are measured while training and are no part of the loss: means and standard deviations over an
epoch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from poise.objectives.objective import Terms

WATCH = "watch/"
"""How the names of terms begin that are measured only."""


def minimised(terms: Terms) -> Terms:
    """The terms of the loss, without those that are only watched."""
    return {name: values for name, values in terms.items() if not name.startswith(WATCH)}


def watched(name: str, values: Tensor, where: Tensor | None = None) -> Terms:
    """Terms whose means over any number of steps give the share, mean and standard deviation of `values` [B] (see
    `moments`).

    where: which examples count [B], bool; all by default.
    """
    weights = torch.ones_like(values) if where is None else where.to(values.dtype)
    first = weights * values.detach()
    return {
        f"{WATCH}{name}/share": weights,
        f"{WATCH}{name}/first": first,
        f"{WATCH}{name}/second": first * values.detach(),
    }


def moments(means: Mapping[str, float]) -> dict[str, float]:
    """Means of step metrics, each `.../share`, `.../first`, `.../second` of a watched quantity replaced by share, mean
    and std.

    Mean and standard deviation are left out where no example counted.
    """
    results = {}
    for name, value in means.items():
        if not name.startswith(WATCH) or name.endswith("/share"):
            results[name] = value
            continue
        stem, _, moment = name.rpartition("/")
        share = means[f"{stem}/share"]
        if share > 0:
            mean = means[f"{stem}/first"] / share
            spread = max(0.0, means[f"{stem}/second"] / share - mean**2) ** 0.5
            results[f"{stem}/{'mean' if moment == 'first' else 'std'}"] = mean if moment == "first" else spread
    return results
