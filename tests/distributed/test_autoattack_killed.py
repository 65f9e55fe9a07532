"""Two ranks of AutoAttack, killed at random moments and started again, end as one rank does that nothing happened
to.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

WORKER = Path(__file__).with_name("autoattack_worker.py")


@pytest.mark.parametrize("times", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_as_the_unbroken_run(tmp_path: Path, times: int) -> None:
    spec = importlib.util.spec_from_file_location("autoattack_worker", WORKER)
    assert spec is not None and spec.loader is not None
    worker: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    how: dict[str, Any] = {"batch_size": 4, "count": 48}
    job = {"name": "job", "times": times, "how": {**how, "state_path": str(tmp_path / "state"), "save_seconds": 0.0}}
    (tmp_path / "plan.json").write_text(json.dumps([job]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run([sys.executable, str(WORKER), str(tmp_path)], env=environment, check=True, timeout=60 + 60 * times)
    whole, *broken, last = json.loads((tmp_path / "said.json").read_text())
    assert whole == last == [[0, ""], [0, ""]]
    assert len(broken) == times
    for outcome in broken:
        assert -9 in [status for status, _ in outcome], "at least one was killed before it had finished"
        for status, text in outcome:
            assert status == -9 or (
                status == 1 and "waited in vain" in text and "the same number of ranks goes on" in text
            )
    alone = dataclasses.asdict(worker.found(how))
    for name in ("whole", "job"):
        for rank in range(2):
            found = torch.load(tmp_path / f"{name}.{rank}.pt")
            assert all(
                torch.equal(alone[field].view(torch.uint8), found[field].view(torch.uint8)) for field in worker.COMPARED
            )
            assert all(alone[field] == found[field] for field in ("attacks", "survivors", "shapes", "notes"))
            assert [useful for _, useful in alone["steps"]] == [useful for _, useful in found["steps"]]
