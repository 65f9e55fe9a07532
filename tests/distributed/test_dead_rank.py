"""A rank that dies ends the job with one sentence, and what was saved is gone on with."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from poise.engine import Experiment, Run, resume, train


def test_a_killed_rank_ends_the_job_and_another_number_of_ranks_goes_on(
    ranks: Any, tiny: Callable[..., Experiment], fingerprint: Any, tmp_path: Any
) -> None:
    experiment = tiny(placement="by-learner")
    out = ranks.train("killed", experiment, die_at=7)
    ranks.seconds = 60
    (status, said), (killed, _) = ranks.start(2)
    assert (status, killed) == (1, -signal.SIGKILL)
    assert said.startswith("error: rank 0 of 2 waited in vain: another rank ended or does not answer (")
    assert said.count("\n") == 1 and "poise train --resume" in said
    assert Run.open(out).states()[0].name == "step-000000006"
    resume(out)
    assert fingerprint(out) == fingerprint(train(experiment, tmp_path / "unbroken").path)
