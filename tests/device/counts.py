"""Counts at many images and steps follow from those at few."""

from __future__ import annotations

import pytest
from benchmarks import gpu_counts
from benchmarks.pretended import Tally, pretended_gpu

from poise.models import DigitsCNN


@pytest.mark.parametrize("name", ["AT step", "PGD-20 of a monitor"])
def test_counts_are_those_of_the_batch_and_steps_themselves(name: str) -> None:
    path = gpu_counts.PATHS[name][0]
    whole, recorded = gpu_counts.extended(path, DigitsCNN(width=4), 8, 5, 4)
    with pretended_gpu() as gpu:
        itself = path(gpu, DigitsCNN(width=4), 8, 5, 4)
    assert (whole, recorded) == itself and whole.flop > recorded.flop >= 0


def test_a_row_bounds_a_path_by_its_slowest_part() -> None:
    shown = gpu_counts.row("x", Tally(kernels=9, flop=989 * 10**9, bytes=96 * 10**8, launches=8), Tally(launches=7))
    assert shown == ["x", "9", "2", "989", "9.6", "1.00", "1.00", "0.01", "1.00"]
