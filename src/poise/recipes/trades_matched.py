"""TRADES forced to Generalist's natural accuracy (Zipper, Section 4.1 and Table 6): beta below 1, which the paper does
not give.

Beta is found by halving: natural accuracy falls as beta grows. `poise train trades_matched_cifar10_resnet18
method.beta=0.3` runs one beta; `matched_trades` runs as many as it takes, at most 9, and returns the run nearest to the
accuracy asked for:

  python -c "from poise.recipes.trades_matched import matched_trades; print(matched_trades('runs/matched').path)"
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from poise.core.errors import SettingsError
from poise.engine import Experiment, Run, train_or_resume
from poise.methods import Joint
from poise.recipes.generalist_cifar10 import of_zipper
from poise.recipes.rows import add
from poise.recipes.zipper_baselines import CIFAR10_NARROW, measured, method_of

TARGET = 0.8991
"""Natural accuracy of the row."""
BETAS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
"""The grid around the beta that is not known; TRADES with beta 1 has 87.88 % in the same paper's Table 1."""
PUBLISHED = of_zipper(
    6,
    "TRADES",
    ("natural", "PGD-100", "APGD-CE"),
    *(89.91, 34.25, 30.20),
    spread=(0.69, 0.56, 0.81),
    runs=5,
    note="the paper's last column is APGD; beta is not given (below 1)",
)


def trades(beta: float) -> Experiment:
    """TRADES with zipper-AT, at any beta."""
    method = method_of(CIFAR10_NARROW, "trades")
    assert isinstance(method, Joint)
    objective = dataclasses.replace(method.policy.objective, beta=beta)  # type: ignore[type-var]
    experiment = measured(CIFAR10_NARROW, "trades", PUBLISHED)
    return dataclasses.replace(
        experiment, method=dataclasses.replace(method, policy=dataclasses.replace(method.policy, objective=objective))
    )


def matched_beta(
    natural: Callable[[float], float],
    target: float,
    low: float = 0.0,
    high: float = 1.0,
    tolerance: float = 0.002,
    most: int = 7,
) -> float:
    """The beta whose natural accuracy is nearest to `target` [0, 1] of at most `most` + 2 measured, found by halving
    [low, high].

    natural: beta -> natural accuracy, falling in beta (a noisy one ends at the nearest beta seen).
    Raises: SettingsError when the target lies outside what `low` and `high` reach.
    """
    if not 0 <= low < high:
        raise SettingsError(f"low = {low} and high = {high}: must be 0 <= low < high")
    naturals = {beta: natural(beta) for beta in (low, high)}
    if not naturals[high] - tolerance <= target <= naturals[low] + tolerance:
        reach = f"{100 * naturals[high]:.2f} to {100 * naturals[low]:.2f} %"
        raise SettingsError(f"target = {100 * target:.2f} %: beta from {low} to {high} reaches {reach} only")
    for _ in range(most):
        if min(abs(value - target) for value in naturals.values()) <= tolerance:
            break
        middle = (low + high) / 2
        naturals[middle] = natural(middle)
        low, high = (middle, high) if naturals[middle] > target else (low, middle)
    return min(naturals, key=lambda beta: abs(naturals[beta] - target))


def matched_trades(
    out: Path | str,
    target: float = TARGET,
    make: Callable[[float], Experiment] = trades,
    *,
    tolerance: float = 0.002,
    **where: Any,
) -> Run:
    """Train TRADES at one beta after another into `out`/beta-... until its natural accuracy (by the monitors) is the
    target's.

    Called again with the same folder it takes the finished runs as they are and goes on with the one that was stopped.
    where: device, data_dir, progress, as for `train`. Raises: SettingsError as `matched_beta`, RunError for a folder
    that holds runs of another experiment, and what `train` and `resume` raise.
    """
    runs: dict[float, Run] = {}

    def natural(beta: float) -> float:
        runs[beta] = train_or_resume(make(beta), Path(out) / f"beta-{beta:g}", **where)
        return runs[beta].facts()["monitors"]["monitor/natural"]

    return runs[matched_beta(natural, target, tolerance=tolerance)]


def _register(name: str, beta: float, note: str) -> None:
    add(
        name,
        f"TRADES, beta {beta:g}, for Generalist's natural accuracy, ResNet-18 on CIFAR-10",
        lambda: trades(beta),
        note,
    )


CALL = "from poise.recipes.trades_matched import matched_trades; print(matched_trades('runs/matched').path)"
_register(
    "trades_matched_cifar10_resnet18",
    0.3,
    "beta to be swept: one at a time with method.beta=..., or by halving until the natural accuracy is the row's to .2,"
    " in at most 9 runs "
    f'of this cost: python -c "{CALL}". Stopped, it goes on when typed again; it prints the folder of the nearest run,'
    " for poise evaluate",
)
for _beta in BETAS:
    _register(f"trades_matched_cifar10_resnet18_beta{_beta:g}", _beta, "one of the grid of beta below 1; zipper-AT")
