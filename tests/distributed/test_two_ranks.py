"""Two ranks, by learner and by data, against one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from poise.attacks import Ascent
from poise.core.batches import Now
from poise.core.errors import Interrupted
from poise.core.progress import Progress
from poise.core.records import EvaluationRecord
from poise.data import Feed
from poise.engine import Experiment, Run, resume, train
from poise.engine.checkpoints import read_tensors
from poise.learners import Learner, PiecewiseLinear
from poise.methods import Generalist
from poise.objectives import IAT
from poise.threats import Linf
from poise.verbs.evaluate import evaluate

Make = Callable[..., Experiment]


class Said(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)


STEPS, EPOCHS, REDISTRIBUTED = 15, 5, (3, 6, 9, 12)


def interpolated(smooth: Make) -> Experiment:
    """IAT, whose images meet in mixup."""
    made = smooth(placement="by-data")
    assert isinstance(made.method, Generalist)
    robust = replace(made.method.robust, objective=IAT(inner=Ascent(threat=Linf(epsilon=0.2), step_size=0.1, steps=2)))
    return replace(made, method=replace(made.method, robust=robust))


def idling(tiny: Make) -> Experiment:
    """The natural learner's share is zero until it is next overwritten, nothing of its own outlives that: it is left
    idle.
    """
    made = tiny(placement="by-learner")
    assert isinstance(made.method, Generalist)
    policies = {name: replace(policy, average=None) for name, policy in made.method.policies().items()}
    gamma = PiecewiseLinear(at=(0.0, 0.59, 0.6, 1.0), values=(1.0, 1.0, 0.7, 0.5))
    return replace(made, method=replace(made.method, **policies, gamma=gamma, momentum="reset"))


@pytest.fixture(scope="module")
def done(ranks: Any, tiny: Make, smooth: Make, third: Any, worker: Any) -> dict[str, Path]:
    """All jobs of two ranks; first runs that one rank began."""
    begun = {"begun_by_one": (tiny(placement="by-learner"), 7), "idle_begun_by_one": (idling(tiny), 2)}
    for name, (experiment, steps) in begun.items():
        with pytest.raises(Interrupted):
            train(experiment, ranks.folder / name, progress=worker.Stopping(steps))
    outs = {
        "float32": ranks.train("float32", tiny(placement="by-learner")),
        "float64": ranks.train("float64", tiny(placement="by-learner", precision="float64", epochs=4)),
        "begun_by_two": ranks.train("begun_by_two", tiny(placement="by-learner"), stop_after=7),
        "by_data": ranks.train("by_data", smooth(placement="by-data")),
        "gradients": ranks.train("gradients", tiny(model=worker.PlainNet()), do="gradients"),
        "mixup": ranks.train("mixup", interpolated(smooth)),
        "idle": ranks.train("idle", idling(tiny)),
        "normed_by_two": ranks.train("normed_by_two", tiny(placement="by-data", epochs=3), stop_after=4),
        "idle_begun_by_two": ranks.train("idle_begun_by_two", idling(tiny), stop_after=2),
        "third": ranks.train("third", third(smooth())),
        **{name: ranks.folder / name for name in begun},
    }
    for name in begun:
        ranks.resume(outs[name])
    (first, said), second = ranks.start(2)
    assert (first, second) == (0, (0, ""))
    pattern = (
        r"asked to stop at step (\d+): ranks stop together at the end of their epoch, step (\d+); .* --resume (\S+)"
    )
    asked = [match.groups() for line in said.splitlines() if (match := re.fullmatch(pattern, line))]
    stopped = [(7, 9, "begun_by_two"), (4, 6, "normed_by_two"), (2, 3, "idle_begun_by_two")]
    assert asked == [(str(at), str(end), str(outs[name])) for at, end, name in stopped]
    return outs


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny: Make) -> Path:
    return train(tiny(placement="by-learner"), tmp_path_factory.mktemp("alone") / "run").path


def test_by_learner_equals_serial_bit_for_bit_in_float32(done: Any, alone: Path, fingerprint: Any) -> None:
    """Weights, averages, accumulators, momentum, deployed networks and metrics, over four redistributions."""
    assert fingerprint(done["float32"]) == fingerprint(alone)


def test_an_idle_learner_on_a_rank_of_its_own_equals_serial_bit_for_bit(
    done: Any, tmp_path: Path, tiny: Make, fingerprint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[str, int]] = []
    descend = Learner.descend
    monkeypatch.setattr(
        Learner, "descend", lambda self, *given: trained.append((self.name, given[-1].epoch)) or descend(self, *given)
    )
    serial = train(idling(tiny), tmp_path / "run").path
    assert {epoch for name, epoch in trained if name == "robust"} == {1, 2, 3, 4, 5}
    assert 0 < len({epoch for name, epoch in trained if name == "natural"}) < 5, (
        "it is idle for some epochs and trained in others"
    )
    assert fingerprint(done["idle"]) == fingerprint(serial)


def test_a_run_stopped_while_a_learner_is_idle_goes_on_with_another_number_of_ranks(
    done: Any, tmp_path: Path, tiny: Make, fingerprint: Any
) -> None:
    method = idling(tiny).method
    assert isinstance(method, Generalist) and method.is_idle("natural", Now(1, 2, 5, 3, 0))
    wanted = fingerprint(train(idling(tiny), tmp_path / "run").path)
    assert [path.name for path in Run.open(done["idle_begun_by_two"]).states()] == ["step-000000003"]
    resume(done["idle_begun_by_two"])
    for name in ("idle_begun_by_one", "idle_begun_by_two"):
        found = fingerprint(done[name])
        assert {name: found[name] for name in wanted} == wanted


def test_three_learners_on_two_ranks_equal_one(
    done: Any, tmp_path: Path, smooth: Make, third: Any, distance: Any
) -> None:
    """Not bit for bit: the rank of two learners adds up theirs first."""
    placed = json.loads((done["third"] / "run.json").read_text())["placement"]
    assert placed["by"] == "learner" and placed["ranks"] == 2 and len(placed["shares"]) == 3
    assert distance(done["third"], train(third(smooth()), tmp_path / "run").path) < 1e-9


def test_by_learner_equals_serial_bit_for_bit_in_float64(
    done: Any, tmp_path: Path, tiny: Make, fingerprint: Any
) -> None:
    serial = train(tiny(placement="by-learner", precision="float64", epochs=4), tmp_path / "run").path
    assert fingerprint(done["float64"]) == fingerprint(serial)


def test_runs_go_on_with_another_number_of_ranks(done: Any, alone: Path, fingerprint: Any) -> None:
    saved = [path.name for path in Run.open(done["begun_by_two"]).states()]
    assert saved == ["step-000000009", "step-000000006"], "several ranks stop together at the end of the epoch"
    resume(done["begun_by_two"])
    assert fingerprint(done["begun_by_two"]) == fingerprint(alone)
    found, wanted = fingerprint(done["begun_by_one"]), fingerprint(alone)
    assert {name: found[name] for name in wanted} == wanted


def test_a_changed_number_of_ranks_is_said_and_kept_where_batch_normalisation_makes_it_another_run(done: Any) -> None:
    said = Said()
    run = resume(done["normed_by_two"], progress=said)
    changed = [sentence for sentence in said.sentences if "another, valid run than the one begun" in sentence]
    assert len(changed) == 1 and "natural: 2 -> 1, robust: 2 -> 1" in changed[0]
    evaluate(run, checkpoint="last")
    record = EvaluationRecord.read(run.path / "records" / "last.json")
    kept = [(each["from"], each["by"], each["ranks"]) for each in record.notes["placements"]]
    assert kept == [(0, "data", 2), (6, "data", 1)] and "placement" not in record.notes


def test_a_run_that_always_had_the_same_ranks_keeps_no_list_of_them(done: Any) -> None:
    for name, kept in (("by_data", None), ("begun_by_one", [(0, "data", 1), (7, "learner", 2)])):
        found = Run.open(done[name]).facts("last").get("placements")
        assert (found and [(each["from"], each["by"], each["ranks"]) for each in found]) == kept


def test_by_learner_sends_nothing_between_redistributions(done: Any, ranks: Any, tiny: Make) -> None:
    """One sum of parameters and floating buffers per redistribution and validation, one of counters beside it."""
    experiment = tiny()
    data = experiment.data.load(None)
    weights = experiment.model.build(data.shape, len(data.classes), 0).state_dict()
    floats = sum(tensor.numel() * 4 for tensor in weights.values() if tensor.is_floating_point())
    integers = sum(tensor.numel() * 8 for tensor in weights.values() if not tensor.is_floating_point())
    for sent in ranks.sent:
        sent = [each for each in sent if each["job"] == 0]
        assert {each["step"] for each in sent} - {-1} == set(REDISTRIBUTED)
        for step in REDISTRIBUTED:
            found = [(each["name"], each["dtype"], each["bytes"]) for each in sent if each["step"] == step]
            assert found == [("all_reduce", "torch.float32", floats), ("all_reduce", "torch.int64", integers)]
        outside = [each for each in sent if each["step"] == -1]
        assert sum(each["bytes"] == floats and each["name"] == "all_reduce" for each in outside) == EPOCHS, (
            "one per validation"
        )
        small = [
            each["bytes"]
            for each in outside
            if each["name"] in ("all_reduce", "all_gather") and each["bytes"] != floats
        ]
        assert max(small) < 1000
    checkpoints = [each["bytes"] for each in ranks.sent[1] if each["job"] == 0 and each["name"] == "send"]
    assert len(checkpoints) == EPOCHS, "beside the sum, a checkpoint takes the second learner's state:"
    kept = 4 if tiny().method.policies()["natural"].average is not None else 3  # weights, share, momentum, average
    assert all((kept - 1) * floats < size < kept * (floats + integers) + 20_000 for size in checkpoints), (
        "its tensors, with their names"
    )


def test_by_data_sums_once_per_backward(done: Any, ranks: Any) -> None:
    sent = [each for each in ranks.sent[0] if each["job"] == 3 and each["step"] >= 0]
    assert {each["step"] for each in sent} == set(range(STEPS))
    assert len(sent) == 3 * STEPS, "natural, robust, and the ascent of AWP"


def test_by_data_equals_one_rank_without_batch_normalisation(
    done: Any, tmp_path: Path, smooth: Make, distance: Any, metrics: Any
) -> None:
    serial = train(smooth(placement="by-data"), tmp_path / "run")
    assert 0 < distance(done["by_data"], serial.path) < 1e-9
    lines = [metrics(path) for path in (done["by_data"], serial.path)]
    assert len(lines[0]) == EPOCHS
    for found, wanted in zip(*lines, strict=True):
        assert found == pytest.approx(wanted, abs=1e-9)


def test_partners_of_mixup_are_found_on_all_ranks(done: Any, tmp_path: Path, smooth: Make, distance: Any) -> None:
    serial = train(interpolated(smooth), tmp_path / "run")
    assert 0 < distance(done["mixup"], serial.path) < 1e-9


def test_the_first_gradient_agrees_in_float32(done: Any, tiny: Make, worker: Any) -> None:
    experiment = replace(tiny(), model=worker.PlainNet())
    data = experiment.data.load(None)
    policy = experiment.method.policies()["robust"]
    learner = Learner("robust", policy, experiment.model.build(data.shape, len(data.classes), experiment.seed))
    feed = Feed(experiment.method.streams()["robust"], data.train, 0)
    now = Now(1, 0, 1, feed.steps_per_epoch, 0)
    learner.descend(policy.objective, feed.batch(now), now)
    found, _ = read_tensors(done["gradients"])
    for name, parameter in learner.network.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-4, rtol=1e-4)
