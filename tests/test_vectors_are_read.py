"""No array of the vectors lies there unread."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

READERS = (
    "test_vectors.py",
    "objectives/test_objective_vectors.py",
    "objectives/test_ensemble_vectors.py",
    "learners/test_perturbation_vectors.py",
    "models/test_collectives.py",
    *(f"attacks/test_{attack}.py" for attack in ("apgd", "fab", "square", "adaptive")),
    "attacks/test_transfer.py::test_the_released_margin_loss_is_the_given_one",
    "methods/test_dverge.py",
    "methods/test_generalist.py::test_redistribution_epochs_of_the_paper",
    "methods/test_generalist.py::test_averaging_trajectories",
)
INPUTS = {"common", "ensemble_nets"}
"""Networks and images from which the others are computed."""
UNREAD = {
    "schedules:epoch_1based": "counts the places of the others",
    **dict.fromkeys([f"inner_fat:tau{tau}_official_order" for tau in range(3)], "ours stay in their order"),
    **dict.fromkeys(
        [f"st_small_batch:case{case}.noise_{role}" for case in range(3) for role in ("adv", "col")],
        "the starts beside it contain it",
    ),
    **dict.fromkeys(
        [f"generalist_averaging:nested_every_step_alpha{alpha}.g_count" for alpha in (0.4, 0.999)],
        "the released code averages and truncates the counter; ours is the robust learner's",
    ),
    **dict.fromkeys(
        [f"generalist_averaging:nested_every_step_alpha0.4_gamma_zero_end_OFFICIAL_BUG.{name}" for name in "gnr"],
        "with a gamma of 0 the released code takes the robust learner alone",
    ),
    **dict.fromkeys(
        [f"aa_apgd_linf:linf_{loss}_{steps}.x_best_adv" for loss in ("ce", "dlr") for steps in (20, 100)]
        + [f"aa_apgd_l2:l2_{loss}_20.x_best_adv" for loss in ("ce", "dlr")],
        "the last misclassified iterate; ours ends at the first",
    ),
    **dict.fromkeys(
        [
            f"aa_projections:{name}"
            for name in ("delta_l1", *(f"l1ball_{part}" for part in ("center", "perturbation", "eps", "delta")))
        ],
        "no paper here attacks within L1",
    ),
    **dict.fromkeys(["ensemble_losses:adp.adv_loss", "ensemble_losses:gal.adv_loss"], "0: no such term"),
    "soe:code.selection_matches_best": "measured beside the loss",
    **dict.fromkeys(
        [
            f"soe:adaptive_{form}_lambda{weight}.l2_selected"
            for form in ("evaluator", "rectified")
            for weight in (0, 0.2, 1)
        ],
        "the expert at which the largest term of l2 is; l2 and its gradients are compared",
    ),
    **dict.fromkeys(
        ["step_at_awp:proxy_lr", "step_trades_awp:proxy_lr"], "cancels: a single ascent step is scaled to a given norm"
    ),
}
"""The only ones that no test needs, each with the reason."""


@pytest.mark.slow
def test_every_array_is_read(vectors: Callable[[str], dict[str, Tensor]], tmp_path: Path) -> None:
    """By the tests as they run, in a session of their own, since here the others may run in other processes."""
    here, file = Path(__file__).parent, tmp_path / "asked"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *(str(here / reader) for reader in READERS),
    ]
    done = subprocess.run(
        command,
        cwd=here.parent,
        env={**environment, "POISE_VECTORS_ASKED": str(file)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    topics = {path.stem for path in (here / "vectors").glob("*.npz")}
    given = {f"{topic}:{name}" for topic in topics - INPUTS for name in vectors(topic)}
    assert topics > INPUTS and given - set(file.read_text().split()) == set(UNREAD)
