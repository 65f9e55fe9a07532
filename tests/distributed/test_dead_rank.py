"""A rank that dies ends the job with one sentence, and what was saved is gone on with."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from poise.core.distributed import RankError, RefusedError, clause, going_on, join, speaks
from poise.core.errors import RunError, SettingsError
from poise.engine import Experiment, Run, resume, train


def waited(rank: int, size: int, out: Path) -> str:
    """What a surviving rank says, as a pattern."""
    reason = rf"rank {rank} of {size} waited in vain: another rank ended or does not answer \([A-Z][A-Za-z: ]+\)"
    return rf"error: {reason}; what was saved is whole, .*: poise train --resume {re.escape(str(out))}\n"


def test_a_killed_rank_ends_the_job_and_another_number_of_ranks_goes_on(
    ranks: Any, tiny: Callable[..., Experiment], fingerprint: Any, tmp_path: Any
) -> None:
    experiment = tiny(placement="by-learner")
    out = ranks.train("killed", experiment, die_at=7)
    ranks.seconds = 60
    (status, said), (killed, _) = ranks.start(2)
    assert (status, killed) == (1, -signal.SIGKILL)
    assert re.fullmatch(waited(0, 2, out), said), said
    assert Run.open(out).states()[0].name == "step-000000006"
    resume(out)
    assert fingerprint(out) == fingerprint(train(experiment, tmp_path / "unbroken").path)


def test_every_surviving_rank_knows_its_number_and_the_run(
    ranks: Any, tiny: Callable[..., Experiment], tmp_path: Path
) -> None:
    three = type(ranks)(tmp_path)
    out = three.train("killed", tiny(placement="by-learner"), die_at=4)
    first, (killed, _), third = three.start(3)
    assert killed == -signal.SIGKILL
    for rank, (status, said) in ((0, first), (2, third)):
        assert status == 1 and re.fullmatch(waited(rank, 3, out), said), said


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (
            "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4242",
            " (Connection closed by peer)",
        ),
        (
            "[../gloo/buffer.cc:81] Read error [::1]:4242: Connection reset by peer. This may mean\nmuch",
            " (Read error: Connection reset by peer)",
        ),
        (
            "[unbound_buffer.cc:78] Timed out waiting 60000ms for recv operation to complete",
            " (Timed out waiting 60000ms for recv operation to complete)",
        ),
        ("", ""),
    ],
)
def test_of_what_a_library_says_the_first_clause_is_kept(text: str, kept: str) -> None:
    assert clause(text) == kept


def test_whoever_knows_the_command_says_how_to_go_on() -> None:
    with pytest.raises(RankError, match=r"^waited; type this$"), going_on("type this"), going_on("resume somehow"):
        raise RankError("waited")
    with pytest.raises(RefusedError, match=r"^no$"), going_on("type this"):
        raise RefusedError("no")


def test_a_process_by_itself_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert speaks(RunError("a refusal"))
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "none")):
        monkeypatch.setenv(name, value)
    assert not speaks(RefusedError("the first rank says it"))
    assert speaks(RunError("nothing answers"))


DYING = """
import os, signal
from poise.core.settings import settings
from poise.objectives import NT

@settings
class Dying(NT):
    def loss(self, model, examples, now):
        if os.environ["RANK"] == "1" and now.epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(model, examples, now)
"""


@pytest.mark.slow
def test_under_torchrun_one_rank_says_that_another_died(tmp_path: Path, torchrun: Any) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    out = tmp_path / "run"
    settings = [
        "method=Joint",
        "method.policy.objective=Dying",
        "data.train_images=96",
        "data.test_images=60",
        "epochs=3",
        "save_every=1",
    ]
    done = torchrun(3, "train", "nt_digits", *settings, "--import", str(tmp_path / "dying.py"), "--out", str(out))
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("poise: ")]
    assert done.returncode != 0 and "waited in vain" in said and said.endswith(f"poise train --resume {out}")


STOPPED = """
import os, signal
from poise.core.settings import settings
from poise.objectives import NT

@settings
class Stopped(NT):
    def loss(self, model, examples, now):
        if now.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().loss(model, examples, now)
"""


@pytest.mark.slow
def test_under_torchrun_one_rank_says_when_all_will_stop(tmp_path: Path, torchrun: Any) -> None:
    (tmp_path / "stopped.py").write_text(STOPPED)
    settings = [
        "method=Joint",
        "method.policy.objective=Stopped",
        "method.batch_size=32",
        "data.train_images=96",
        "data.test_images=60",
    ]
    done = torchrun(
        2,
        "train",
        "nt_digits",
        *settings,
        "epochs=4",
        "--import",
        str(tmp_path / "stopped.py"),
        "--out",
        str(tmp_path / "run"),
    )
    said = " ".join(done.stderr.split())
    assert (
        said.count("asked to stop at step") == 1
        and "asked to stop at step 4: ranks stop together at the end of their epoch, step 6" in said
    )
    assert Run.open(tmp_path / "run").states()[0].name == "step-000000006"


@pytest.mark.slow
def test_under_torchrun_one_rank_says_a_refusal(tmp_path: Path, torchrun: Any) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for arguments, sentence in (
        (("train", "nt_digits", "method.gama=1"), "there is no setting 'method.gama'"),  # every rank refuses
        (("train", "nt_digits", "--out", str(tmp_path / "full")), "exists and is not empty"),  # the first one does
        (("evaluate",), "name run folders"),  # before the ranks have met
    ):
        done = torchrun(3, *arguments)
        (said,) = [line for line in done.stderr.splitlines() if line.startswith("poise: ")]
        assert done.returncode != 0 and sentence in said


def test_a_group_that_moves_gpu_tensors_only_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, answer in (("is_initialized", True), ("get_backend", "nccl")):
        monkeypatch.setattr(dist, name, lambda answer=answer: answer)
    with pytest.raises(SettingsError, match="backend 'nccl' alone: must be 'cpu:gloo,cuda:nccl'"):
        join()
